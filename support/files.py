"""Files that are whole or untouched, and their checksums."""
import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path

from .errors import InputError


def expanded(path):
    """A user's path with `~` resolved. InputError for a name that the system cannot look up."""
    try:
        path = Path(path).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except RuntimeError:
        raise InputError(f"{path}: no such user; write the path in full") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{str(path)[:200]} cannot be used: {reason}; check the path") from None
    return path


def regular(path, flags):
    """An opener for open(path, ..., opener=regular), for every file that a user names, to read or to append.

    OSError if it is no regular file: a device has no end, and a pipe may never get another end.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)  # a pipe would wait for its other end
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, a socket, a device that is not there
            raise _irregular(path) from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode) or stat.S_ISDIR(os.fstat(descriptor).st_mode):  # which open() refuses
        return descriptor
    os.close(descriptor)
    raise _irregular(path)


def _irregular(path):
    return OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def content(path):
    """All bytes of a regular file. OSError for anything else."""
    with open(path, "rb", opener=regular) as file:
        return file.read()


@contextlib.contextmanager
def replacing(path):
    """A temporary path in the folder of `path`. It replaces `path` when the block ends well; otherwise it is removed.

    First removes the temporary files that killed processes left for the same path. Before any work is done, raises
    IsADirectoryError if `path` is a folder, and OSError if it is a device or a pipe.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise _irregular(path)
    _remove_left(path)
    temporary = f"{os.fspath(path)}.{os.getpid()}.part"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # shows other processes and machines that we live
        yield temporary
        os.replace(temporary, path)
    finally:
        os.close(descriptor)
        if os.path.exists(temporary):
            os.remove(temporary)


def _remove_left(path):
    """Remove a path's temporary files that no process writes any more: nobody has locked them."""
    folder, name = os.path.split(os.path.abspath(path))
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            number = entry[len(name) + 1:-len(".part")]
            if entry == f"{name}.{number}.part" and number.isdecimal():
                with contextlib.suppress(OSError):
                    descriptor = os.open(os.path.join(folder, entry), os.O_RDWR | os.O_CLOEXEC)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.remove(os.path.join(folder, entry))
                    finally:
                        os.close(descriptor)


@contextlib.contextmanager
def writing(path, advice="free space or choose another folder"):
    """Turn an OSError within the block into the InputError that path cannot be written, with the reason and advice."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; {advice}") from error


def write_whole(path, data, advice="free space or choose another folder"):
    """Write text (as UTF-8) or bytes to a file, whole or not at all. InputError if the disk refuses."""
    if isinstance(data, str):
        data = data.encode("utf-8")
    with writing(path, advice), replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def digests(path, names):
    """Digests of a file as hexadecimal text, by name: hashlib's names, and git_blob for git's name of the content."""
    made = {name: hashlib.sha1(b"blob %d\0" % os.path.getsize(path)) if name == "git_blob" else hashlib.new(name)
            for name in names}
    if made:
        with open(path, "rb", opener=regular) as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                for digest in made.values():
                    digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in made.items()}


def sha256(path):
    """The SHA-256 of a file as hexadecimal text."""
    return digests(path, ["sha256"])["sha256"]
