"""Put a finished run into the repository: its record into the ledger, its weights into params/ and the manifest."""
import contextlib
import dataclasses
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

import evaluate
from engine import checkpoint
from engine.data import cifar
from engine.data.cifar import SAMPLE
from engine.folders import HISTORY
from model import weights
from support import ROOT, json_files
from support.errors import InputError
from support.files import expanded
from support.json_files import COUNT, NOTHING, SHARE, TEXT, Kind
from support.lock import locked

from . import evaluations, grid, ledger

MANIFEST = ROOT / "params" / "manifest.json"


def described(record):
    """What the manifest says about a record's weights; all else is in the record."""
    run = record.experiment
    return {"model": run.model, "arguments": run.net, "dataset": run.dataset, "label_mode": run.label_mode}


def _in_results(value):
    path = PurePosixPath(value if TEXT.holds(value) else "/")
    return path.parts[:1] == ("results",) and len(path.parts) > 1 and ".." not in path.parts


# The shapes of a manifest's entries, as this module needs them. Earlier ones of ours repeat more of the record.
_ANY = {**weights.ENTRY, "name": TEXT, "urls": [TEXT], "size": (NOTHING, COUNT), "dataset": TEXT,
        "label_mode": (NOTHING, TEXT)}
OURS = {**_ANY, "record": Kind("a folder below results/", _in_results)}
THEIRS = {**_ANY, "author": TEXT, "published": {
    "top1_error": SHARE, "top5_error": SHARE, "epoch": COUNT, "epochs": COUNT, "images": COUNT, "log": TEXT,
    "last": {"top1_error": SHARE, "top5_error": SHARE}}}


def _found(run, data_dir):
    """The folder of a finished run, its Record and the folder of its data (None: the usual place)."""
    folder = expanded(run) if expanded(run).is_dir() else grid.WORK / run
    if data_dir is None and (folder / "data").is_dir():
        data_dir = folder / "data"
    return folder, ledger.make(folder), data_dir


def _evaluated(scores, scratch, folder):
    """The files that stand beside a record: the evaluations, written into `scratch`, and the run's picture."""
    json_files.write(scratch / evaluations.FILE, scores)
    return [path for path in (scratch / evaluations.FILE, folder / HISTORY) if path.exists()]


def record(run, data_dir=None):
    """Put a finished run into the ledger, without its weights. Returns a sentence.

    Arguments and errors as in `publish`; the file that is evaluated is the run's own last.params.
    """
    folder, made, data_dir = _found(run, data_dir)
    scores = scores_of(folder / "last.params", made, data_dir)
    with tempfile.TemporaryDirectory() as scratch:
        ledger.add(folder, ledger.RESULTS, _evaluated(scores, Path(scratch), folder))
    return f"{made.id}: accuracy {scores[0]['top1']:.4f} as in the run's log"


def publish(run, name=None, data_dir=None, replace=False):
    """Publish the last epoch of a finished run. Returns a sentence.

    run: its folder, or the name of a folder in runs/grid/. name: of the entry, by default from net, b and data.
    replace: allow a name that another entry has. The file to publish is evaluated again on the run's data (data_dir; by
    default the run's own or the usual place), where it must reach the run's accuracy, and on the sample of CIFAR-10 in
    this repository. Only then the run goes into the ledger, if it is not there yet, and the file into params/. Raises
    InputError, and changes nothing, if the run has not ended, its score differs or the name is taken.
    """
    folder, record, data_dir = _found(run, data_dir)
    name = name or default_name(record)
    if not re.fullmatch(r"[a-z0-9_-][a-z0-9_.-]*", name):
        raise InputError(f"--name {name!r}: use small letters, digits, '_', '-' and '.'; '.' cannot be the first")
    last = folder / "last.params"
    file = MANIFEST.parent / f"{name}.params"
    ledger.require_writable(ledger.RESULTS)
    try:
        with locked(MANIFEST.with_name("manifest.json.lock"), waiting="waiting for process {owner}, which publishes"), \
                _scratch(MANIFEST.parent) as scratch:
            others = _without(name, file, replace)
            record = ledger.recorded(record, folder, ledger.RESULTS) or record
            if not last.exists() or ledger.sha256(last) != record.files.get("last.params"):
                raise InputError(f"{last} does not have the checksum in the ledger; restore the run's own file")
            place = ledger.folder_of(record.id, ledger.RESULTS)
            # Without the state for a resumed run and the facts about this machine; the record has the command.
            candidate, saved = scratch / file.name, checkpoint.read(last)
            checkpoint.save(candidate, checkpoint.weights(last), dataclasses.replace(
                saved, experiment=record.experiment, state=None, command=""))
            scores = scores_of(candidate, record, data_dir)
            entry = {
                "name": name, "file": file.name, "sha256": scores[0]["sha256"], "size": candidate.stat().st_size,
                "urls": [], **described(record), "record": str(place.relative_to(ROOT)),
            }
            manifest = scratch / MANIFEST.name
            json_files.write(manifest, {"models": sorted([*others, entry], key=lambda entry: entry["name"])})
            ledger.add(folder, ledger.RESULTS, _evaluated(scores, scratch, folder))
            _put(candidate, file, manifest)
    except OSError as error:
        raise InputError(f"{MANIFEST.parent} cannot be written: {error.strerror}; free space there") from error
    return f"{name}: accuracy {scores[0]['top1']:.4f} as in the ledger, params/{file.name} ({entry['size']:,} bytes)"


@contextlib.contextmanager
def _scratch(folder):
    """A folder within `folder` for files that are not published yet. First removes the folders of killed publishers."""
    for left in folder.glob(".publish-*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".publish-") as scratch:
        yield Path(scratch)


def _put(candidate, file, manifest):
    """Move the weights and the manifest to their places, both or neither."""
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
    """The manifest's entries except those with this name or file; InputError if there are any without replace."""
    entries = read_manifest() if MANIFEST.exists() else []
    taken = [entry for entry in entries if name == entry["name"] or file.name == entry["file"]]
    if not replace and (taken or file.exists()):
        holds = taken[0].get("record") or taken[0]["author"] if taken else "a file that the manifest does not list"
        raise InputError(f"the name {name} is taken, by {holds}; give --name NEW, or --replace to replace it")
    return [entry for entry in entries if entry not in taken]


def scores_of(file, record, data_dir):
    """The evaluations of a run's file: on the run's data, where it must reach the run's score, and on the sample."""
    scores = [score(file, data_dir)]
    last = record.result.last
    if (scores[0]["top1"], scores[0]["images"]) != (last.accuracy, last.images):
        raise InputError(f"{record.id} scores {scores[0]['top1']} on {data_dir or 'the data in the usual place'}, "
                         f"but its last epoch scored {last.accuracy}: give the run's own data with --data-dir")
    if record.experiment.dataset == "cifar10" and scores[0]["data_sha256"] != \
            cifar.load("cifar10", SAMPLE).provenance["sha256"]:
        scores.append(score(file, SAMPLE))
    return scores


def default_name(record):
    """The name of a net, its b and what it was trained on: atac_resnet20_v2_b1_cifar10."""
    run = record.experiment
    replaced = run.net.get("replaced_sites")
    sites = "" if replaced is None else f"_k{replaced}"
    return f"{run.model}_b{run.blocks}{sites}_{run.data_name.replace('-', '_')}"


def read_manifest():
    """The entries of params/manifest.json; InputError unless each has the form of one of ours or of others."""
    entries = weights.read_manifest(MANIFEST)
    for place, entry in enumerate(entries):
        wrong = json_files.problem(entry, OURS if is_ours(entry) else THEIRS, f"models[{place}]")
        if wrong:
            raise InputError(f"{MANIFEST} cannot be used: {wrong}; {weights.RESTORE}")
    return entries


def folder_of(entry):
    """The folder of the record of one of our entries."""
    return ROOT / entry["record"]


def record_of(entry):
    """The ledger's record of one of our entries. InputError if the entry, or its score on the run's data, differs."""
    record = ledger.read_record(folder_of(entry))
    wrong = ledger.difference(entry, described(record))
    for evaluation in evaluations.read(folder_of(entry)):
        if evaluation["data_sha256"] == record.result.data["sha256"]:
            wrong = wrong or ledger.difference(evaluation, {
                "sha256": entry["sha256"], "top1": record.result.last.accuracy, "images": record.result.last.images})
    if wrong:
        raise InputError(f"{entry['name']} in {MANIFEST} does not agree with its record in {entry['record']}: {wrong}; "
                         "restore them")
    return record


def is_ours(entry):
    """Whether weights are from a run in the ledger; if not, the entry names their author and published scores."""
    return "record" in entry


def score(file, data_dir):
    """The record of `evaluate.py --json` for a file, on the test images in a folder (None: the usual place)."""
    return evaluate.record_of("--params", str(file), "--gpus", "",
                              *([] if data_dir is None else ["--data-dir", str(data_dir)]))
