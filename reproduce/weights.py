"""The weights in params/: fetch those that are too large to ship, and check every file against its manifest."""
import collections
import re

from engine.data import cifar
from engine.data.download import fetch
from model.weights import intact
from support.errors import InputError
from support.files import expanded
from support.words import counted

from . import evaluations, publish

TOLERANCE = 2  # images: another processor may round a close decision the other way


def chosen(name):
    """The manifest entries of a name, or every entry for 'all'. InputError that lists the names for an unknown one."""
    entries = publish.read_manifest()
    found = [entry for entry in entries if name in ("all", entry["name"])]
    if not found and name != "all":
        raise InputError(f"there are no weights called {name!r}; known names: "
                         f"{', '.join(entry['name'] for entry in entries) or 'none'}")
    return found


def state_of(entry):
    """'here', 'missing' or 'damaged'."""
    file = publish.MANIFEST.parent / entry["file"]
    if not file.is_file():
        return "missing"
    return "here" if intact(file, entry) else "damaged"


def table():
    """The manifest as text, one line per entry."""
    def size(entry):
        return "size not published" if entry["size"] is None else f"{entry['size']:,} bytes"
    return "\n".join(f"{entry['name']}: {size(entry)}, {state_of(entry)}; for {entry['dataset']}"
                     for entry in chosen("all")) or "params/manifest.json lists no weights"


def download(name, mirror=None):
    """Fetch the weights called name, or 'all', to params/; sound files that are there stay. Prints one line per entry.

    mirror: address or path of a folder with the files, under their names here or at their origin, or of the one file.
    It replaces the manifest's own addresses. Raises InputError if one of them cannot be fetched; the others are fetched
    all the same.
    """
    failed = []
    for entry in chosen(name):
        file = publish.MANIFEST.parent / entry["file"]
        if state_of(entry) == "here":
            print(f"{entry['name']}: {file} is already there")
            continue
        urls = _mirrored(entry, mirror) if mirror else entry["urls"]
        reasons = [] if urls else [f"{entry['name']} ships with the repository and has no address: restore {file} with "
                                   "git, or give a --mirror"]
        for url in urls:
            try:
                fetch(url, file, sha256=entry["sha256"], size=entry["size"], git_blob=entry.get("git_blob"),
                      allow_http=bool(mirror))
            except InputError as error:
                reasons.append(str(error))
            else:
                print(f"{entry['name']}: {file}, {file.stat().st_size:,} bytes, from {url}")
                break
        else:
            failed.append("; ".join(reasons))
    if failed:
        raise InputError("; ".join(failed))


def _mirrored(entry, mirror):
    """The addresses at which a mirror may have an entry's file."""
    if not re.match(r"[a-z]+://", mirror):
        mirror = expanded(mirror).resolve().as_uri()
    if mirror.endswith(".params"):
        return [mirror]
    names = [entry["file"], *(url.rpartition("/")[2] for url in entry["urls"])]
    return [f"{mirror.rstrip('/')}/{name}" for name in dict.fromkeys(names)]


def verify(data_dir=None):
    """Check every file's checksum and, if its data is there, its score. Prints one line per file.

    data_dir: a folder with the data; without it the usual place and the repository's sample. Returns the number of
    files that differ.
    """
    entries = chosen("all")
    outcomes = collections.Counter()
    for entry in entries:
        try:
            sentence, outcome = _verify(entry, data_dir)
        except InputError as error:
            sentence, outcome = f"FAILED: {error}", "wrong"
        outcomes[outcome] += 1
        print(f"{entry['name']}: {sentence}", flush=True)
    absent = f"; {outcomes['absent']} not fetched" if outcomes["absent"] else ""
    print(f"{counted(len(entries), 'file')}: {outcomes['evaluated']} evaluated, {outcomes['checked']} checked by "
          f"checksum only, {outcomes['wrong']} differ{absent}")
    return outcomes["wrong"]


def _verify(entry, data_dir):
    """(sentence, 'evaluated', 'checked' or 'absent'); InputError if the file differs."""
    if publish.is_ours(entry):
        publish.record_of(entry)
    state = state_of(entry)
    if state == "missing" and entry["urls"]:
        return f"not fetched; fetch it with scripts/download_params.sh {entry['name']}", "absent"
    if state != "here":
        raise InputError(f"params/{entry['file']} is {state}; restore it")
    if not publish.is_ours(entry):
        return (f"checksum right; not evaluated; with {entry['dataset']} at hand, evaluate it with evaluate.py "
                f"--pretrained {entry['name']}", "checked")
    record = evaluations.read(publish.folder_of(entry))
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
                return f"accuracy {again['top1']:.4f} on {again['images']:,} images, as recorded", "evaluated"
    return "checksum right; not evaluated, because the data of its recorded scores is missing (--data-dir)", "checked"
