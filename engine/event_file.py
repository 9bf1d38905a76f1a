"""TensorBoard's event files, written here: no package is needed, no thread, and a full disk is an OSError.

A file is a row of records, each a protocol buffer `Event` between its length and checksums (TensorFlow's TFRecord).
Fields: tensorflow/core/util/event.proto and framework/summary.proto. A field is its number, its kind and its value.
"""
import errno
import os
import socket
import struct
import time

import numpy as np

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # kinds of fields (protobuf.dev/programming-guides/encoding)
_VERSION = b"brain.Event:2"  # from this version on, TensorBoard obeys a start


def _table():
    """The CRC-32C of each byte; Castagnoli's polynomial, bits reversed."""
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
        yield value


_TABLE = tuple(_table())


def checksum(data):
    """TFRecord's masked CRC-32C of bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data):
    """A record of a TFRecord file that holds bytes."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", checksum(length)) + data + struct.pack("<I", checksum(data))


def _varint(value):
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def _field(number, kind, value):
    head = _varint(number << 3 | kind)
    if kind == _VARINT:
        return head + _varint(value)
    if kind == _BYTES:
        return head + _varint(len(value)) + value
    return head + struct.pack("<d" if kind == _DOUBLE else "<f", value)


def scalar(tag, value):
    """A Summary.Value with one number."""
    return _field(1, _BYTES, tag.encode()) + _field(2, _FLOAT, value)


def histogram(tag, values, bins, limits):
    """A Summary.Value with the distribution of an array over `bins` equal bins between two limits."""
    values = np.clip(np.asarray(values, np.float64).ravel(), *limits)
    counts, edges = np.histogram(values, bins, limits)
    numbers = (values.min(), values.max(), values.size, values.sum(), np.square(values).sum())
    made = b"".join(_field(number, _DOUBLE, value) for number, value in enumerate(numbers, 1))
    made += _field(6, _BYTES, edges[1:].astype("<f8").tobytes()) + _field(7, _BYTES, counts.astype("<f8").tobytes())
    return _field(1, _BYTES, tag.encode()) + _field(5, _BYTES, made)


def _event(step, what):
    return record(_field(1, _DOUBLE, time.time()) + _field(2, _VARINT, step) + what)


class EventFile:
    """A new event file in a folder. It says first that what the folder's older files have from `start` on is void.

    Each call writes at once, or raises OSError.
    """

    def __init__(self, folder, start):
        seconds, rest = divmod(time.time_ns(), 10 ** 9)  # TensorBoard reads the files in the order of their names
        self.path = os.path.join(folder, f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{rest:09d}")
        self._file = open(self.path, "xb", buffering=0)  # noqa: SIM115
        self._write(_event(0, _field(3, _BYTES, _VERSION)) + _event(start, _field(7, _BYTES, _field(1, _VARINT, 1))))

    def add(self, step, values):
        """Write Summary.Values at a step."""
        self._write(_event(step, _field(5, _BYTES, b"".join(_field(1, _BYTES, value) for value in values))))

    def _write(self, data):
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)

    def close(self):
        self._file.close()
