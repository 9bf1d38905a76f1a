"""NumPy's `.npz` archives of arrays, read strictly: nothing is unpickled, and every size is checked before it is used.

An archive is a ZIP file with a member NAME.npy for each array [numpy.lib.format]: a header, which NumPy reads, and the
numbers.
"""
import io
import struct
import tokenize
import zipfile
import zlib

import numpy as np
from numpy.lib import format as npy

from .errors import InputError
from .files import regular

START = b"PK"  # of every ZIP archive
# The largest size that an archive may unpack to. Compression hardly shrinks weights, but shrinks zeros 1000 times.
TIMES, AND_BYTES = 16, 16 << 20
LONGEST = 1000  # letters of a header; NumPy writes fewer for 32 lengths, and a longer one may exhaust its parser
# Of unsound archives, and of headers that NumPy cannot read.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, RuntimeError, ValueError, OverflowError,
          LookupError, TypeError, SyntaxError, tokenize.TokenError)
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def is_one(path):
    """Whether a file is such an archive."""
    with open(path, "rb", opener=regular) as file:
        return file.read(len(START)) == START


def read(path, data):
    """The arrays of an archive's bytes, by name, read-only. InputError, naming path, for anything unsound."""
    arrays, where = {}, "it"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > TIMES * len(data) + AND_BYTES:
                raise ValueError(f"it claims to unpack to {size:,} bytes")
            for member in members:
                where = f"its member {ascii(member.filename[:60])}"
                if not member.filename.endswith(".npy"):
                    raise ValueError("it is no array of numpy.savez" + (
                        " (PyTorch's files are pickles, which are never read)" if member.filename.endswith(".pkl")
                        else ""))
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                    raise ValueError("it is compressed or encrypted in a way that numpy.savez does not use")
                name = member.filename[:-len(".npy")]
                if name in arrays:
                    raise ValueError("it occurs twice")
                with archive.open(member) as file:
                    content = file.read(member.file_size)  # without a number it would unpack more than it claims
                arrays[name] = _array(content)
    except BROKEN as error:
        reason = " ".join(str(error)[:100].split()).encode("ascii", "backslashreplace").decode()
        raise InputError(f"{path} is not a usable parameter file: {where} is not sound ({reason}; a ZIP archive of "
                         f"{len(data):,} bytes); fetch or save it again") from None
    return arrays


def _array(content):
    """The array in a member's bytes. Raises one of BROKEN for anything else."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"an array of numbers has no version {version}")
    shape, by_columns, dtype = HEADERS[version](file, max_header_size=LONGEST)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise ValueError("it holds Python objects, which are never unpickled" if dtype.hasobject else
                         f"it holds {dtype}, not numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"it claims the shape {shape}")
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order="F" if by_columns else "C")
