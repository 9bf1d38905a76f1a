"""The ledger: one JSON record for each finished run, with the files that prove it beside it in results/runs/.

A record is written once, at the end of its run, after everything else of it is in place: a folder with a record.json is
a finished run, and nothing ever changes it.
"""
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine import runlog
from engine.recipe import CIFAR_PAPER, Recipe
from model import complete_arguments
from support import json_files
from support.errors import InputError
from support.files import content, regular, replacing, sha256
from support.json_files import (
    COUNT,
    FILE_NAME,
    FLAG,
    LINES,
    NOTHING,
    NUMBER,
    OBJECT,
    POSITIVE,
    SHA256,
    SHARE,
    SOME,
    TEXT,
)
from support.lock import locked

from . import grid

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
RECORD = "record.json"
EVIDENCE = ("metrics.jsonl", "train.log")  # copied beside the record
WEIGHTS = ("last.params", "best.params")  # stay in the run's folder; the record has their checksums
FORMAT = 1
NAMES_OF_DATA = json.loads((RESULTS / "data.json").read_text(encoding="utf-8"))  # by checksum

_BEST = {"epoch": COUNT, "accuracy": SHARE, "top5": SHARE, "loss": NUMBER}
SHAPE = {  # of a record; what the report reads and more
    "format": COUNT, "id": FILE_NAME, "cell": (NOTHING, TEXT), "model": TEXT, "arguments": OBJECT, "dataset": TEXT,
    "label_mode": (NOTHING, TEXT), "recipe": OBJECT, "epochs": SOME, "seed": COUNT, "devices": SOME,
    "started_from": (NOTHING, LINES), "val_split": COUNT,
    "data": {"variant": TEXT, "sha256": SHA256, "official": FLAG, "files": [OBJECT], "train_images": SOME,
             "test_images": SOME},
    "chosen_on": TEXT, "last": {**_BEST, "images": SOME}, "best": _BEST, "seconds": POSITIVE, "resumed": COUNT,
    "train_images_per_second": POSITIVE,
    "hardware": {"processor": TEXT, "threads": (NOTHING, TEXT), "contexts": TEXT, "gpus": [TEXT]},
    "versions": {TEXT: TEXT}, "git_revision": (NOTHING, TEXT), "command": LINES,
    "files": {"metrics.jsonl": SHA256, "train.log": SHA256},
}


def make(folder):
    """The record of the finished run in `folder`, from its args.json, result.json and files.

    Accuracies are of the test images. Where other images chose the best epoch (`chosen_on` is 'held-out'), they are
    those of the evaluation at the end. Raises InputError when the run has not ended or its files do not agree.
    """
    folder = Path(folder)
    result, settings = _json(folder / "result.json"), _json(folder / "args.json")
    try:
        last, best = result["last"], result["best"]
        if result["scored_on"] != "test":
            last = {"epoch": last["epoch"], **result["test_of_last"]}
            best = {"epoch": best["epoch"], **result["test_of_best"]}
        wrong = difference(result, _of_metrics(folder / "metrics.jsonl"))
        if wrong:
            raise InputError(f"{folder}: metrics.jsonl and result.json are not of the same run ({wrong}); put its own "
                             "files back")
        environment, files = result["environment"], settings["provenance"]["files"]
        record = {
            "format": FORMAT, "model": result["model"],
            "arguments": complete_arguments(result["model"], result["arguments"]),
            "dataset": result["dataset"], "label_mode": result["label_mode"],
            "recipe": result["recipe"], "epochs": result["epochs"], "seed": result["seed"],
            "devices": result["devices"], "started_from": result["started_from"], "val_split": result["val_split"],
            "data": {**{name: result["data"][name] for name in ("variant", "sha256", "official")}, "files": files,
                     "train_images": sum(file["images"] for file in files if not file["name"].startswith("test")),
                     "test_images": sum(file["images"] for file in files if file["name"].startswith("test"))},
            "chosen_on": result["scored_on"],
            "last": {name: last[name] for name in ("epoch", "accuracy", "top5", "loss", "images")},
            "best": {name: best[name] for name in ("epoch", "accuracy", "top5", "loss")},
            # Of an epoch that was interrupted, the seconds before the interruption are not in the sum.
            "seconds": result["seconds"], "resumed": _resumed(folder / "train.log"),
            "train_images_per_second": result["train_images_per_second"],
            "hardware": {"processor": environment["processor"], "threads": environment["threads"],
                         "contexts": settings["contexts"],
                         "gpus": gpu_names() if "gpu" in settings["contexts"] else []},
            "versions": {name: environment[name] for name in ("python", "mxnet", "numpy")},
            "git_revision": environment["git_revision"], "command": result["command"],
            "files": {name: sha256(folder / name) for name in (*EVIDENCE, *WEIGHTS) if (folder / name).exists()},
        }
    except (KeyError, TypeError, OSError) as error:
        raise InputError(f"{folder} is not the folder of a finished run: {error!r}; name one with its args.json, "
                         "result.json and metrics.jsonl") from error
    try:
        cell = cell_of(record)
        record = {"id": _name(record, cell), "cell": cell.key if cell else None, **record}
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}: its recipe or its data cannot be ({error}); put the run's own files "
                         f"back") from error
    return checked(record, folder)


def checked(record, source):
    """A record, or InputError unless every field is there, of its kind, and its name and cell are what they make."""
    wrong = json_files.problem(record, SHAPE)
    if wrong is None:
        try:
            cell = cell_of(record)
            if "blocks" in complete_arguments(record["model"], record["arguments"]):
                wrong = json_files.problem(record["arguments"], {"blocks": SOME}, "arguments")
            if wrong is None and (_name(record, cell), cell.key if cell else None) != (record["id"], record["cell"]):
                wrong = "its fields belong to another id or cell"
            if wrong is None and record["recipe"]["epochs"] != record["epochs"]:
                wrong = "its epochs are not those of its recipe"
        except (InputError, TypeError) as error:
            wrong = str(error)
    if wrong is not None:
        raise InputError(f"{source} is not a sound record: {wrong}; restore it")
    return record


def _of_metrics(path):
    """What metrics.jsonl says of its run, under the names of a record; the scores are of the images scored each epoch.

    InputError where it cannot be read or has no epoch.
    """
    lines = runlog.read_metrics(path)
    if not lines:
        raise InputError(f"{path} has no epoch; put the run's own back")

    def scores(line):
        return {"epoch": line["epoch"], "accuracy": line["val_accuracy"], "top5": line["val_top5"],
                "loss": line["val_loss"]}
    return {"epochs": len(lines), "last": {**scores(lines[-1]), "images": lines[-1]["val_images"]},
            "best": scores(max(lines, key=lambda line: line["val_accuracy"])),  # the first of equal ones
            "seconds": sum(line["seconds"] for line in lines),
            "train_images_per_second": sorted(line["train_images_per_second"] for line in lines)[len(lines) // 2]}


def _of_log(path):
    """{'last': accuracy, 'best': accuracy} of the test images at the end of a run that held images back."""
    text = content(path).decode("utf-8", "replace")
    return {name: 1 - float(error) for name, error in
            re.findall(r"test images with the weights of the (last|best) epoch: err-top1=([01]\.\d+) ", text)}


def difference(record, evidence, place=""):
    """The first number of the evidence that a record has otherwise, in words; None where they agree."""
    for name, found in evidence.items():
        if isinstance(found, dict):
            wrong = difference(record.get(name) or {}, found, f"{place}{name}.")
            if wrong:
                return wrong
        elif record.get(name) != found:
            return f"{place}{name} is {record.get(name)} and not {found}"
    return None


def _against_evidence(record, folder):
    """What of a record's numbers is not what the files beside it say, in words; None where they agree."""
    for name in EVIDENCE:
        if sha256(folder / name) != record["files"][name]:
            return f"{name} is not the file whose checksum it has"
    found = _of_metrics(folder / "metrics.jsonl")
    if record["chosen_on"] != "test":  # then the metrics are of other images, and the log alone has the scores
        for which in ("last", "best"):
            found[which] = {"epoch": found[which]["epoch"]}
        logged = _of_log(folder / "train.log")
        for which, accuracy in logged.items():
            if abs(record[which]["accuracy"] - accuracy) > 1e-6:  # it has six digits
                return f"{which}.accuracy is {record[which]['accuracy']} and not {accuracy:.6f}"
    return difference(record, found)


def _resumed(path):
    """How often the run of this log was gone on with."""
    with open(path, encoding="utf-8", errors="replace", opener=regular) as file:
        return sum(" going on from " in line for line in file)


def _json(path):
    return json_files.read(path, OBJECT, "name the folder of a finished run, with its own files")


def cell_of(record):
    """The grid's cell that a record is a run of, or None: another net, recipe, global batch or start."""
    recipe = Recipe(**record["recipe"])
    if recipe != CIFAR_PAPER.scaled(recipe.epochs) or record["devices"] != 1 or record["started_from"]:
        return None
    for cell in grid.CELLS:
        if (cell.model, cell.task.dataset, cell.task.label_mode) \
                == (record["model"], record["dataset"], record["label_mode"]) \
                and complete_arguments(cell.model, cell.net) == record["arguments"]:
            return cell
    return None


def _name(record, cell):
    """The record's name; runs outside the grid are told apart by a digest of all that decides them."""
    data = record["data"]["sha256"]
    held = f"-v{record['val_split']}" if record["val_split"] else ""
    if cell is not None:
        return grid.Run(cell, record["epochs"], record["seed"]).name(data) + held
    decides = {name: record[name] for name in ("arguments", "recipe", "devices", "started_from")}
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
    labels = f"-{record['label_mode']}" if record["label_mode"] else ""
    return (f"{record['dataset']}{labels}-{record['model']}-{digest}_e{record['epochs']}_s{record['seed']}_"
            f"{data[:8]}{held}")


def gpu_names():
    """The kinds of GPU in this machine, as the driver names them; empty where it does not say."""
    try:
        answer = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True,
                                text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(set(filter(None, map(str.strip, answer.stdout.splitlines()))))


def folder_of(name, results=RESULTS):
    """Where a record and its evidence lie."""
    return Path(results) / "runs" / name


def require_writable(results=RESULTS):
    """InputError unless records can be put into this folder: to be known before days of training, not after."""
    try:
        for folder in (Path(results) / "runs", Path(results)):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise InputError(f"{results} cannot be written: {error.strerror}; make room there, or give other "
                         "--results") from error


def recorded(record, folder, results=RESULTS):
    """The record that the ledger has of the run in `folder`, None without one.

    record: what `make` makes of the folder. Raises InputError where another run has its place.
    """
    place = folder_of(record["id"], results)
    if not (place / RECORD).exists():
        return None
    kept = read_record(place)
    if kept["files"].get("metrics.jsonl") != record["files"]["metrics.jsonl"]:
        raise InputError(f"{folder} is another run of what {place} holds already; its record stays. Remove {place} "
                         "first if this run is to take its place")
    return kept


def add(folder, results=RESULTS, beside=()):
    """Put the finished run in `folder` into the ledger and return its record; one that is there stays as it is.

    beside: more files for the record's folder. Raises InputError when the run has not ended, or when another run of
    the same cell, data and seed is there already; the ledger then is as it was.
    """
    record, results = make(folder), Path(results)
    place = folder_of(record["id"], results)
    try:
        results.mkdir(parents=True, exist_ok=True)
        with locked(results / "lock"):  # two may add the same run at once
            kept = recorded(record, folder, results)
            try:
                place.mkdir(parents=True, exist_ok=True)
                for file in (*(() if kept else (Path(folder) / name for name in EVIDENCE)), *beside):
                    with replacing(place / file.name) as temporary:
                        shutil.copyfile(file, temporary)
                if kept is None:
                    runlog.write_json(place / RECORD, record)  # last: it says that the rest is whole
            except BaseException:
                if kept is None:
                    shutil.rmtree(place, ignore_errors=True)
                raise
    except OSError as error:
        raise InputError(f"{place} cannot be written: {error.strerror}; free space or give other --results") from error
    return kept or record


def read(results=RESULTS):
    """All records, sorted by their ids. InputError for one that `read_record` refuses."""
    return [read_record(path.parent) for path in sorted((Path(results) / "runs").glob(f"*/{RECORD}"))]


def read_record(folder):
    """The record in its folder. InputError for one that cannot be read, is not sound, has another format, or has other
    numbers than the evidence beside it."""
    path = Path(folder) / RECORD
    record = json_files.read(path, OBJECT, "restore it")
    if record.get("format") != FORMAT or record.get("id") != path.parent.name:
        raise InputError(f"{path} is not a record of format {FORMAT} under its own name; restore it")
    record = checked(record, path)
    try:
        wrong = _against_evidence(record, path.parent)
    except OSError as error:
        wrong = f"{error.filename}: {error.strerror}"
    if wrong is not None:
        raise InputError(f"{path} is not what the files beside it say: {wrong}; restore the folder")
    return record


def data_label(data):
    """What to call the data of a record: 'official', a name from results/data.json, or what is not official."""
    return "official" if data["official"] else NAMES_OF_DATA.get(data["sha256"], data["variant"])
