"""CIFAR's files on a disk: found, unpacked in memory and parsed. Malformed files are refused."""
import gzip
import io
import lzma
import posixpath
import tarfile
import zlib
from typing import List, Tuple

import numpy as np

from engine.data import pickled_batch
from support.errors import InputError


def refuse(where, offset, reason):
    raise InputError(f"{where}, byte {offset}: {reason}; fetch the file again or remove it")


def find(dataset, root):
    """(form, its archive or None, iterator of (File, name for errors, content)) of the first form found, or None."""
    for folder in (root, root / dataset.name):
        for form in dataset.forms.values():
            if (folder / form.archive).is_file():
                return form, folder / form.archive, _archive_contents(folder / form.archive, form)
        for form in dataset.forms.values():
            for place in (folder, folder / form.folder):
                spelled = ((file, path) for file in form.files for path in _spellings(place, file))
                paths = {file: path for file, path in spelled if path.is_file()}
                if paths:
                    return form, None, ((file, str(path), _read(path, file, form)) for file, path in paths.items())
    return None


def _spellings(place, file):
    # The last one that exists counts: a plain file comes before a compressed one.
    plain = place / file.name
    return [place / f"{file.name}.xz", plain] if plain.suffix == ".bin" else [plain]


def _read(path, file, form) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return _unxz(content, path, file.images * form.max_bytes) if path.suffix == ".xz" else content


def _unxz(packed, path, limit) -> bytes:
    # 256 MiB is four times the need of the strongest preset; without a limit a file decides.
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28)
    try:
        content = stream.decompress(packed, max_length=limit + 1)
        whole = stream.eof and not stream.unused_data and len(content) <= limit
    except lzma.LZMAError:
        whole = False
    if not whole:
        raise InputError(f"{path} is no whole xz file of at most {limit:,} bytes, unpacked; fetch the file again or "
                         "remove it")
    return content


def _archive_contents(path, form):
    """The wanted members of a tar.gz, unpacked in memory; nothing is written, no link is followed.

    Byte offsets in errors are those of the unpacked archive.
    """
    # In the archive of Gluon's mirror the files lie at the top, without the folder.
    wanted = {name: file for file in form.files for name in (file.name, f"{form.folder}/{file.name}")}
    try:
        with gzip.open(path) as packed:
            content = packed.read(form.unpacked + 1)  # to the end, where gzip compares its checksum
        if len(content) > form.unpacked:
            refuse(path, form.unpacked, "unpacked, the archive is larger than the official one can be")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                file = wanted.get(posixpath.normpath(member.name))
                if file is not None:
                    where = f"{path} ({member.name})"
                    yield file, where, _member(content, member, file.images * form.max_bytes, where)
    except InputError:
        raise
    # tarfile lets ValueError through for some broken headers
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path} is no whole tar.gz archive ({error}); fetch it again or remove it") from None


def _member(archive, member, limit, where):
    """The part of an archive's bytes that is a member's content, not copied."""
    if not member.isreg() or member.issparse():
        refuse(where, member.offset, "the archive has a link or a folder in place of this file")
    if member.size > limit:
        refuse(where, member.offset, f"{member.size:,} bytes are more than this file can have")
    content = memoryview(archive)[member.offset_data:member.offset_data + member.size]
    if len(content) != member.size:
        refuse(where, len(archive), f"the archive ends {member.size - len(content):,} bytes early")
    return content


def parse_binary(content, where, dataset) -> Tuple[np.ndarray, List[np.ndarray]]:
    """A binary file as uint8 (N, 3072) pixels and one uint8 (N,) array for each kind of label."""
    count, rest = divmod(len(content), dataset.record)
    if rest:
        missing = f"{dataset.record - rest:,} of its {dataset.record:,} bytes are missing"
        refuse(where, count * dataset.record, f"the record of image {count} is cut, {missing}")
    records = np.frombuffer(content, np.uint8).reshape(count, dataset.record)
    first = len(dataset.labels)
    labels = [records[:, column] for column in range(first)]
    offsets = np.arange(count) * dataset.record
    for column, values in enumerate(labels):
        _check_labels(values, offsets + column, where, *dataset.labels[column])
    return records[:, first:], labels


def parse_pickled(content, where, dataset):
    """The same of a python file."""
    images, labels = pickled_batch.read_batch(content, where, tuple(key for key, _ in dataset.labels))
    for key, names in dataset.labels:
        _check_labels(*labels[key], where, key, names)
    return images, [labels[key].values for key, _ in dataset.labels]


def _check_labels(values, offsets, where, key, names):
    wrong = np.flatnonzero((values < 0) | (values >= len(names)))
    if wrong.size:
        image = wrong[0]
        refuse(where, offsets[image], f"image {image} has {values[image]} among its {key}, which go from 0 to "
                                      f"{len(names) - 1}")
