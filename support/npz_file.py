"""NumPy's `.npz` archives of arrays, read strictly: nothing is unpickled, and every size is checked before it is used.

An archive is a ZIP file with a member NAME.npy for each array [numpy.lib.format].
"""
import io
import math
import struct
import zipfile
import zlib

import numpy as np

from .errors import InputError
from .files import regular

START = b"PK"  # of every ZIP archive
# The largest size that an archive may unpack to. Compression hardly shrinks weights, but shrinks zeros 1000 times.
TIMES, AND_BYTES = 16, 16 << 20
LONGEST = 1000  # letters of an array's description, which NumPy parses; a longer one could exhaust the parser's stack


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
                try:
                    arrays[name] = array_of(content)
                except ValueError as error:
                    fail(f"{shown} {error}")
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, RuntimeError, ValueError,
            OverflowError) as error:
        fail(f"it is not sound ({ascii(str(error))[1:-1][:100]})")
    return arrays


def array_of(content):
    """The array in a .npy file's bytes, read-only. Raises ValueError unless it holds as many numbers as it says."""
    stream = io.BytesIO(content)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream, LONGEST)
    except Exception as error:  # a crafted header breaks NumPy's reader in many ways, and NumPy quotes it
        raise ValueError(f"does not start as an array of NumPy ({ascii(str(error))[1:-1][:100]})") from None
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise ValueError(f"holds {dtype}, not numbers" if dtype.kind != "O" else
                         "holds Python objects, which are never unpickled, not numbers")
    size = len(content) - stream.tell()
    if min(shape, default=0) < 0 or len(shape) > 32 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"claims the shape {shape[:32]} of {dtype} and has {size:,} bytes of numbers")
    try:
        return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")
    except ValueError:  # no numbers, but lengths beyond any array's
        raise ValueError(f"claims the shape {shape}") from None
