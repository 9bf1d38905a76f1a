"""From ImageNet's official archives to class folders: checked extraction, and the labels of the validation images."""
import contextlib
import io
import re
import shutil
import tarfile

from support.errors import InputError
from support.files import content, expanded

from .class_folders import listing
from .stages import check_space, watched

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLES = "ImageId,PredictionString"  # the first line of LOC_val_solution.csv

MAX_IMAGE = 1 << 26  # bytes; four times ImageNet's largest image
MAX_TEXT = 1 << 26  # bytes of a file in the development kit

_WORDNET_ID = re.compile(r"n\d{8}")
_CLASS_ARCHIVE = re.compile(r"(?:\./)?(n\d{8})\.tar")
_IMAGE = re.compile(r"(?:\./)?([A-Za-z0-9_-][A-Za-z0-9_.-]*\.(?:jpeg|jpg|png))", re.IGNORECASE)


@contextlib.contextmanager
def _opened(where, file=None, mode="r:"):
    """A tar archive: the path `where`, or an open file. Raises InputError if it is not one, or ends too early."""
    try:
        with tarfile.open(None if file else where, mode, file) as archive:
            yield archive
    # tarfile and gzip let ValueError and EOFError through for some broken files
    except (tarfile.TarError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is no whole archive ({error}): get it again") from None


def _members(archive, where, pattern):
    """[(first group of pattern, member)] of an archive; raises InputError if it holds other files than such."""
    found = []
    for member in archive:
        if member.isdir():
            continue
        match = pattern.fullmatch(member.name)
        if not member.isreg() or match is None:
            raise InputError(f"{where} holds {ascii(member.name)}, which does not belong in the official archive: "
                             "nothing was unpacked; get the official one")
        found.append((match.group(1), member))
    if not found:
        raise InputError(f"{where} is empty: get it again")
    return found


def _unpack(archive, member, path, where):
    """Write one plain image file of an archive to path."""
    if member.size > MAX_IMAGE:
        raise InputError(f"{where} ({member.name}): {member.size:,} bytes are more than any image of ImageNet has")
    content = archive.extractfile(member).read()
    if len(content) != member.size:
        raise InputError(f"{where} ends inside {member.name}: get it again")
    path.write_bytes(content)


def unpack_train(archive, folder):
    """Unpack the archive of class archives into folder/CLASS/*.JPEG; classes that are there already are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(archive) as outer:
        members = [(name, member) for name, member in _members(outer, archive, _CLASS_ARCHIVE)
                   if not (folder / name).is_dir()]
        check_space(folder, sum(member.size for _, member in members), f"unpacking {archive}")
        for name, member in watched(members, len(members), f"unpacking {archive.name} (classes)"):
            part = folder / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            where = f"{archive} ({member.name})"
            with _opened(where, outer.extractfile(member)) as inner:
                for file, image in _members(inner, where, _IMAGE):
                    _unpack(inner, image, part / file, where)
            part.rename(folder / name)


def unpack_val(archive, labels, folder):
    """Unpack the flat archive of validation images into folder/CLASS/*.JPEG; labels: from `read_labels`."""
    part = folder.with_name(folder.name + ".part")
    with _opened(archive) as opened:
        members = dict(_members(opened, archive, _IMAGE))
        labels = _class_of_each(members, labels, archive)
        for name in set(labels.values()):
            (part / name).mkdir(parents=True, exist_ok=True)
        there = {path: path.stat().st_size for path in part.glob("*/*")}
        left = {part / labels[name] / name: member for name, member in members.items()}
        left = {path: member for path, member in left.items() if there.get(path) != member.size}
        check_space(part, sum(member.size for member in left.values()), f"unpacking {archive}")
        for path, member in watched(left.items(), len(left), f"unpacking {archive.name}"):
            _unpack(opened, member, path, archive)
    part.rename(folder)


def sort_val(folder, labels):
    """Move the images that lie side by side in a folder into folder/CLASS; labels: from `read_labels`.

    After a stop, the next call finishes the work: images in their class already stay there.
    """
    here = listing(folder)
    before = [(name, label) for label in here.folders for name in listing(folder / label).images]
    labels = _class_of_each(here.images + [name for name, _ in before], labels, folder)
    flat = set(here.images)
    wrong = [name for name, label in before if labels[name] != label or name in flat]
    if wrong:
        raise InputError(f"{folder} has {len(wrong):,} image(s) in another class than their label's, or twice, "
                         f"{wrong[0]} first: give the labels that belong to it with --val-labels")
    for name in watched(here.images, len(here.images), f"sorting {folder}"):
        (folder / labels[name]).mkdir(exist_ok=True)
        (folder / name).rename(folder / labels[name] / name)


def _class_of_each(names, labels, where):
    """{name: class} of the images with these names, in the order of the names."""
    if isinstance(labels, dict):
        absent = next((name for name in names if name.rpartition(".")[0] not in labels), None)
        if absent is not None:
            raise InputError(f"{where} has {absent}, which --val-labels does not list: give the labels that belong to "
                             "it")
        return {name: labels[name.rpartition(".")[0]] for name in sorted(names)}
    if len(names) != len(labels):
        raise InputError(f"{where} has {len(names):,} images and there are {len(labels):,} labels: give the "
                         "labels that belong to it with --val-labels")
    return dict(zip(sorted(names), labels))


def read_labels(path, known=()):
    """Classes of the validation images: a list in the order of their names, or {name without extension: class}.

    path: a text file with a WordNet id, or a name in `known`, on each line; or the official development kit (.tar.gz),
    which has numbers and, in meta.mat, their meaning; or Kaggle's LOC_val_solution.csv, whose lines name the images.
    Raises InputError.
    """
    path = expanded(path)
    try:
        if path.is_file() and tarfile.is_tarfile(path):
            return _devkit_labels(path)
        lines = content(path).decode("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text file with a WordNet id on each line") from None
    lines = [line.strip() for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError(f"{path} is empty: it must have a WordNet id on each line")
    if lines[0] != KAGGLES:
        return [_label(path, number, line, known) for number, line in enumerate(lines, 1)]
    # ILSVRC2012_val_00000001,n01751748 111 108 334 321: a class and a box, repeated; an image has one class
    pairs = [line.partition(",") for line in lines[1:]]
    return {name: _label(path, number, boxes.partition(" ")[0], known)
            for number, (name, _, boxes) in enumerate(pairs, 2)}


def _label(path, number, text, known):
    """The class in a line of a file of labels. Raises InputError."""
    if text in known or _WORDNET_ID.fullmatch(text):
        return text
    if text.isdigit():
        raise InputError(f"{path}, line {number}: {text[:20]} is a number that only the development kit explains: give "
                         f"the kit itself, {DEVKIT}, with --val-labels")
    raise InputError(f"{path}, line {number}: {ascii(text[:40])} is no WordNet id such as n01440764")


def _devkit_labels(path):
    texts = {}
    with _opened(path, mode="r") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name in (GROUND_TRUTH, "meta.mat") and member.isreg() and member.size <= MAX_TEXT:
                texts[name] = archive.extractfile(member).read()
    for name in (GROUND_TRUTH, "meta.mat"):
        if name not in texts:
            raise InputError(f"{path} has no {name}: give the official {DEVKIT}")
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(texts["meta.mat"]), squeeze_me=True)["synsets"].reshape(-1)
        ids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except Exception as error:  # SciPy may raise anything for a broken file
        raise InputError(f"{path}: its meta.mat cannot be read ({' '.join(str(error).split())[:100]})") from None
    try:
        labels = [ids[int(line)] for line in texts[GROUND_TRUTH].split()]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {GROUND_TRUTH} has {ascii(error.args[0])[:60]}, which is no class of meta.mat"
                         ) from None
    if not labels or not all(_WORDNET_ID.fullmatch(label) for label in labels):
        raise InputError(f"{path}: {GROUND_TRUTH} and meta.mat give no WordNet ids")
    return labels
