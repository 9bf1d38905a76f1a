"""Nets that nobody holds any more leave memory in time.

The parts of a Gluon net refer to each other in circles (a block and its name scope, a parameter and its trainer), so
only Python's collector of such circles frees it. That one counts objects, not bytes: it can wait until a process holds
gigabytes of nets that nobody needs.
"""
import ctypes
import gc
import os

from .system import read

GROWTH = 1 << 28  # bytes that a process may grow by before its circles are collected
_before = 0  # resident bytes after the last collection, or fewer if some were given back since


def resident():
    """Bytes of memory that this process has; 0 if the system does not say."""
    words = read("/proc/self/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if words else 0


def trim():
    """Let the C library give back what was freed; else growth within it would be invisible."""
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if function is not None:
        function(0)


def collect():
    """Free what nobody holds if the process has grown by GROWTH since the last time. To be called for each new net."""
    global _before
    if resident() - _before >= GROWTH:
        trim()  # MXNet may have freed some only after the last collection: its operators run on their own
    now = resident()
    _before = min(_before, now)
    if now - _before >= GROWTH:
        gc.collect()
        trim()
        _before = resident()
