"""Put a finished run's weights into the repository: a file in params/ and an entry in params/manifest.json."""
import contextlib
import dataclasses
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

import evaluate
from engine import checkpoint, runlog
from engine.data import cifar
from model import weights
from support import ROOT, json_files
from support.errors import InputError
from support.files import expanded
from support.json_files import COUNT, FLAG, NOTHING, SHARE, SOME, TEXT, Kind
from support.lock import locked

from . import ledger, runner

MANIFEST = ROOT / "params" / "manifest.json"
SAMPLE = ROOT / "data" / "cifar10-sample"  # real CIFAR-10 that everyone has
EVALUATIONS = "evaluations.json"  # in the record's folder: what the published file scores, on which data


def shared(record):
    """What the manifest repeats from a record, so that it says alone what a file is."""
    run, result = record.experiment, record.result
    return {"model": run.model, "arguments": run.net, "dataset": run.dataset, "label_mode": run.label_mode,
            "recipe": run.as_json()["recipe"], "seed": run.seed, "chosen_on": result.chosen_on,
            "last": vars(result.last), "best": vars(result.best), "git_revision": result.environment["git_revision"],
            "data": {name: result.data[name] for name in ("variant", "sha256", "official")},
            "log_sha256": record.files["train.log"]}


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


def publish(run, name=None, data_dir=None, replace=False):
    """Publish the last epoch of a finished run. Returns a sentence.

    run: its folder, or the name of one in runs/grid/. name: of the entry, by default net, b and data; replace: take a
    name that another entry has. The weights are evaluated again, from the very file that is published, on the run's
    data (data_dir; by default what the run was given, or the usual place), which must give the run's own accuracy; and
    on the sample of CIFAR-10 in this repository. Only then anything is written: the run goes into the ledger where it
    is not in it yet, and the file into params/. Raises InputError, and leaves everything as it was, where the run has
    not ended, its score is another one or the name is taken.
    """
    folder = expanded(run) if expanded(run).is_dir() else runner.WORK / run
    record = ledger.make(folder)
    name = name or default_name(record)
    if not re.fullmatch(r"[a-z0-9_-][a-z0-9_.-]*", name):
        raise InputError(f"--name {name!r}: use small letters, digits, '_', '-' and '.', which is not the first")
    last = folder / "last.params"
    if data_dir is None and (folder / "data").is_dir():
        data_dir = folder / "data"

    file = MANIFEST.parent / f"{name}.params"
    ledger.require_writable(ledger.RESULTS)
    try:
        with locked(MANIFEST.with_name("manifest.json.lock"), waiting="waiting for process {owner}, which publishes"), \
                _scratch(MANIFEST.parent) as scratch:
            others = _without(name, file, replace)
            record = ledger.recorded(record, folder, ledger.RESULTS) or record
            if not last.exists() or ledger.sha256(last) != record.files.get("last.params"):
                raise InputError(f"{last} is not the file whose checksum the ledger has; put the run's own back")
            place = ledger.folder_of(record.id, ledger.RESULTS)
            candidate = _candidate(record, last, scratch / file.name)
            scores = _scores(candidate, record, data_dir)
            entry = {
                "name": name, "file": file.name, "sha256": scores[0]["sha256"], "size": candidate.stat().st_size,
                "urls": [], **shared(record), "record": _place(place), "log": _place(place / "train.log"),
            }
            manifest, evaluations = scratch / MANIFEST.name, scratch / EVALUATIONS
            runlog.write_json(manifest, {"models": sorted([*others, entry], key=lambda entry: entry["name"])})
            runlog.write_json(evaluations, scores)
            pictures = [picture for picture in (folder / "history.png",) if picture.exists()]
            ledger.add(folder, ledger.RESULTS, [evaluations, *pictures])
            _put(candidate, file, manifest)
    except OSError as error:
        raise InputError(f"{MANIFEST.parent} cannot be written: {error.strerror}; make room there") from error
    return (f"{name}: accuracy {scores[0]['top1']:.4f} as in the ledger, params/{file.name} ({entry['size']:,} bytes)")


@contextlib.contextmanager
def _scratch(folder):
    """A folder in a folder for what is not yet published; what a killed publisher has left of its own goes first."""
    for left in folder.glob(".publish-*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".publish-") as scratch:
        yield Path(scratch)


def _put(candidate, file, manifest):
    """Move the weights and the manifest to their places, both or none."""
    former = candidate.with_name("former")
    if file.exists():
        file.replace(former)
    try:
        candidate.replace(file)
        manifest.replace(MANIFEST)
    except OSError:
        file.unlink(missing_ok=True)
        if former.exists():
            former.replace(file)
        raise


def _without(name, file, replace):
    """The manifest's entries except the one that a name, or its file, replaces; InputError where it may not."""
    entries = read_manifest() if MANIFEST.exists() else []
    taken = [entry for entry in entries if name == entry["name"] or file.name == entry["file"]]
    if not replace and (taken or file.exists()):
        holds = "a file that the manifest does not list"
        if taken:
            score = taken[0]["last"]["accuracy"] if is_ours(taken[0]) else 1 - taken[0]["published"]["top1_error"]
            holds = f"{score:.4f} ({taken[0].get('record') or taken[0]['author']})"
        raise InputError(f"the name {name} is taken, it holds {holds}; give --name NEW, or --replace to replace it")
    return [entry for entry in entries if entry not in taken]


def _candidate(record, last, file):
    """Write a run's last weights to file, for publication; returns file."""
    # Without what is for a resumed run, or about this machine; the record has the command.
    saved = dataclasses.replace(checkpoint.read(last), experiment=record.experiment, state=None, command="")
    checkpoint.save(file, checkpoint.weights(last), saved)  # half the size: nobody trains on from here
    return file


def _scores(file, record, data_dir):
    """The evaluations of a file: on its run's data, where it must have the run's score, and on the sample."""
    scores = [score(file, data_dir)]
    last = record.result.last
    if (scores[0]["top1"], scores[0]["images"]) != (last.accuracy, last.images):
        raise InputError(f"{record.id} scores {scores[0]['top1']} on {data_dir or 'the data in the usual place'}, "
                         f"but its own last epoch has {last.accuracy}: is that the run's data?")
    if record.experiment.dataset == "cifar10" and scores[0]["data_sha256"] != sample_digest():
        scores.append(score(file, SAMPLE))
    return scores


def _place(path):
    """A path as the manifest writes it, from the repository's root."""
    return str(path.relative_to(ROOT) if ROOT in path.parents else path)


def default_name(record):
    """The name of a net, its b and what it was trained on: atac_resnet20_v2_b1_cifar10."""
    run, net = record.experiment, record.experiment.net
    replaced = net.get("replaced_sites")
    sites = "" if replaced is None else f"_k{replaced}"
    return f"{run.model}_b{net['blocks']}{sites}_{run.data_name.replace('-', '_')}"


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


def record_of(entry):
    """The ledger's record of an entry of ours. InputError where the entry, or a score on the run's data, is not its."""
    record = ledger.read_record(ROOT / entry["record"])
    wrong = ledger.difference(entry, shared(record))
    for evaluation in evaluations(entry):
        if evaluation["data_sha256"] == record.result.data["sha256"]:
            wrong = wrong or ledger.difference(evaluation, {
                "sha256": entry["sha256"], "top1": record.result.last.accuracy, "images": record.result.last.images})
    if wrong:
        raise InputError(f"{entry['name']} in {MANIFEST} does not agree with its record in {entry['record']}: {wrong}; "
                         "restore them")
    return record


def is_ours(entry):
    """Whether weights are of a run in the ledger; if not, the entry says whose they are and what they published."""
    return "record" in entry


def sample_digest():
    """The checksum of the sample's images and labels, as results have it."""
    return cifar.load("cifar10", SAMPLE).provenance["sha256"]


def score(file, data_dir):
    """What `evaluate.py --json` says of a file on the test images in a folder (None: the usual place)."""
    return evaluate.record_of("--params", str(file), "--gpus", "",
                              *([] if data_dir is None else ["--data-dir", str(data_dir)]))
