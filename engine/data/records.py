"""Record files: read MXNet's .rec in any order through its .idx, from any number of threads.

A .rec is a sequence of records. A record is two little-endian uint32, the magic number and (part << 29 | length), then
the content, then zeros up to a multiple of four bytes. Content that holds the magic number at such a multiple is cut
there into parts (1 first, 2 middle, 3 last; 0 is a whole record). The content of an image's record is the header
`<IfQQ` (number of labels or 0 for a plain one, the label, an id of 128 bits) and the image file. A line of the .idx is
KEY\\tOFFSET.

`MXIndexedRecordIO` seeks and reads on one handle, which two threads must not do at once; here every read names its
place (`os.pread`).
"""
import contextlib
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Tuple

import numpy as np

from support.errors import InputError
from support.files import content, expanded, regular

MAGIC = 0xCED7230A
LENGTH = (1 << 29) - 1  # the bits of a length
PROBES = 64  # offsets of an index that are compared with its record file first
MAX_BYTES = 1 << 28  # of an image file, which is whole in memory while it is decoded
_WORDS = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_LABEL = struct.Struct("<f")
_INDEX = re.compile(rb"(?:\d{1,18}\t\d{1,18}\r?\n)*(?:\d{1,18}\t\d{1,18})?")


class Damaged(ValueError):
    """An image cannot be read. The message says why in a few words; the caller knows the image's name."""


class RecordFile:
    """Labelled images in a .rec, in the order of its .idx.

    keys, offsets : int64 (N,), the numbers of the records and where they begin. size : bytes of the .rec.
    Raises InputError if the .idx cannot be read or belongs to another file (no record begins at most of its offsets).
    A record beyond the end of the .rec is `damage`; reading it raises Damaged.
    """

    def __init__(self, rec, idx):
        self.path, self.index_path = expanded(rec), expanded(idx)
        self.index = _read_index(self.index_path)
        numbers = np.array(self.index.split(), np.int64)
        self.keys, self.offsets = numbers[0::2], numbers[1::2]
        if len(np.unique(self.keys)) < len(self.keys) or len(np.unique(self.offsets)) < len(self.offsets):
            raise InputError(f"{self.index_path} lists a record twice: make it again with the record file")
        try:
            self._file = open(self.path, "rb", opener=regular)  # noqa: SIM115 (open as long as this object lives)
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from None
        if not self.size:
            raise InputError(f"{self.path} is empty: copy or prepare it again")
        self._check_offsets()

    def _check_offsets(self):
        """Raise InputError if most of some sampled offsets are wrong: one record may be damaged, but not most."""
        within = self.offsets[self.offsets < self.size]
        looked = within[np.unique(np.linspace(0, len(within) - 1, min(PROBES, len(within))).astype(int))].tolist()
        wrong = [offset for offset in looked if self._words(offset)[0] != MAGIC]
        if 2 * len(wrong) > len(looked):
            raise InputError(f"{self.path} is not the record file of {self.index_path.name}: no record begins at byte "
                             f"{wrong[0]:,}, where the index has one; give the .rec and .idx that belong together")

    def __len__(self):
        return len(self.keys)

    def damage(self):
        """In words, how the length of one file does not fit the other; None if it does."""
        missing = np.flatnonzero(self.offsets >= self.size)
        if missing.size:
            first = missing[0]
            return (f"{self.index_path} points to byte {self.offsets[first]:,} for record {self.keys[first]}, but "
                    f"{self.path} ends at byte {self.size:,}: {missing.size:,} of {len(self):,} records are missing")
        with contextlib.suppress(Damaged):
            _, end = self._record(int(self.offsets.max()))
            if self._words(end)[0] == MAGIC:
                return (f"{self.path} has {self.size - end:,} bytes after the last of the {len(self):,} records in "
                        f"{self.index_path}, which was cut or belongs to a shorter file")
        return None

    def read(self, number: int) -> Tuple[float, bytes]:
        """Label and image file of the record in line `number` of the .idx, from 0. Raises Damaged."""
        return _unpacked(self._record(int(self.offsets[number]))[0])

    def labels(self) -> np.ndarray:
        """Every record's label, float32 (N,), NaN if the record cannot be read; from the headers alone.

        Each image takes one small read of the disk, so 16 threads wait in parallel.
        """
        labels = np.full(len(self), np.nan, np.float32)

        def fill(numbers):
            for number in numbers:
                labels[number] = self._label(int(self.offsets[number]))

        with ThreadPoolExecutor(16) as pool:
            for _ in pool.map(fill, np.array_split(np.arange(len(self)), -(-len(self) // 1024))):
                pass
        return labels

    def _label(self, offset):
        try:
            start = self._pread(_WORDS.size + _HEADER.size + _LABEL.size, offset)
            magic, word = _WORDS.unpack_from(start)
            label, _ = _unpacked(start[_WORDS.size:_WORDS.size + (word & LENGTH)])
        except (Damaged, struct.error):
            return np.nan
        return label if magic == MAGIC else np.nan

    def _pread(self, length, offset):
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise Damaged(f"{self.path} cannot be read at byte {offset:,}: {error.strerror}") from None

    def _words(self, offset):
        words = self._pread(_WORDS.size, offset)
        return _WORDS.unpack(words) if len(words) == _WORDS.size else (None, 0)

    def _record(self, offset):
        """A record's content, and where the next one begins."""
        parts, read = [], 0
        while True:
            if offset + _WORDS.size > self.size:
                raise Damaged(f"the record file ends at byte {self.size:,}, before byte {offset:,}")
            magic, word = self._words(offset)
            part, length = word >> 29, word & LENGTH
            if magic != MAGIC or (part in (0, 1)) == bool(parts) or part > 3:
                raise Damaged(f"no record begins at byte {offset:,}" if not parts else
                              f"the record has no further part at byte {offset:,}")
            read += length
            if read > MAX_BYTES:
                raise Damaged(f"the record has {read:,} bytes or more, which are more than are read ({MAX_BYTES:,})")
            content = self._pread(length, offset + _WORDS.size)
            if len(content) < length:
                raise Damaged(f"the record file ends at byte {self.size:,}, inside the record")
            parts.append(content)
            offset += _WORDS.size + (length + 3 & ~3)
            if part in (0, 3):
                return struct.pack("<I", MAGIC).join(parts), offset


def _unpacked(content):
    """The label and the image file in the content of a record. Raises Damaged."""
    if len(content) < _HEADER.size:
        raise Damaged(f"the record has {len(content)} bytes, too few for its header")
    count, label, _, _ = _HEADER.unpack_from(content)
    start = _HEADER.size
    if count:
        if count > 1 or len(content) < start + _LABEL.size:
            raise Damaged(f"the record has {count:,} labels instead of one")
        label, = _LABEL.unpack_from(content, start)
        start += _LABEL.size
    if label != label:
        raise Damaged("the record's label is not a number")
    return label, content[start:]


def packed(label, number, image):
    """The record of an image file, with its number as the id: the bytes of MXNet's writer."""
    content = _HEADER.pack(0, label, number, 0) + image
    cuts = 4 * np.flatnonzero(np.frombuffer(content, "<u4", len(content) // 4) == MAGIC)
    parts = [content[start:end] for start, end in zip((0, *(cuts + 4)), (*cuts, len(content)))]
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    return b"".join(_WORDS.pack(MAGIC, kind << 29 | len(part)) + part + bytes(-len(part) % 4)
                    for kind, part in zip(kinds, parts))


def _read_index(path):
    try:
        index = content(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; a record file is read through its .idx") from None
    if not index.strip():
        raise InputError(f"{path} is empty: prepare the record file again")
    if not _INDEX.fullmatch(index):
        matched = _INDEX.match(index).end()
        line = index.count(b"\n", 0, matched) + 1
        raise InputError(f"{path}, line {line}: it is not KEY, tab and OFFSET in whole numbers; prepare the record "
                         "file again")
    return index
