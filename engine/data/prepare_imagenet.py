"""ImageNet's official archives, or folders of images, to record files, by MXNet's own im2rec.

    python -m engine.data.prepare_imagenet --data-dir DIR

    DIR/ILSVRC2012_img_train.tar   -> DIR/train/CLASS/*.JPEG -> DIR/rec/train.rec, .idx, .lst
    DIR/ILSVRC2012_img_val.tar     -> DIR/val/CLASS/*.JPEG   -> DIR/rec/val.rec, .idx, .lst
                                                                DIR/rec/synset.txt, the class names by label

Every stage writes under a name that ends in .part and renames what is whole, so that the same command, started again
after any stop, does not repeat a finished stage; of the training archive every class is one. The images are packed as
they are unless --resize is given: that is what the authors' recipe trains on, whose random crops are taken from the
full size. Images made smaller first are quicker to read, but the crops are of fewer pixels, compressed twice.

im2rec packs, under this program's eyes: by itself it takes the labels from the folders that it happens to meet,
leaves unreadable images out without an error, and waits for ever when its writer dies.
"""
import argparse
import contextlib
import fcntl
import functools
import importlib.util
import io
import json
import os
import random
import re
import shutil
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

from engine.cli.flags import Parser, number
from engine.cli.program import clean_up_at_interrupt, run_script
from engine.data import image_batches, imagenet, images
from engine.data.class_folders import classes, listing
from engine.data.class_names import NAMES_FILE, read_names, write_names
from engine.data.prefetch import ahead
from engine.data.records import Damaged, RecordFile
from engine.runlog import progress_bar
from support import runtime
from support.errors import InputError
from support.files import content, expanded, regular

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLES = "ImageId,PredictionString"  # the first line of LOC_val_solution.csv

MAX_IMAGE = 1 << 26  # bytes; the largest image of ImageNet has a quarter of that
MAX_TEXT = 1 << 26  # of a file of the development kit

SEED = 100  # of im2rec's own shuffling

_WORDNET_ID = re.compile(r"n\d{8}")
_CLASS_ARCHIVE = re.compile(r"(?:\./)?(n\d{8})\.tar")
_IMAGE = re.compile(r"(?:\./)?([A-Za-z0-9_-][A-Za-z0-9_.-]*\.(?:jpeg|jpg|png))", re.IGNORECASE)


# --- The official archives ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path, name=None, mode="r:"):
    """A tar archive, from a path or an open file; InputError where it is none, or ends too early."""
    where = str(path) if name is None else name
    try:
        with tarfile.open(path, mode) if name is None else tarfile.open(fileobj=path, mode=mode) as archive:
            yield archive
    # ValueError, EOFError: tarfile and gzip let them through for some broken files
    except (tarfile.TarError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is no whole archive ({error}): get it again") from None


def _members(archive, where, pattern):
    """[(first group of pattern, member)] of an archive that holds nothing but such plain files (and folders)."""
    found = []
    for member in archive:
        if member.isdir():
            continue
        match = pattern.fullmatch(member.name)
        if not member.isreg() or match is None:
            raise InputError(f"{where} holds {ascii(member.name)}, which does not belong into it: it is not the "
                             "official archive, and nothing was unpacked from it")
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


def _check_space(folder, needed, what):
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{what} takes {needed / 1e9:,.1f} GB and {folder} has {free / 1e9:,.1f} GB left: make room "
                         "or choose another --data-dir")


def unpack_train(archive, folder):
    """Unpack the archive of class archives into folder/CLASS/*.JPEG, without the classes that are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(archive) as outer:
        members = [(name, member) for name, member in _members(outer, archive, _CLASS_ARCHIVE)
                   if not (folder / name).is_dir()]
        _check_space(folder, sum(member.size for _, member in members), f"unpacking {archive}")
        for name, member in _counted(members, len(members), f"unpacking {archive.name} (classes)"):
            part = folder / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            where = f"{archive} ({member.name})"
            with _opened(outer.extractfile(member), where) as inner:
                for file, image in _members(inner, where, _IMAGE):
                    _unpack(inner, image, part / file, where)
            part.rename(folder / name)


def unpack_val(archive, labels, folder):
    """Unpack the flat archive of validation images into folder/CLASS/*.JPEG; labels: as `read_labels` gives them."""
    part = folder.with_name(folder.name + ".part")
    with _opened(archive) as opened:
        members = dict(_members(opened, archive, _IMAGE))
        labels = _class_of_each(members, labels, archive)
        for name in set(labels.values()):
            (part / name).mkdir(parents=True, exist_ok=True)
        there = {path.name: path.stat().st_size for path in part.glob("*/*")}
        _check_space(part, sum(member.size for name, member in members.items() if there.get(name) != member.size),
                     f"unpacking {archive}")
        for name, label in _counted(labels.items(), len(labels), f"unpacking {archive.name}"):
            path, member = part / label / name, members[name]
            if not path.is_file() or path.stat().st_size != member.size:
                _unpack(opened, member, path, archive)
    part.rename(folder)


def sort_val(folder, labels):
    """Move the images that lie side by side in a folder into folder/CLASS; labels: as `read_labels` gives them.

    A sorting that was stopped is finished by the next one: what is in its class already stays there.
    """
    here = listing(folder)
    before = [(name, label) for label in here.folders for name in listing(folder / label).images]
    labels = _class_of_each(here.images + [name for name, _ in before], labels, folder)
    flat = set(here.images)
    wrong = [name for name, label in before if labels[name] != label or name in flat]
    if wrong:
        raise InputError(f"{folder} has {len(wrong):,} image(s) in another class than their label's, or twice, "
                         f"{wrong[0]} first: give the labels that belong to it with --val-labels")
    for name in _counted(here.images, len(here.images), f"sorting {folder}"):
        (folder / labels[name]).mkdir(exist_ok=True)
        (folder / name).rename(folder / labels[name] / name)


def _class_of_each(names, labels, where):
    """{name: class} of the images with these names, in the order of the names."""
    if isinstance(labels, dict):
        absent = next((name for name in names if name.rpartition(".")[0] not in labels), None)
        if absent is not None:
            raise InputError(f"{where} has {absent}, of which --val-labels says nothing: give the labels that belong "
                             "to it")
        return {name: labels[name.rpartition(".")[0]] for name in sorted(names)}
    if len(names) != len(labels):
        raise InputError(f"{where} has {len(names):,} images and there are {len(labels):,} labels: give the "
                         "labels that belong to it with --val-labels")
    return dict(zip(sorted(names), labels))


def read_labels(path, known=()):
    """Classes of the validation images: in the order of their names, or {name without extension: class}.

    path: a text file with a WordNet id, or a name in `known`, on each line; or the official development kit (.tar.gz),
    which has numbers and, in meta.mat, what they stand for; or Kaggle's LOC_val_solution.csv, whose lines name the
    images. Raises InputError.
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
        raise InputError(f"{path} is empty: it is to have a WordNet id on each line")
    if lines[0] != KAGGLES:
        return [_label(path, number, line, known) for number, line in enumerate(lines, 1)]
    # ILSVRC2012_val_00000001,n01751748 111 108 334 321: the class before each of the boxes, one class in an image
    pairs = [line.partition(",") for line in lines[1:]]
    return {name: _label(path, number, boxes.partition(" ")[0], known)
            for number, (name, _, boxes) in enumerate(pairs, 2)}


def _label(path, number, text, known):
    """A class in a line of a file of labels. Raises InputError."""
    if text in known or _WORDNET_ID.fullmatch(text):
        return text
    if text.isdigit():
        raise InputError(f"{path}, line {number}: {text[:20]} is a number of the development kit, whose meaning is in "
                         f"the kit: give the kit itself, {DEVKIT}, with --val-labels")
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
    except Exception as error:  # whatever SciPy meets in a broken file
        raise InputError(f"{path}: its meta.mat cannot be read ({' '.join(str(error).split())[:100]})") from None
    try:
        labels = [ids[int(line)] for line in texts[GROUND_TRUTH].split()]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {GROUND_TRUTH} has {ascii(error.args[0])[:60]}, which is no class of meta.mat"
                         ) from None
    if not labels or not all(_WORDNET_ID.fullmatch(label) for label in labels):
        raise InputError(f"{path}: {GROUND_TRUTH} and meta.mat give no WordNet ids")
    return labels


# --- Record files -------------------------------------------------------------------------------------------


def _im2rec():
    """MXNet's tool as a module, its talk turned off: what it cannot read is named by this program."""
    runtime.prepare()
    root = Path(importlib.util.find_spec("mxnet").submodule_search_locations[0])
    path = root / "tools" / "im2rec.py"
    if not path.is_file():
        raise InputError(f"this MXNet has no {path}: {runtime.USE_VENV}")
    spec = importlib.util.spec_from_file_location("im2rec", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.print = lambda *_, **__: None
    tool.traceback = SimpleNamespace(print_exc=lambda: None)
    return tool


def _encode(tool, settings, index, row):
    """A row of the list and its packed record. Raises Damaged."""
    results = []
    tool.image_encode(settings, index, row, SimpleNamespace(put=results.append))
    record = results[0][1]
    if record is None:
        raise Damaged("im2rec cannot read it")
    return row, record


def _size(path):
    """Bytes of a file, 0 if it cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def pack(source, folder, split, resize=0, quality=95, threads=1, damaged="refuse"):
    """Write folder/SPLIT.rec, .idx, .lst and .json (how it was made) from an engine.data.imagenet.Folders.

    The images are shuffled as im2rec does it. resize: pixels of the shorter side, 0 for the files as they are.
    Returns the names of the damaged images that were left out; damaged='refuse' raises InputError for the first.
    """
    # A header and two words for each record, the index and the list take some 200 bytes an image.
    source.check(damaged)
    if not resize:
        _check_space(folder, 200 * len(source) + sum(
            _size(source.directory / file) for file in source.files), f"packing {source.description}")
    strange = next((file for file in source.files if re.search(r"[\t\r\n]", file)), None)
    if strange is not None:
        raise InputError(f"{source.description} has {ascii(strange)}, a name that a list cannot hold: rename it")
    images.require()
    tool = _im2rec()
    import mxnet as mx

    rows = [[index, file, label] for index, (file, label) in enumerate(zip(source.files, source.labels.tolist()))]
    random.Random(SEED).shuffle(rows)
    settings = SimpleNamespace(root=str(source.directory), pack_label=False, pass_through=not resize, color=1,
                               center_crop=False, resize=resize, quality=quality, encoding=".jpg")
    paths = {suffix: folder / f"{split}.{suffix}" for suffix in ("idx", "lst", "json", "rec")}  # as they are renamed
    parts = {suffix: folder / f"{path.name}.part" for suffix, path in paths.items()}
    written, left_out = [], []

    def encode(index, row):
        try:
            images.check(source.read(row[0]))
            return _encode(tool, settings, index, row)
        except Damaged as reason:
            return row, reason

    record = mx.recordio.MXIndexedRecordIO(str(parts["idx"]), str(parts["rec"]), "w")
    try:
        calls = (functools.partial(encode, index, row) for index, row in enumerate(rows))
        with contextlib.closing(ahead(calls, threads, 4 * threads)) as results:
            for row, content in _counted(results, len(rows), f"packing {split}.rec"):
                if isinstance(content, bytes):
                    record.write_idx(row[0], content)
                    written.append(row)
                    continue
                name = source.name(row[0])
                if damaged == "refuse":
                    raise InputError(f"{name}: {content}; replace this image, or leave damaged ones out with "
                                     "--damaged skip")
                left_out.append(name)
                print(f"left out {name}: {content}", flush=True)
    except mx.base.MXNetError:  # its reason is a line of its source
        raise InputError(f"{parts['rec']} cannot be written: make room and run this again") from None
    finally:
        record.close()
    if not written:
        raise InputError(f"{source.description} has no image that is not damaged")
    # As im2rec writes it, except names that are not UTF-8, which end im2rec.
    parts["lst"].write_text("".join(f"{number}\t{label:f}\t{file}\n" for number, file, label in written),
                            encoding="utf-8", errors="surrogateescape")
    if not _is_whole(parts["rec"], parts["idx"], len(written)):  # the disk may have been full
        raise InputError(f"{parts['rec']} was not written whole: make room and run this again")
    parts["json"].write_text(json.dumps({
        "images": len(written), "left_out": left_out, "list_sha256": source.sha256, "resize": resize,
        "quality": quality if resize else None}, indent=1) + "\n", encoding="utf-8")
    for suffix, path in paths.items():
        os.replace(parts[suffix], path)
    return left_out


def _is_whole(rec, idx, count):
    """Whether a record file and its index belong together and have so many records, to the end of the last one."""
    try:
        made = RecordFile(rec, idx)
        made.read(int(made.offsets.argmax()))
    except (InputError, Damaged):
        return False
    return len(made) == count and not made.missing and not made.unlisted


def _pack_stage(source, folder, split, resize, quality, threads, damaged):
    """`pack`, unless its result is there; a sentence about the outcome."""
    path, settings = folder / f"{split}.rec", folder / f"{split}.json"
    if path.exists():
        if not settings.exists():
            return f"{path} is there already and not of this program: left as it is"
        try:
            made = json.loads(settings.read_text(encoding="utf-8"))
            asked = {"list_sha256": source.sha256, "resize": resize, "quality": quality if resize else None}
            differs = [name for name, value in asked.items() if made[name] != value]
            count, left_out = made["images"], made["left_out"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{settings} cannot be read: remove it and {path} to make them again") from None
        if differs:
            what = {"list_sha256": "another list of images", "resize": "another --resize",
                    "quality": "another --quality"}[differs[0]]
            raise InputError(f"{path} was made from {what}: remove it to make it again")
        if not _is_whole(path, path.with_suffix(".idx"), count):
            raise InputError(f"{path} and its .idx are not whole any more: remove {path} to make both again")
        state = "was there already"
    else:
        began = time.monotonic()
        left_out = pack(source, folder, split, resize, quality, threads, damaged)
        count, state = len(source) - len(left_out), f"made in {time.monotonic() - began:,.0f} s"
    official = imagenet.OFFICIAL_COUNTS[split]
    counts = f"{count:,} images" if count == official else f"{count:,} images (officially {official:,})"
    if left_out:
        counts += f", {len(left_out):,} damaged ones left out ({settings} names them)"
    return f"{path}: {counts}, {path.stat().st_size / 1e9:,.2f} GB, {state}"


# --- Command ------------------------------------------------------------------------------------------------


def _counted(items, total, description):
    """The items; a progress bar on a terminal, a line for each tenth elsewhere."""
    tenth, began = 0, time.monotonic()
    with progress_bar(total, description) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.update()
            if not sys.stderr.isatty() and done * 10 // total > tenth:
                tenth = done * 10 // total
                print(f"{description}: {done:,} of {total:,}, {time.monotonic() - began:,.0f} s", flush=True)


@contextlib.contextmanager
def _alone(folder):
    """One preparation at a time in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".prepare.lock", "w", opener=regular) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another preparation is at work in {folder}: wait for it") from None
        except OSError:  # a file system without locks
            pass
        yield


def _image_folder(args, split, root):
    """The folder of class folders of a split, its archive unpacked first; None where there is neither."""
    given = getattr(args, split)
    path = expanded(given) if given else root / ARCHIVES[split]
    folder = path if path.is_dir() else root / split
    if not path.is_file() and not folder.is_dir():
        if given:
            raise InputError(f"--{split} {given}: there is no such archive or folder")
        return None
    if split == "train":
        if path.is_file():
            unpack_train(path, folder)
    elif not folder.is_dir():
        unpack_val(path, _val_labels(args, root, path), folder)
    elif listing(folder).images:
        sort_val(folder, _val_labels(args, root, folder))
    return folder


def _val_labels(args, root, images):
    """The labels of an archive or a folder of validation images."""
    labels = expanded(args.val_labels) if args.val_labels else root / DEVKIT
    if not args.val_labels and not labels.is_file():
        raise InputError(f"{images} has images without classes: put {DEVKIT} into {root}, or give its labels with "
                         "--val-labels FILE, a text file with a WordNet id on each line")
    return read_labels(labels, classes(root / "train") if (root / "train").is_dir() else ())


def prepare(args):
    """Do what the command line asks, stage by stage, and say so."""
    root = expanded(args.data_dir) if args.data_dir else imagenet.default_root()
    if not args.folders_only and str(root) != os.fsencode(root).decode("utf-8", "replace"):
        raise InputError(f"--data-dir {ascii(str(root))}: MXNet writes record files only where the whole path is "
                         "UTF-8; choose another folder, or unpack with --folders-only")
    with _alone(root):
        found = {split: _image_folder(args, split, root) for split in args.splits}
        for split, folder in found.items():
            if folder is None:
                print(f"no {split} images: neither {root / ARCHIVES[split]} nor {root / split} is there")
        found = {split: folder for split, folder in found.items() if folder is not None}
        if not found:
            raise InputError(f"there is nothing to prepare in {root}: put the official archives there, or name "
                             "archives or folders with --train and --val")
        # The training folders give the labels of both splits.
        train = found.get("train") or (root / "train" if (root / "train").is_dir() else None)
        names = imagenet.class_order(train, found.get("val"))
        sources = {split: imagenet.folders(folder, names) for split, folder in found.items()}
        for split, source in sources.items():
            print(f"{split}: {len(source):,} images (officially {imagenet.OFFICIAL_COUNTS[split]:,}) of "
                  f"{len(set(source.labels.tolist())):,} classes in {source.description}", flush=True)
        if args.folders_only:
            return
        records = root / "rec"
        records.mkdir(exist_ok=True)
        listed = records / NAMES_FILE
        there = read_names(listed) if listed.exists() and listed.stat().st_size else None
        if there is None:
            write_names(listed, names)
        elif there != names:
            raise InputError(f"{listed} has other classes than {train or found['val']}: remove {records} to make its "
                             "files again, or choose another --data-dir")
        for split, source in sources.items():
            print(_pack_stage(source, records, split, args.resize, args.quality or 95, args.threads, args.damaged),
                  flush=True)


def _splits(text):
    splits = tuple(part.strip() for part in text.split(",") if part.strip())
    if not splits or any(split not in imagenet.SPLITS for split in splits):
        raise argparse.ArgumentTypeError(f"{text!r} is not train, val or train,val")
    return splits


def _parser():
    parser = Parser(prog="prepare_imagenet.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-dir", metavar="DIR", help="where the archives or folders are and everything goes "
                        "(default ~/.mxnet/datasets/imagenet)")
    parser.add_argument("--train", metavar="PATH", help=f"archive or folder of class folders (default "
                        f"DIR/{ARCHIVES['train']}, else DIR/train)")
    parser.add_argument("--val", metavar="PATH", help=f"archive or folder of class folders (default "
                        f"DIR/{ARCHIVES['val']}, else DIR/val); images side by side in a folder are moved into class "
                        "folders there")
    parser.add_argument("--val-labels", metavar="FILE", help="classes of the validation images: a text file with a "
                        "WordNet id on each line, in the order of the images' names, Kaggle's LOC_val_solution.csv, or "
                        f"the development kit (default DIR/{DEVKIT})")
    parser.add_argument("--splits", type=_splits, default=imagenet.SPLITS, metavar="S,S",
                        help="train,val (default), or one of them")
    parser.add_argument("--folders-only", action="store_true", help="unpack the archives and write no record files")
    parser.add_argument("--resize", type=number(int, 1, 10_000), default=0, metavar="N", help="make the shorter side N "
                        "pixels (larger or smaller) and compress them again (default: the files as they are)")
    parser.add_argument("--quality", type=number(int, 1, 100), metavar="Q",
                        help="of the JPEGs with --resize (default 95)")
    parser.add_argument("--threads", type=number(int, 1, 1024), default=runtime.usable_cores(), metavar="N",
                        help="images read or compressed at once (default: the cores, %(default)s)")
    parser.add_argument("--damaged", choices=image_batches.DAMAGED, default="refuse",
                        help="stop at a damaged image, or leave it out and name it (default %(default)s)")
    return parser


def main(argv=None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.quality and not args.resize:
        parser.error("--quality goes with --resize: without it the files are packed as they are")
    clean_up_at_interrupt()
    try:
        prepare(args)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename or args.data_dir or imagenet.default_root()
        print(f"{parser.prog}: {place}: {error.strerror}; what is finished stays, run this again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is finished stays, the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    run_script(main)
