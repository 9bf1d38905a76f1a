"""The weights in params/: fetch those that are too large to ship, and hold every file to its manifest."""
import json
from pathlib import Path

from engine import cifar
from engine.download import fetch
from support.errors import InputError

from . import ledger, publish

TOLERANCE = 2  # images: another processor may round an undecided one the other way


def chosen(name):
    """The manifest entries that a name means; 'all' is every one. InputError listing the names for an unknown one."""
    entries = publish.read_manifest()
    found = [entry for entry in entries if name in ("all", entry["name"])]
    if not found and name != "all":
        raise InputError(f"there are no weights called {name!r}; there are "
                         f"{', '.join(entry['name'] for entry in entries) or 'none'}")
    return found


def state_of(entry):
    """'here', 'missing' or 'damaged'."""
    file = publish.MANIFEST.parent / entry["file"]
    if not file.is_file():
        return "missing"
    return "here" if ledger.sha256(file) == entry["sha256"] else "damaged"


def table():
    """The manifest as text, a line each."""
    return "\n".join(
        f"{entry['name']}: {entry['size']:,} bytes, {state_of(entry)}; {entry['dataset']}"
        + (f" ({entry['label_mode']} labels)" if entry["label_mode"] else "")
        + f", accuracy {entry['last']['accuracy']:.4f} after {entry['recipe']['epochs']} epochs"
        for entry in chosen("all")) or "params/manifest.json lists no weights"


def download(name, mirror=None):
    """Bring the weights called name, or 'all', to params/; those that are there and right stay. Prints a line each.

    mirror: address of a folder that has the files, tried in the place of the manifest's own addresses. Raises
    InputError when one of them cannot be had; the others are fetched all the same.
    """
    done, failed = [], []
    for entry in chosen(name):
        file = publish.MANIFEST.parent / Path(entry["file"]).name
        if state_of(entry) == "here":
            done.append(f"{entry['name']}: {file} is there already")
            continue
        urls = [f"{mirror.rstrip('/')}/{file.name}"] if mirror else entry["urls"]
        reasons = [] if urls else [f"{entry['name']} ships with the repository and has no address: restore {file} with "
                                   "git, or give a --mirror"]
        for url in urls:
            try:
                fetch(url, file, sha256=entry["sha256"], size=entry["size"], allow_http=True)
            except InputError as error:
                reasons.append(str(error))
            else:
                done.append(f"{entry['name']}: {file}, {entry['size']:,} bytes, from {url}")
                break
        else:
            failed.append("; ".join(reasons))
    for sentence in done:
        print(sentence)
    if failed:
        raise InputError("; ".join(failed))


def verify(data_dir=None):
    """Hold every shipped file to its checksum and, where its data is, to its score. Prints a line each.

    data_dir: a folder with the data; without it the usual place and the repository's sample are looked at. Returns
    the number of files that differ.
    """
    wrong = evaluated = 0
    entries = chosen("all")
    for entry in entries:
        try:
            sentence, scored = _verify(entry, data_dir)
        except InputError as error:
            wrong += 1
            sentence, scored = f"FAILED: {error}", False
        evaluated += scored
        print(f"{entry['name']}: {sentence}", flush=True)
    print(f"{len(entries)} files: {evaluated} evaluated, {len(entries) - evaluated - wrong} held to their checksums "
          f"only, {wrong} differ")
    return wrong


def _verify(entry, data_dir):
    """(sentence, whether the file was evaluated); InputError where it differs."""
    state = state_of(entry)
    if state == "missing" and entry["urls"]:
        return "not fetched (scripts/download_params.sh does it)", False
    if state != "here":
        raise InputError(f"params/{entry['file']} is {state}; restore it")
    record = json.loads((publish.ROOT / entry["record"] / publish.EVALUATIONS).read_text(encoding="utf-8"))
    for folder in [data_dir] if data_dir else [None, publish.SAMPLE]:
        try:
            data = cifar.load(entry["dataset"], folder, entry["label_mode"])
        except cifar.NotFound:
            continue
        for known in record:
            if known["data_sha256"] == data.provenance["sha256"]:
                again = publish.score(publish.MANIFEST.parent / entry["file"], folder)
                difference = round((again["top1"] - known["top1"]) * known["images"])
                if again["images"] != known["images"] or abs(difference) > TOLERANCE:
                    raise InputError(f"accuracy {again['top1']:.4f} on {again['images']:,} images, but "
                                     f"{known['top1']:.4f} on {known['images']:,} is recorded")
                return f"accuracy {again['top1']:.4f} on {again['images']:,} images, as recorded", True
    return "checksum right; not evaluated, for want of data on which its score is recorded (--data-dir)", False
