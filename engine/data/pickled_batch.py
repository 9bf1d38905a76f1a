"""CIFAR's "python version" files, read without unpickling them.

Unpickling a file can run any code of its writer. Here the opcodes are only listed (`pickletools.genops` executes
nothing) and followed symbolically: a call becomes a record of the call, and only the few records that describe a NumPy
array of integers are accepted. The known dialects are the official files (Python 2, protocol 2) and copies of them
written by Python 3 (protocols 2 to 5); everything else is refused with its place in the file.
"""

import io
import math
import pickletools
from typing import Dict, NamedTuple, Tuple

import numpy as np

from engine.data.cifar_files import PIXELS
from support.errors import InputError

# CIFAR-100's training file, the largest, has some 250,000 opcodes. A hostile file of one-byte opcodes would take a
# hundred times its size in memory.
MAX_OPCODES = 1_000_000

# Text opcodes hold one name on a line; to convert a decimal number of megabytes would take hours.
MAX_LINE = 256

# NumPy moved its core package in 2.0; both names appear in files.
RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
FROMBUFFER = ("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer")
ENCODE = "_codecs encode"
DTYPE = "numpy dtype"
KNOWN_GLOBALS = frozenset((*RECONSTRUCT, *FROMBUFFER, ENCODE, DTYPE, "numpy ndarray"))

LITERALS = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1",
    "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"))
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# How many values these opcodes take from the stack; None: all above the mark.
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
APPENDS = {"APPEND": 1, "APPENDS": None}
SETITEMS = {"SETITEM": 2, "SETITEMS": None}


class Labels(NamedTuple):
    """One label for each image, and the byte offset in the file where each (or the array of all) begins."""

    values: np.ndarray  # int64 (N,)
    offsets: np.ndarray  # int64 (N,)


def read_batch(content: bytes, name: str, label_keys: Tuple[str, ...]) -> Tuple[np.ndarray, Dict[str, Labels]]:
    """The images and labels of one pickled CIFAR batch.

    content: the whole file. name: its name in errors. label_keys: such as ("coarse_labels", "fine_labels").
    Returns (uint8 (N, 3072), {key: Labels}). Labels are integers; their range is not checked.
    Raises InputError (file, byte offset, reason) for anything that is not such a batch.
    """
    try:
        batch, offset = _follow(content)
        if not isinstance(batch, dict):
            raise _Refusal(offset, f"a dictionary is expected, this is {_kind(batch)}")
        for key in ("data", *label_keys):
            if key not in batch:
                raise _Refusal(offset, f"the dictionary has no entry '{key}'")
        images = _images(*batch["data"])
        labels = {key: _labels(key, *batch[key], len(images)) for key in label_keys}
    except _Refusal as refusal:
        raise InputError(f"{name}, byte {refusal.offset}: {refusal.reason}; this is no CIFAR batch, fetch the file "
                         "again") from None
    return images, labels


class _Refusal(Exception):
    def __init__(self, offset, reason):
        super().__init__(reason)
        self.offset, self.reason = offset, reason


class _Global(str):
    """The name of something importable, as "module name"; it is never imported."""


class _Call:
    """A call `function(*args)` that was not made, and the state that its result would have been given."""

    def __init__(self, function, args):
        self.function, self.args, self.state = function, args, None


def _kind(value) -> str:
    # The value itself could be very large, or hostile: only its kind is shown.
    if isinstance(value, _Call):
        return f"a call of {value.function}"
    if isinstance(value, _Global):
        return f"the name {value}"
    return f"a {type(value).__name__}"


class _BoundedLines(io.BytesIO):
    def readline(self, size=-1):
        return super().readline(MAX_LINE if size is None or size < 0 else min(size, MAX_LINE))


def _opcodes(content):
    """(opcode name, argument, offset) of the one pickle that fills `content`."""
    stream = _BoundedLines(content)
    offset = 0
    try:
        for count, (opcode, argument, offset) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPCODES:
                raise _Refusal(offset, f"more than {MAX_OPCODES:,} pickle opcodes")
            yield opcode.name, argument, offset
            offset = stream.tell()
    except ValueError as error:  # from genops: unknown opcode, cut argument, text that cannot be decoded
        raise _Refusal(offset, f"no readable pickle opcode ({str(error)[:100]})") from None
    if stream.tell() != len(content):
        raise _Refusal(stream.tell(), f"{len(content) - stream.tell():,} bytes after the end of the pickle")


def _follow(content):
    """The symbolic value of a pickle and its offset.

    Lists hold (value, offset) pairs, dictionaries {key: (value, offset)}, tuples bare values.
    """
    stack, marks, memo = [], [], {}
    finished = None
    offset = 0

    def taken(count):
        first = marks.pop() if count is None else len(stack) - count
        if first < 0:
            raise IndexError
        values = stack[first:]
        del stack[first:]
        return values

    try:
        for name, argument, offset in _opcodes(content):
            if name in LITERALS:
                stack.append((argument, offset))
            elif name in CONSTANTS:
                stack.append((CONSTANTS[name], offset))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append((memo[argument][0], offset))
            elif name == "MARK":
                marks.append(len(stack))
            elif name == "EMPTY_LIST":
                stack.append(([], offset))
            elif name == "EMPTY_DICT":
                stack.append(({}, offset))
            elif name in TUPLES:
                stack.append((tuple(value for value, _ in taken(TUPLES[name])), offset))
            elif name in APPENDS:
                items = taken(APPENDS[name])
                _expect(stack[-1][0], list, offset).extend(items)
            elif name in SETITEMS:
                items = taken(SETITEMS[name])
                target = _expect(stack[-1][0], dict, offset)
                for (key, _), value in zip(items[::2], items[1::2]):
                    target[_text(key, offset)] = value
            elif name == "GLOBAL":
                stack.append((_known(argument, offset), offset))
            elif name == "STACK_GLOBAL":
                (module, _), (attribute, _) = taken(2)
                stack.append((_known(f"{_text(module, offset)} {_text(attribute, offset)}", offset), offset))
            elif name == "REDUCE":
                (function, start), (args, _) = taken(2)
                stack.append((_Call(_expect(function, _Global, offset), _expect(args, tuple, offset)), start))
            elif name == "BUILD":
                state, _ = stack.pop()
                _expect(stack[-1][0], _Call, offset).state = state
            elif name == "STOP":
                finished = stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise _Refusal(offset, f"the opcode {name} is not used by CIFAR files pickled with protocols 2 to 5")
    except IndexError:
        raise _Refusal(offset, "a pickle opcode takes more values than there are") from None
    except KeyError:
        raise _Refusal(offset, "a pickle opcode refers to a value that was never stored") from None
    return finished


def _expect(value, kind, offset):
    if not isinstance(value, kind):
        names = {_Global: "an importable name", _Call: "an object"}
        raise _Refusal(offset, f"{names.get(kind, kind.__name__)} expected, this is {_kind(value)}")
    return value


def _text(value, offset) -> str:
    # Python 2's keys are byte strings; Python 3 writes them as bytes or, in protocol 2, as encoded text.
    if isinstance(value, _Call) and value.function == ENCODE and value.args:
        value = value.args[0]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return _expect(value, str, offset)


def _known(name, offset) -> _Global:
    if name not in KNOWN_GLOBALS:
        shown = ascii(name[:60].replace(" ", ".", 1))
        raise _Refusal(offset, f"the pickle asks for {shown}, which no CIFAR file needs; nothing was run")
    return _Global(name)


def _array(value, offset) -> np.ndarray:
    """The integer array that a symbolic value describes, without a copy if possible."""
    layout = None
    if isinstance(value, _Call) and value.function in RECONSTRUCT:
        if isinstance(value.state, tuple) and len(value.state) == 5:
            _version, shape, dtype, fortran, raw = value.state
            layout = raw, dtype, shape, "F" if fortran else "C"
    elif isinstance(value, _Call) and value.function in FROMBUFFER and len(value.args) == 4:
        layout = value.args
    if layout is None:
        raise _Refusal(offset, f"a numpy array is expected, this is {_kind(value)}")

    raw, dtype, shape, order = layout
    dtype = _dtype(dtype, offset)
    raw = _bytes(raw, offset)
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or len(shape) not in (1, 2):
        raise _Refusal(offset, "the array's shape is not one or two whole numbers")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise _Refusal(offset, f"the array's shape does not fit its {len(raw):,} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def _dtype(value, offset) -> np.dtype:
    if isinstance(value, _Call) and value.function == DTYPE and value.args:
        code = _text(value.args[0], offset)
        # state: version, byte order, ...; one-byte types have the order "|"
        state = value.state if isinstance(value.state, tuple) else ()
        order = _text(state[1], offset) if len(state) > 1 else "|"
        if code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8") and order in ("<", ">", "|"):
            return np.dtype(order.strip("|") + code)
    raise _Refusal(offset, "the array's elements are not whole numbers")


def _bytes(value, offset):
    if isinstance(value, _Call) and value.function == ENCODE and len(value.args) == 2:
        value, encoding = value.args
        if encoding not in ("latin1", "latin-1"):
            raise _Refusal(offset, "the array's bytes are in an encoding other than latin-1")
    if isinstance(value, str):  # also the byte strings of Python 2, which genops shows as latin-1 text
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            raise _Refusal(offset, "the array's bytes are text that is not latin-1") from None
    if not isinstance(value, (bytes, bytearray)):
        raise _Refusal(offset, f"the array's bytes are {_kind(value)}")
    return value


def _images(value, offset) -> np.ndarray:
    images = _array(value, offset)
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != PIXELS or not len(images):
        raise _Refusal(offset, f"'data' must be uint8 (images, {PIXELS}), this is {images.dtype} with {images.ndim} "
                               f"axes and {images.size:,} elements")
    return images


def _labels(key, value, offset, count) -> Labels:
    if isinstance(value, list):
        for label, at in value:
            # bool is an int in Python; the array below holds 63 bits
            if type(label) is not int or label.bit_length() > 63:
                raise _Refusal(at, f"a label in '{key}' is {_kind(label)}, not a class number")
        values = np.fromiter((label for label, _ in value), np.int64, len(value))
        offsets = np.fromiter((at for _, at in value), np.int64, len(value))
    else:
        array = _array(value, offset)
        if array.ndim != 1:
            raise _Refusal(offset, f"'{key}' has {array.ndim} axes instead of one")
        values = array.astype(np.int64)
        offsets = np.full(len(values), offset, np.int64)
    if len(values) != count:
        raise _Refusal(offset, f"'{key}' has {len(values):,} labels for {count:,} images")
    return Labels(values, offsets)
