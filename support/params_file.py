"""Parameter files: MXNet's own format, read strictly, with a ZIP archive at its end.

A file of this project is an MXNet `.params` file (`net.load_parameters` reads it) followed by an ordinary ZIP archive,
which MXNet's reader ignores and `unzip -l` lists. The archive holds the settings and, in a checkpoint, the optimizer's
state. Its member `weights.sha256` is the digest of all bytes before the archive, so that a flipped bit is noticed.

The reader is our own because MXNet's reader, on a damaged file, aborts the process, allocates without bound or silently
accepts garbage.

Layout of MXNet's part, little endian [ndarray.cc of MXNet 1.9.1]: uint64 0x112, uint64 0, uint64 count, the arrays,
uint64 count, the names (uint64 length, bytes). An array: uint32 magic, int32 storage type (0, dense), int32 number of
axes, int64 each axis, int32 device type, int32 device id, int32 type code, the numbers.
"""
import hashlib
import io
import os
import struct
import zipfile

import numpy as np

from . import npz_file
from .errors import InputError
from .files import content, replacing, writing

LIST_MAGIC = 0x112
ARRAY_MAGICS = (0xF993FAC9, 0xF993FACA)  # MXNet >= 0.12, without and with NumPy's shape semantics
DTYPES = {0: np.float32, 1: np.float64, 2: np.float16, 3: np.uint8, 4: np.int32, 5: np.int8, 6: np.int64, 7: np.bool_}
CODES = {dtype: code for code, dtype in DTYPES.items()}
DIGEST = "weights.sha256"


class _Reader:
    """A cursor over the bytes of a file; no step goes beyond the end."""

    def __init__(self, path, data):
        self.path, self.data, self.offset = path, data, 0

    def fail(self, reason, offset=None):
        offset = self.offset if offset is None else offset
        raise InputError(f"{self.path} is not a usable parameter file: {reason} (byte {offset:,} of "
                         f"{len(self.data):,}); fetch or save it again")

    def take(self, size, what):
        if size > len(self.data) - self.offset:
            self.fail(f"it ends within {what}")
        start, self.offset = self.offset, self.offset + size
        return self.data[start:self.offset]

    def numbers(self, layout, what):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def array(self, index):
        what, start = f"array {index}", self.offset

        def check(sound, reason):
            if not sound:
                self.fail(f"{what} {reason}", start)

        magic, storage, axes = self.numbers("Iii", what)
        check(magic in ARRAY_MAGICS, "does not start with an array's mark")
        check(storage == 0, f"is sparse (storage type {storage})")
        check(0 <= axes <= 32, f"claims {axes} axes")
        # In MXNet, no axes mean a scalar only with the other magic.
        check(axes or magic != ARRAY_MAGICS[0], "is empty")
        shape = self.numbers(f"{axes}q", what)
        check(all(length >= 0 for length in shape), f"claims the shape {shape}")
        *_, code = self.numbers("iii", what)
        check(code in DTYPES, f"has the unknown type code {code}")
        dtype, count = np.dtype(DTYPES[code]), 1
        for length in shape:  # Python's integers do not overflow
            count *= length
        data = self.take(count * dtype.itemsize, what)
        try:
            return np.frombuffer(data, dtype).reshape(shape)
        except ValueError:  # no numbers, but lengths beyond any array's
            self.fail(f"{what} claims the shape {shape}", start)


def read(path):
    """Read a parameter file, MXNet's or NumPy's `.npz`; the first bytes say which.

    Returns (arrays, attachments): a dict of name to read-only NumPy array and a dict of archive member to bytes, which
    is empty if the file is not of this project. Raises InputError, with the offset, for anything unsound.
    """
    path = os.fspath(path)
    try:
        data = memoryview(content(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
    if data[:2] == npz_file.START:
        return npz_file.read(path, data), {}
    reader = _Reader(path, data)
    if len(data) < 24 or reader.numbers("QQ", "the header")[0] != LIST_MAGIC:
        reader.fail("it does not start with MXNet's mark", 0)
    count, = reader.numbers("Q", "the header")
    if count > len(data):
        reader.fail(f"it claims {count} arrays")
    values = [reader.array(index) for index in range(count)]
    named, = reader.numbers("Q", "the number of names")
    if named != count:
        reader.fail(f"{named} names for {count} arrays")
    arrays = {}
    for value in values:
        start = reader.offset
        length, = reader.numbers("Q", "a name")
        try:
            name = str(reader.take(length, "a name"), "utf-8")
        except UnicodeDecodeError:
            reader.fail("a name is not text", start)
        if name in arrays:
            reader.fail(f"the name {name!r} occurs twice", start)
        arrays[name] = value
    return arrays, _read_archive(reader) if reader.offset < len(data) else {}


def check_numbers(path, name, numbers):
    """InputError for an array of the file at path with numbers that no weight or training state can have."""
    if not np.isfinite(numbers).all() or name.endswith("running_var") and (numbers < 0).any():
        raise InputError(f"{path} holds impossible numbers in {name} (NaN, infinite or a variance below 0); use "
                         "another checkpoint")


def _read_archive(reader):
    """The members of the ZIP archive that fills the rest of the file, with right checksums."""
    start = reader.offset
    try:
        with zipfile.ZipFile(io.BytesIO(reader.data)) as archive:
            members = archive.infolist()
            # Each member has a local header (30 bytes), a central one (46) and its name in both; 22 bytes end the file.
            # There is no other byte; otherwise a damaged central directory could hide a member.
            expected = 22 + sum(76 + 2 * len(member.filename.encode()) + member.compress_size for member in members)
            if any(member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size
                   for member in members) or expected != len(reader.data) - start \
                    or min((member.header_offset for member in members), default=-1) != start:
                reader.fail("the archive after the weights is not one that this project writes", start)
            if len({member.filename for member in members}) < len(members):
                reader.fail("the archive after the weights has a member twice", start)
            attachments = {member.filename: archive.read(member) for member in members}
    except (zipfile.BadZipFile, EOFError, OSError, struct.error, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reader.fail(f"the bytes after the weights are not a sound archive ({error})", start)
    digest = hashlib.sha256(reader.data[:start]).hexdigest()
    if attachments.get(DIGEST, b"").decode("ascii", "replace").strip() != digest:
        reader.fail("the weights do not match the checksum that was saved with them", start)
    return attachments


def write(path, arrays, attachments):
    """Write a dict of NumPy arrays and a dict of archive member to bytes, whole or not at all.

    The bytes before the archive equal mx.nd.save's. That function only takes UTF-8 paths, and does not notice if the
    disk has no room for its last bytes.
    """
    path = os.fspath(path)
    with writing(path), replacing(path) as temporary, open(temporary, "wb+") as file:
        digest = hashlib.sha256()
        for part in _parts(arrays):
            file.write(part)
            digest.update(part)
        with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
            for name, member in {DIGEST: digest.hexdigest().encode(), **attachments}.items():
                archive.writestr(zipfile.ZipInfo(name), member)  # ZipInfo: a fixed date, repeatable bytes
        file.flush()
        os.fsync(file.fileno())


def _parts(arrays):
    """MXNet's part of a file, piece by piece."""
    yield struct.pack("<QQQ", LIST_MAGIC, 0, len(arrays))
    for array in arrays.values():
        values = np.ascontiguousarray(array)
        yield struct.pack(f"<Iii{values.ndim}q", ARRAY_MAGICS[0], 0, values.ndim, *values.shape)
        yield struct.pack("<iii", 1, 0, CODES[values.dtype.type])  # on the CPU
        yield values.data.cast("B")
    yield struct.pack("<Q", len(arrays))
    for name in arrays:
        yield struct.pack("<Q", len(name.encode())) + name.encode()
