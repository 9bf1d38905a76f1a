"""Frees the memory of nets that are no longer used.

The parts of a Gluon net refer to each other in circles (a block and its name scope, a parameter and its trainer), so
only Python's collector of such circles frees it. The collector counts objects, not bytes. It can wait until a process
holds gigabytes of unused nets.
"""
import ctypes
import gc
import os

from .system import read

GROWTH = 1 << 28  # a process may grow by so many bytes before its circles are collected
_before = 0  # resident bytes after the last collection, or fewer if some were returned since


def resident():
    """Resident bytes of this process; 0 if the system does not say."""
    words = read("/proc/self/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if words else 0


def trim():
    """Let the C library return freed memory to the system; otherwise it would count as growth."""
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if function is not None:
        function(0)


def collect():
    """Free unused nets if the process has grown by GROWTH since the last collection. Call it for each new net."""
    global _before
    if resident() - _before >= GROWTH:
        trim()  # MXNet's operators run asynchronously and may have freed memory after the last collection
    now = resident()
    _before = min(_before, now)
    if now - _before >= GROWTH:
        gc.collect()
        trim()
        _before = resident()
