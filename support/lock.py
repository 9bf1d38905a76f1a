"""A lock on a folder or file for processes on one machine or one shared disk. It ends with its owner."""
import contextlib
import errno
import fcntl
import os
import sys
from pathlib import Path

from .errors import InputError
from .files import content, writing

# The errors of file systems without locks. There the work continues without one.
_UNKNOWN = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def locked(path, busy=None, waiting=None):
    """Hold the lock file `path`, which exists while a process holds it. The system frees it however its owner ends.

    busy: the message of an InputError if another process holds it; {owner} is that process's number. Without busy the
    call waits, and first prints `waiting`, with {owner} too, on standard error. InputError also if path cannot be
    written.
    """
    path = Path(path)
    descriptor = take(path, wait=busy is None and waiting is None)
    if descriptor is None:
        owner = _owner(path)
        if busy is not None:
            raise InputError(busy.replace("{owner}", owner))
        print(waiting.replace("{owner}", owner), file=sys.stderr, flush=True)
        descriptor = take(path, wait=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)  # before it is free, so that a waiting process sees its file gone and makes a new one
        os.close(descriptor)


def take(path, wait=False):
    """Lock the file `path`. Returns a descriptor, which holds the lock until it and its inherited copies are closed.

    None if another process holds the lock and wait is False. InputError if path cannot be written.
    """
    while True:
        with writing(path, "choose another folder"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor, wait)
            if _is_at(descriptor, path):
                with contextlib.suppress(OSError):  # on a full disk the lock holds without its owner's number
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last owner has removed the file meanwhile


def holder(path):
    """The number of the process on this machine that holds the lock file `path`; None if there is none.

    Only looks: the lock is free to take all the while.
    """
    try:
        owner, there = int(_owner(path)), os.stat(path)
        if owner < 1:  # which would mean a group
            return None
        os.kill(owner, 0)
    except PermissionError:  # another user's
        return owner
    except (OSError, ValueError, OverflowError):
        return None
    try:  # a killed process leaves its file, and its number may be another one's by now
        opened = [os.stat(entry.path) for entry in os.scandir(f"/proc/{owner}/fd") if os.path.exists(entry.path)]
    except OSError:
        return owner
    return owner if any(os.path.samestat(file, there) for file in opened) else None


def _owner(path):
    try:
        return content(path)[:32].decode("ascii", "replace").strip() or "unknown"
    except OSError:  # removed meanwhile
        return "unknown"


def _is_at(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _lock(descriptor, wait):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
