"""A lock on a folder or file, for processes on one machine or one shared disk, that dies with its owner."""
import contextlib
import errno
import fcntl
import os
from pathlib import Path

from .errors import InputError

# What file systems answer that know no locks. Work on them goes on without.
_UNKNOWN = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def locked(path, busy=None):
    """Hold the lock file `path`, which exists as long as someone does; the system frees it however its owner ends.

    busy: a sentence for an InputError where another process holds it, with {owner} for its number; without it the call
    waits. InputError also where path cannot be written.
    """
    path = Path(path)
    descriptor = _acquire(path, busy)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)  # before it is free, so that whoever waits sees that its file is gone, and makes a new one
        os.close(descriptor)


def _acquire(path, busy):
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}; choose another folder") from error
        try:
            _lock(descriptor, wait=busy is None)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise InputError(busy.format(owner=owner)) from None
        except BaseException:
            os.close(descriptor)
            raise
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                os.truncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        os.close(descriptor)  # its last owner has removed it in the meantime


def _lock(descriptor, wait):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
