"""From folders of images to record files: for sound images, to the byte those of MXNet's im2rec.

im2rec takes the labels from the folders that it happens to find, leaves out unreadable images without an error, and
waits forever if its writer dies.
"""
import contextlib
import functools
import json
import os
import random
import re
import time

from support.errors import InputError

from . import imagenet, images
from .prefetch import ahead
from .records import Damaged, RecordFile, packed
from .stages import check_space, watched

SEED = 100  # of im2rec's own shuffling


def _size(path):
    """Bytes of a file; 0 if they cannot be found out."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _encode(source, index, resize, quality):
    """(index, record or the reason why there is none) of an image of a source."""
    try:
        content = source.read(index)
        if resize:
            content = images.compressed_again(content, resize, quality)
        else:
            images.check(content)
        return index, packed(source.labels[index], index, content)
    except Damaged as reason:
        return index, reason


def pack(source, folder, split, resize=0, quality=95, threads=1, damaged="refuse"):
    """Write folder/SPLIT.rec, .idx, .lst and .json (how it was made) from Folders (engine.data.image_sources).

    The images are shuffled as in im2rec. resize: pixels of the shorter side, 0 for the files as they are.
    Returns the names of the damaged images that were left out; damaged='refuse' raises InputError for the first.
    """
    # A header and two words for each record, the index and the list take some 200 bytes an image.
    if resize:
        images.require()
    else:
        check_space(folder, 200 * len(source) + sum(
            _size(source.directory / file) for file in source.files), f"packing {source.description}")
    strange = next((file for file in source.files if re.search(r"[\t\r\n]", file)), None)
    if strange is not None:
        raise InputError(f"{source.description} has {ascii(strange)}, a name that a list cannot hold: rename it")

    order = list(range(len(source)))
    random.Random(SEED).shuffle(order)
    paths = {suffix: folder / f"{split}.{suffix}" for suffix in ("idx", "lst", "json", "rec")}  # as they are renamed
    parts = {suffix: folder / f"{path.name}.part" for suffix, path in paths.items()}
    written, left_out = 0, []
    # As im2rec writes the list, which fails at names that are not UTF-8.
    text = {"encoding": "utf-8", "errors": "surrogateescape"}
    calls = (functools.partial(_encode, source, index, resize, quality) for index in order)
    with contextlib.closing(ahead(calls, threads, 4 * threads)) as results, parts["rec"].open("wb") as records, \
            parts["idx"].open("w") as places, parts["lst"].open("w", **text) as lines:
        for index, record in watched(results, len(order), f"packing {split}.rec"):
            if isinstance(record, Damaged):
                left_out.append(source.left_out(index, record, damaged))
                print(f"left out {left_out[-1]}: {record}", flush=True)
                continue
            places.write(f"{index}\t{records.tell()}\n")
            lines.write(f"{index}\t{source.labels[index]:f}\t{source.files[index]}\n")
            records.write(record)
            written += 1
    if not written:
        raise InputError(f"{source.description} has no image that is not damaged")
    if not _is_whole(parts["rec"], parts["idx"], written):
        raise InputError(f"{parts['rec']} was not written whole: make room and run this again")
    parts["json"].write_text(json.dumps({
        "images": written, "left_out": left_out, "list_sha256": source.sha256, "resize": resize,
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
    return len(made) == count and made.damage() is None


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
