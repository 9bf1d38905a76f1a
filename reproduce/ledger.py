"""The ledger: one folder in results/runs/ for each finished run, with its record and the files that prove it.

record.json is written once, after the other files are in place. So a folder with a record.json is a finished run and
never changes.
"""
import contextlib
import dataclasses
import json
import re
import shutil
import statistics
import tempfile
from pathlib import Path

from engine import old_forms, runlog
from engine.experiment import Result
from support import ROOT, json_files
from support.errors import InputError
from support.files import content, regular, replacing, sha256, writing
from support.json_files import OBJECT
from support.lock import locked

from . import evaluations
from .record import EVIDENCE, Record, completed

RESULTS = ROOT / "results"
RECORD = "record.json"
WEIGHTS = ("last.params", "best.params")  # they stay in the run's folder; the record has their checksums
NAMES_OF_DATA = json.loads((RESULTS / "data.json").read_text(encoding="utf-8"))  # by checksum


def make(folder):
    """The Record of the finished run in `folder`. InputError if it has not ended or its files do not agree."""
    folder = Path(folder)
    advice = "name the folder of a finished run, with its own files"
    found = json_files.read(folder / "result.json", OBJECT, advice)
    try:
        if "format" not in found:
            found = old_forms.result(found, json_files.read(folder / "args.json", OBJECT, advice),
                                     _resumed(folder / "train.log"), runlog.gpu_names())
        result = completed(Result.from_json(found))
        files = {name: sha256(folder / name) for name in (*EVIDENCE, *WEIGHTS)
                 if name in EVIDENCE or (folder / name).exists()}
        wrong = _difference(result, _of_metrics(folder / "metrics.jsonl"))
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; {advice}") from None
    except InputError as error:
        raise InputError(f"{folder} is not the folder of a finished run ({error}); {advice}") from None
    if wrong:
        raise InputError(f"{folder}: metrics.jsonl and result.json are not of the same run ({wrong}); restore the "
                         "run's own files")
    return Record(result, files)


def _of_metrics(path):
    """The facts of metrics.jsonl, under the names of a Result; the scores are on the images scored each epoch.

    InputError if the file cannot be read or has no epoch.
    """
    lines = runlog.read_metrics(path)
    if not lines:
        raise InputError(f"{path} has no epoch; restore the run's own file")

    def score(line):
        return {"epoch": line["epoch"], "accuracy": line["val_accuracy"], "top5": line["val_top5"],
                "loss": line["val_loss"], "images": line["val_images"]}
    return {"last": score(lines[-1]), "best": score(max(lines, key=lambda line: line["val_accuracy"])),  # the first one
            "epochs": len(lines), "seconds": sum(line["seconds"] for line in lines),
            "train_images_per_second": statistics.median_high(line["train_images_per_second"] for line in lines)}


def _difference(result, metrics):
    """The first number in which a Result differs from the metrics, in words; None if they agree."""
    chosen = result.held_out or {"last": result.last, "best": result.best}
    experiment = result.experiment
    if result.chosen_on == "held-out" and result.held_out is None:  # the first form of records left them out
        metrics = {**metrics, **{which: {"epoch": metrics[which]["epoch"]} for which in chosen}}
    return difference({**{which: vars(score) for which, score in chosen.items()}, "seconds": result.seconds,
                       "epochs": experiment.recipe.epochs - experiment.first_epoch,
                       "train_images_per_second": result.train_images_per_second}, metrics)


def _of_log(path):
    """{'last': accuracy, 'best': accuracy} on the test images, at the end of a run with held-out images."""
    text = content(path).decode("utf-8", "replace")
    return {name: 1 - float(error) for name, error in
            re.findall(r"test images with the weights of the (last|best) epoch: err-top1=([01]\.\d+) ", text)}


def difference(record, evidence, place=""):
    """The first number in which a record differs from the evidence, in words; None if they agree."""
    for name, found in evidence.items():
        if isinstance(found, dict):
            wrong = difference(record.get(name) or {}, found, f"{place}{name}.")
            if wrong:
                return wrong
        elif record.get(name) != found:
            return f"{place}{name} is {record.get(name)} and not {found}"
    return None


def _against_evidence(record, folder):
    """The first difference of a record from the files in its folder, in words; None if they agree."""
    for name in EVIDENCE:
        if sha256(folder / name) != record.files[name]:
            return f"{name} does not have the checksum in the record"
    wrong = _difference(record.result, _of_metrics(folder / "metrics.jsonl"))
    if wrong is None and record.result.chosen_on == "held-out":  # only the log has the scores on the test images
        for which, accuracy in _of_log(folder / "train.log").items():
            own = getattr(record.result, which).accuracy
            if abs(own - accuracy) > 1e-6:  # it has six digits
                return f"{which}.accuracy is {own} and not {accuracy:.6f}"
    return wrong


def _resumed(path):
    """How often the run of this log was resumed; later forms of a Result count it themselves."""
    with open(path, encoding="utf-8", errors="replace", opener=regular) as file:
        return sum(" going on from " in line for line in file)


def folder_of(name, results=RESULTS):
    """The folder of a record and its evidence."""
    return Path(results) / "runs" / name


def require_writable(results=RESULTS):
    """InputError unless this folder can take records. Called before days of training, not after."""
    with writing(results, "free space, or give other --results"):
        for folder in (Path(results) / "runs", Path(results)):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass


def recorded(record, folder, results=RESULTS):
    """The ledger's record of the run in `folder`; None without one.

    record: the result of `make(folder)`. Raises InputError if another run has its place.
    """
    place = folder_of(record.id, results)
    if not (place / RECORD).exists():
        return None
    kept = read_record(place)
    if kept.files["metrics.jsonl"] != record.files["metrics.jsonl"]:
        raise InputError(f"{place} already holds the record of another run, which stays; to put {folder} in its place, "
                         f"remove {place} first")
    return kept


def add(folder, results=RESULTS, beside=()):
    """Put the finished run in `folder` into the ledger and return its record. An existing record does not change.

    beside: more files for the record's folder. Raises InputError, and leaves the ledger unchanged, if the run has not
    ended, or if another run of the same cell, data and seed is there already.
    """
    record, results = make(folder), Path(results)
    place = folder_of(record.id, results)
    with contextlib.ExitStack() as held:
        held.enter_context(writing(place, "free space or give other --results"))
        results.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(results / "lock"))  # two may add the same run at once
        kept = recorded(record, folder, results)
        try:
            place.mkdir(parents=True, exist_ok=True)
            for file in (*(() if kept else (Path(folder) / name for name in EVIDENCE)), *beside):
                with replacing(place / file.name) as temporary:
                    shutil.copyfile(file, temporary)
            if kept is None:
                json_files.write(place / RECORD, record.as_json())  # last, because it means that the rest is whole
        except BaseException:
            if kept is None:
                shutil.rmtree(place, ignore_errors=True)
            raise
    return kept or record


def read(results=RESULTS):
    """All records, sorted by their ids. InputError for one that `read_record` refuses."""
    return [read_record(path.parent) for path in sorted((Path(results) / "runs").glob(f"*/{RECORD}"))]


def read_record(folder):
    """The record in its folder. InputError if it cannot be read, is not sound, has another format, or has other numbers
    than the evidence in its folder."""
    path = Path(folder) / RECORD
    found = json_files.read(path, OBJECT, "restore it")
    try:
        record = Record.from_json(found)
    except InputError as error:
        raise InputError(f"{path} is not a sound record: {error}; restore it") from None
    if record.id != path.parent.name:
        raise InputError(f"{path} is the record of {record.id} under another name; restore it")
    try:
        wrong = _against_evidence(record, path.parent)
    except OSError as error:
        wrong = f"{error.filename}: {error.strerror}"
    if wrong is not None:
        raise InputError(f"{path} does not agree with the files in its folder: {wrong}; restore the folder")
    return dataclasses.replace(record, right=evaluations.right_of(folder, record.result))


def data_label(data):
    """A label for the data of a record: 'official', a name from results/data.json, or the kind of other data."""
    return "official" if data["official"] else NAMES_OF_DATA.get(data["sha256"], data["variant"])
