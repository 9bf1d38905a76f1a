"""CIFAR's "python version" files, read without unpickling them.

Unpickling a file can run any code of its writer. Here the opcodes are only listed (`pickletools.genops` executes
nothing) and followed symbolically: a call becomes a record of the call, and only the few records that describe a NumPy
array of integers are accepted. The known dialects are the official files (Python 2, protocol 2) and copies of them
written by Python 3 (protocols 2 to 5); everything else is refused with its place in the file.
"""

import io
import pickletools
import re
from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Tuple

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
KNOWN = frozenset((*RECONSTRUCT, *FROMBUFFER, ENCODE, DTYPE, "numpy ndarray"))

LITERALS = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1",
    "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"))
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# How many values these opcodes take from the stack; None: all above the mark.
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}

INTEGERS = re.compile("[<>|][iu][1248]")  # dtypes

# A pickle that is not built as CIFAR's: a value of another type, or one that is not there.
BROKEN = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)


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
    reader = _Reader()
    try:
        batch = reader.value(content)
        images = reader.images(*batch["data"])
        labels = {key: reader.labels(key, *batch[key], len(images)) for key in label_keys}
    except BROKEN as error:
        reason = str(error)[:100] if isinstance(error, ValueError) else "it is not built as CIFAR's files are"
        raise InputError(f"{name}, byte {reader.offset}: {reason}; this is no CIFAR batch, fetch the file "
                         "again") from None
    return images, labels


@dataclass(frozen=True)
class _Global:
    """Something importable, as "module name"; it is never imported."""

    name: str


@dataclass
class _Call:
    """A call `function(*args)` that was not made, and the state that its result would have been given."""

    function: str
    args: Tuple
    state: Any = None


class _BoundedLines(io.BytesIO):
    def readline(self, size=-1):
        return super().readline(MAX_LINE if size is None or size < 0 else min(size, MAX_LINE))


class _Reader:
    """Raises one of BROKEN for what is no CIFAR batch; `offset` is then the place in the file."""

    def __init__(self):
        self.offset = 0

    def value(self, content):
        """The symbolic value of the one pickle that fills `content`.

        Lists hold (value, offset) pairs, dictionaries {key: (value, offset)}, tuples bare values.
        """
        stream = _BoundedLines(content)
        stack, marks, memo = [], [], {}
        finished = None

        def push(value, offset):
            stack.append((value, offset))

        def taken(count):
            first = marks.pop() if count is None else len(stack) - count
            if first < 0:
                raise IndexError
            values = stack[first:]
            del stack[first:]
            return values

        for count, (opcode, argument, offset) in enumerate(pickletools.genops(stream)):
            name, self.offset = opcode.name, offset
            if count >= MAX_OPCODES:
                raise ValueError(f"more than {MAX_OPCODES:,} pickle opcodes")
            if name in LITERALS:
                push(argument, offset)
            elif name in CONSTANTS:
                push(CONSTANTS[name], offset)
            elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1][0]
            elif name in ("BINGET", "LONG_BINGET"):
                push(memo[argument], offset)
            elif name == "MARK":
                marks.append(len(stack))
            elif name in ("EMPTY_LIST", "EMPTY_DICT"):
                push([] if name == "EMPTY_LIST" else {}, offset)
            elif name in TUPLES:
                push(tuple(value for value, _ in taken(TUPLES[name])), offset)
            elif name in ("APPEND", "APPENDS"):
                items = taken(1 if name == "APPEND" else None)
                stack[-1][0].extend(items)
            elif name in ("SETITEM", "SETITEMS"):
                items = taken(2 if name == "SETITEM" else None)
                for (key, _), item in zip(items[::2], items[1::2]):
                    stack[-1][0][_text(key)] = item
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                named = argument or " ".join(_text(value) for value, _ in taken(2))
                if named not in KNOWN:
                    raise ValueError(f"the pickle asks for {ascii(named[:60].replace(' ', '.', 1))}, which no CIFAR "
                                     "file needs; nothing was run")
                push(_Global(named), offset)
            elif name == "REDUCE":
                (function, start), (args, _) = taken(2)
                push(_Call(function.name, args), start)
            elif name == "BUILD":
                (state, _), = taken(1)
                stack[-1][0].state = state
            elif name == "STOP":
                finished, start = stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"the opcode {name} is not used by CIFAR files pickled with protocols 2 to 5")
            self.offset = stream.tell()  # of the next opcode, which may be unreadable
        if self.offset != len(content):
            raise ValueError(f"{len(content) - self.offset:,} bytes after the end of the pickle")
        self.offset = start
        return finished

    def images(self, value, offset):
        """uint8 (N, PIXELS)."""
        self.offset = offset
        images = _array(value)
        if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != PIXELS or not len(images):
            raise ValueError(f"'data' must be uint8 (images, {PIXELS}), this is {images.dtype} {images.shape}")
        return images

    def labels(self, key, value, offset, count):
        """The Labels of `count` images."""
        if isinstance(value, list):
            for label, place in value:
                # bool is an int in Python; the array below holds 63 bits
                if type(label) is not int or label.bit_length() > 63:
                    self.offset = place
                    raise ValueError(f"a label in '{key}' is no class number")
            values = np.array([label for label, _ in value], np.int64)
            offsets = np.array([place for _, place in value], np.int64)
        else:
            self.offset = offset
            values = _array(value).astype(np.int64)
            offsets = np.full(len(values), offset, np.int64)
        self.offset = offset
        if values.shape != (count,):
            raise ValueError(f"'{key}' has the shape {values.shape} for {count:,} images")
        return Labels(values, offsets)


def _string(value):
    """A string, which Python 3 writes for Python 2 as a call."""
    if isinstance(value, _Call) and value.function == ENCODE:
        value, encoding = value.args
        if encoding not in ("latin1", "latin-1"):
            raise ValueError("its strings are in an encoding other than latin-1")
    return value


def _text(value) -> str:
    """A name: bytes or text in Python 2 and 3."""
    value = _string(value)
    if not isinstance(value, (str, bytes)):
        raise TypeError
    return value if isinstance(value, str) else value.decode("latin-1")


def _array(value) -> np.ndarray:
    """The integer array, of one or two axes, that a symbolic value describes, without a copy if possible."""
    if value.function in RECONSTRUCT:
        _version, shape, dtype, order, raw = value.state  # order: whether it is Fortran's
    elif value.function in FROMBUFFER:
        raw, dtype, shape, order = value.args
    else:
        raise TypeError
    raw = _string(raw)
    if isinstance(raw, str):  # also the byte strings of Python 2, which genops shows as latin-1 text
        raw = raw.encode("latin-1")
    if min(shape) < 0 or len(shape) > 2:
        raise ValueError("an array's shape is not one or two whole numbers")
    return np.frombuffer(raw, _dtype(dtype)).reshape(shape, order="F" if order in (True, "F") else "C")


def _dtype(value) -> np.dtype:
    order = _text(value.state[1]) if value.state else "|"  # state: version, byte order, ...
    code = order + _text(value.args[0])
    if value.function != DTYPE or not INTEGERS.fullmatch(code):
        raise ValueError("an array's elements are not whole numbers")
    return np.dtype(code)
