"""From folders of images to record files, with functions of MXNet's im2rec.

im2rec as a program takes the labels from the folders that it happens to find, leaves out unreadable images without an
error, and waits forever if its writer dies. So this module calls only its encoder and does the rest itself.
"""
import contextlib
import functools
import importlib.util
import json
import os
import random
import re
import time
from pathlib import Path
from types import SimpleNamespace

from support import python, runtime
from support.errors import InputError

from . import imagenet, images
from .prefetch import ahead
from .records import Damaged, RecordFile
from .stages import check_space, watched

SEED = 100  # of im2rec's own shuffling


def _im2rec():
    """MXNet's tool as a module, without its output: this program names what it cannot read."""
    runtime.prepare()
    root = Path(importlib.util.find_spec("mxnet").submodule_search_locations[0])
    path = root / "tools" / "im2rec.py"
    if not path.is_file():
        raise InputError(f"this MXNet has no {path}: {python.USE_VENV}")
    spec = importlib.util.spec_from_file_location("im2rec", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.print = lambda *_, **__: None
    tool.traceback = SimpleNamespace(print_exc=lambda: None)
    return tool


def _encode(tool, settings, index, row):
    """(row of the list, packed record). Raises Damaged."""
    results = []
    tool.image_encode(settings, index, row, SimpleNamespace(put=results.append))
    record = results[0][1]
    if record is None:
        raise Damaged("im2rec cannot read it")
    return row, record


def _size(path):
    """Bytes of a file; 0 if they cannot be found out."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def pack(source, folder, split, resize=0, quality=95, threads=1, damaged="refuse"):
    """Write folder/SPLIT.rec, .idx, .lst and .json (how it was made) from an engine.data.imagenet.Folders.

    The images are shuffled as in im2rec. resize: pixels of the shorter side, 0 for the files as they are.
    Returns the names of the damaged images that were left out; damaged='refuse' raises InputError for the first.
    """
    # A header and two words for each record, the index and the list take some 200 bytes an image.
    source.check(damaged)
    if not resize:
        check_space(folder, 200 * len(source) + sum(
            _size(source.directory / file) for file in source.files), f"packing {source.description}")
    strange = next((file for file in source.files if re.search(r"[\t\r\n]", file)), None)
    if strange is not None:
        raise InputError(f"{source.description} has {ascii(strange)}, a name that a list cannot hold: rename it")
    images.require()
    tool = _im2rec()
    mx = tool.mx  # this package itself imports no framework

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
            for row, content in watched(results, len(rows), f"packing {split}.rec"):
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
    # As im2rec writes it; im2rec fails at names that are not UTF-8.
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
    """Whether a record file and its index belong together and have `count` records, whole to the last one."""
    try:
        made = RecordFile(rec, idx)
        made.read(int(made.offsets.argmax()))
    except (InputError, Damaged):
        return False
    return len(made) == count and not made.missing and not made.unlisted


def pack_stage(source, folder, split, resize, quality, threads, damaged):
    """`pack`, unless its result is there already. Returns a sentence about the outcome."""
    path, settings = folder / f"{split}.rec", folder / f"{split}.json"
    if path.exists():
        if not settings.exists():
            return f"{path} is there already, not made by this program: left as it is"
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
