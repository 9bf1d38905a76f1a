"""Put a finished run's weights into the repository: a file in params/ and an entry in params/manifest.json."""
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

from engine import checkpoint, cifar, runlog
from model import get_model, load_params, weights
from support import json_files
from support.errors import InputError
from support.files import expanded
from support.json_files import COUNT, FLAG, NOTHING, SHARE, SOME, TEXT, Kind
from support.lock import locked

from . import ledger, runner

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "params" / "manifest.json"
SAMPLE = ROOT / "data" / "cifar10-sample"  # real CIFAR-10 that everyone has
EVALUATIONS = "evaluations.json"  # in the record's folder: what the published file scores, on which data
# Fields that the manifest repeats from the record, so that it says alone what a file is.
SHARED = ("model", "arguments", "dataset", "label_mode", "recipe", "seed", "chosen_on", "last", "best", "git_revision")


def _in_results(value):
    path = PurePosixPath(value if TEXT.holds(value) else "/")
    return path.parts[:1] == ("results",) and len(path.parts) > 1 and ".." not in path.parts


# The forms of a manifest's entries, for all that is done with them here.
_ANY = {**weights.ENTRY, "name": TEXT, "urls": [TEXT], "size": (NOTHING, COUNT), "dataset": TEXT,
        "label_mode": (NOTHING, TEXT)}
OURS = {**_ANY, "record": Kind("a folder below results/", _in_results), "recipe": {"epochs": SOME},
        "last": {"accuracy": SHARE}, "best": {"accuracy": SHARE, "epoch": COUNT},
        "data": {"sha256": TEXT, "variant": TEXT, "official": FLAG}}
THEIRS = {**_ANY, "author": TEXT, "published": {
    "top1_error": SHARE, "top5_error": SHARE, "epoch": COUNT, "epochs": COUNT, "images": COUNT, "log": TEXT,
    "last": {"top1_error": SHARE, "top5_error": SHARE}}}
EVALUATION = {"data_sha256": TEXT, "data": TEXT, "images": SOME, "top1": SHARE}


def publish(run, name=None, data_dir=None):
    """Publish the last epoch of a finished run. Returns a sentence.

    run: its folder, or the name of one in runs/grid/. name: of the entry, by default net, b and data. The run is added
    to the ledger where it is not in it yet. The weights are evaluated again, from the very file that is published, on
    the run's data (data_dir; by default what the run was given, or the usual place), which must give the accuracy in
    the ledger; and on the sample of CIFAR-10 in this repository. Raises InputError where they disagree, or when the
    run has not ended.
    """
    folder = expanded(run) if expanded(run).is_dir() else runner.WORK / run
    record = ledger.add(folder, ledger.RESULTS)
    name = name or default_name(record)
    if not re.fullmatch(r"[a-z0-9_-][a-z0-9_.-]*", name):
        raise InputError(f"--name {name!r}: use small letters, digits, '_', '-' and '.', which is not the first")
    last = folder / "last.params"
    if not last.exists() or ledger.sha256(last) != record["files"].get("last.params"):
        raise InputError(f"{last} is not the file whose checksum the ledger has; put the run's own back")
    if data_dir is None and (folder / "data").is_dir():
        data_dir = folder / "data"

    net = load_params(get_model(record["model"], **record["arguments"]), last)
    settings = checkpoint.read_settings(last)
    for machine in ("state", "command"):  # of a run that has ended; the record has the command
        settings.pop(machine, None)
    settings["arguments"] = record["arguments"]
    file = MANIFEST.parent / f"{name}.params"
    place = ledger.folder_of(record["id"], ledger.RESULTS)
    with tempfile.TemporaryDirectory(dir=MANIFEST.parent) as scratch:
        # Without the optimizer's state: half the size, and nobody trains on from here.
        candidate = Path(scratch) / file.name
        checkpoint.save(candidate, net, settings)
        scores = [score(candidate, data_dir)]
        if (scores[0]["top1"], scores[0]["images"]) != (record["last"]["accuracy"], record["last"]["images"]):
            raise InputError(f"{run} scores {scores[0]['top1']} on {data_dir or 'the data in the usual place'}, but "
                             f"the ledger has {record['last']['accuracy']}: is that the run's data?")
        if record["dataset"] == "cifar10" and scores[0]["data_sha256"] != sample_digest():
            scores.append(score(candidate, SAMPLE))
        with locked(MANIFEST.with_name("manifest.json.lock")):  # the file and its entry belong together
            if (folder / "history.png").exists():
                shutil.copyfile(folder / "history.png", place / "history.png")
            runlog.write_json(place / EVALUATIONS, scores)
            candidate.replace(file)
            entry = {
                "name": name, "file": file.name, "sha256": scores[0]["sha256"], "size": file.stat().st_size, "urls": [],
                **{key: record[key] for key in SHARED},
                "data": {key: record["data"][key] for key in ("variant", "sha256", "official")},
                "record": _place(place), "log": _place(place / "train.log"), "log_sha256": record["files"]["train.log"],
            }
            entries = [other for other in read_manifest() if other["name"] != name] if MANIFEST.exists() else []
            runlog.write_json(MANIFEST, {"models": sorted([*entries, entry], key=lambda entry: entry["name"])})
    return (f"{name}: accuracy {scores[0]['top1']:.4f} as in the ledger, params/{file.name} ({entry['size']:,} bytes)")


def _place(path):
    """A path as the manifest writes it, from the repository's root."""
    return str(path.relative_to(ROOT) if ROOT in path.parents else path)


def default_name(record):
    """The name of a net, its b and what it was trained on: atac_resnet20_v2_b1_cifar10."""
    task = record["dataset"] + (f"_{record['label_mode']}" if record["label_mode"] else "")
    replaced = record["arguments"].get("replaced_sites")
    sites = "" if replaced is None else f"_k{replaced}"
    return f"{record['model']}_b{record['arguments']['blocks']}{sites}_{task}"


def read_manifest():
    """The entries of params/manifest.json; InputError unless each has the form of one of ours or of others."""
    entries = weights.read_manifest(MANIFEST)
    for place, entry in enumerate(entries):
        wrong = json_files.problem(entry, OURS if is_ours(entry) else THEIRS, f"models[{place}]")
        if wrong:
            raise InputError(f"{MANIFEST} cannot be used: {wrong}; {weights.RESTORE}")
    return entries


def evaluations(entry):
    """What the file of an entry of ours scores, on each data on which it was evaluated; InputError without it."""
    return json_files.read(ROOT / entry["record"] / EVALUATIONS, [EVALUATION], weights.RESTORE)


def is_ours(entry):
    """Whether weights are of a run in the ledger; if not, the entry says whose they are and what they published."""
    return "record" in entry


def sample_digest():
    """The checksum of the sample's images and labels, as results have it."""
    return cifar.load("cifar10", SAMPLE).provenance["sha256"]


def score(file, data_dir):
    """What evaluate.py says of a file on the test images in a folder (None: the usual place), as its JSON line."""
    command = [str(ROOT / "evaluate.py"), "--params", str(file), "--gpus", ""]
    if data_dir is not None:
        command += ["--data-dir", str(data_dir)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise InputError(f"evaluate.py failed on {file} and {data_dir or 'the data in the usual place'}: {reason}")
    return json.loads(done.stdout.splitlines()[-1])
