"""Temporary signal handlers, processes that do not outlive their parent, and exit statuses as in shells."""
import contextlib
import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None)  # loaded here: between fork and exec a process should load nothing


@contextlib.contextmanager
def handling(numbers, handler):
    """Within the block these signals call the handler."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def at_parents_death(number, parent):
    """Let the kernel send this process a signal when its parent dies; exit at once if the parent is dead already."""
    _libc.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def exit_status(status):
    """The status of a Popen as in shells: after a signal, 128 plus its number."""
    return status if status >= 0 else 128 - status
