"""NumPy's `.npz` archives of arrays, read strictly: nothing is unpickled, and every size is checked before it is used.

An archive is a ZIP file with a member NAME.npy for each array [numpy.lib.format]: the bytes 93 NUMPY, two bytes of
version, the length of a text (2 bytes; 4 from version 2), the text, the numbers. The text is a dict in Python's
notation. NumPy writes it in one form only; it is compared with that form and never evaluated.
"""
import io
import re
import struct
import zipfile
import zlib

import numpy as np

from .errors import InputError
from .files import regular

START = b"PK"  # of every ZIP archive
# The largest size that an archive may unpack to. Compression hardly shrinks weights, but shrinks zeros 1000 times.
TIMES, AND_BYTES = 16, 16 << 20
HEADER = re.compile(rb"\{'descr': '([^']{1,20})', 'fortran_order': (True|False), 'shape': "
                    rb"\(((?:\d{1,19}, ?)*(?:\d{1,19})?)\),? ?\} *\n?")
LONGEST = 10_000  # bytes of the text; NumPy does not write more
TYPE = re.compile(r"[<>|=](?:f[248]|[iu][1248]|b1)")


def is_one(path):
    """Whether a file is such an archive."""
    with open(path, "rb", opener=regular) as file:
        return file.read(len(START)) == START


def read(path, data):
    """The arrays of an archive's bytes, by name, read-only. InputError, naming path, for anything unsound."""
    def fail(reason):
        raise InputError(f"{path} is not a usable parameter file: {reason} (a ZIP archive of {len(data):,} bytes); "
                         "fetch or save it again")

    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > TIMES * len(data) + AND_BYTES:
                fail(f"it claims to unpack to {size:,} bytes")
            for member in members:
                shown = ascii(member.filename[:60])
                if not member.filename.endswith(".npy"):
                    fail(f"its member {shown} is no array of numpy.savez (PyTorch's files are pickles, which are "
                         "never read)" if member.filename.endswith(".pkl") else
                         f"its member {shown} is no array of numpy.savez")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                    fail(f"its member {shown} is compressed or encrypted in a way that numpy.savez does not use")
                name = member.filename[:-len(".npy")]
                if name in arrays:
                    fail(f"its member {shown} occurs twice")
                with archive.open(member) as file:
                    content = file.read(member.file_size)  # without a number it would unpack more than it claims
                arrays[name] = _array(content, lambda reason, shown=shown: fail(f"{shown} {reason}"))
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, RuntimeError, ValueError,
            OverflowError) as error:
        fail(f"it is not sound ({ascii(str(error))[1:-1][:100]})")
    return arrays


def _array(content, fail):
    """The array in a member's bytes."""
    version = content[6:8]
    width = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(version)
    if content[:6] != b"\x93NUMPY" or width is None or len(content) < 8 + width:
        fail("does not start as an array of NumPy")
    start = 8 + width + int.from_bytes(content[8:8 + width], "little")
    found = HEADER.fullmatch(content[8 + width:start]) if start <= min(len(content), LONGEST) else None
    if found is None:
        fail("has a description that NumPy does not write for an array of numbers")
    kind = found.group(1).decode("ascii", "replace")
    if not TYPE.fullmatch(kind):
        fail(f"holds {ascii(kind)[1:-1]}, not numbers" if kind != "|O" else
             "holds Python objects, which are never unpickled, not numbers")
    shape = tuple(int(length) for length in found.group(3).split(b",") if length.strip())
    dtype, count = np.dtype(kind), 1
    for length in shape:  # Python's integers do not overflow
        count *= length
    if len(shape) > 32 or count * dtype.itemsize != len(content) - start:
        fail(f"claims the shape {shape[:32]} of {dtype} and has {len(content) - start:,} bytes of numbers")
    try:
        numbers = np.frombuffer(content, dtype, offset=start)
        return numbers.reshape(shape, order="F" if found.group(2) == b"True" else "C")
    except ValueError:  # no numbers, but lengths beyond any array's
        fail(f"claims the shape {shape}")
