"""Processes that do not outlive their parent, and what their exit status is in a shell."""
import ctypes
import os

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None)  # loaded here: between fork and exec a process should load nothing


def at_parents_death(number, parent):
    """Have the kernel send this process a signal when its parent dies; exit at once if it is dead already."""
    _libc.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def exit_status(status):
    """The status of a Popen as shells give it: 128 and the signal's number after a signal."""
    return status if status >= 0 else 128 - status
