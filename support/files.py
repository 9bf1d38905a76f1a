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
    """A path that a user gave, its `~` resolved. InputError for a name that the system cannot even look up."""
    try:
        path = Path(path).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except RuntimeError:
        raise InputError(f"{path}: there is no such user's folder; write the path in full") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{str(path)[:200]} cannot be used: {reason}; check the path") from None
    return path


def regular(path, flags):
    """An opener for open(path, ..., opener=regular): for every file that a user names, to read it or to append to it.

    OSError for what is no regular file: a device has no end, a pipe may never have somebody at its other end.
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
    """A temporary path beside `path`: it takes the place of `path` when the block ends well, and vanishes when not.

    What a process that was killed within such a block has left of the same path goes first. Raises IsADirectoryError
    before any work is done if `path` is a folder, and OSError if it is a device or a pipe, which stays.
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
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # tells other machines on this disk that we live
        yield temporary
        os.replace(temporary, path)
    finally:
        os.close(descriptor)
        if os.path.exists(temporary):
            os.remove(temporary)


def _remove_left(path):
    """Remove the temporary files of a path whose processes are gone."""
    folder, name = os.path.split(os.path.abspath(path))
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            number = entry[len(name) + 1:-len(".part")]
            if entry == f"{name}.{number}.part" and number.isdecimal() and not _lives(int(number)):
                with contextlib.suppress(OSError):
                    descriptor = os.open(os.path.join(folder, entry), os.O_RDWR | os.O_CLOEXEC)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.remove(os.path.join(folder, entry))
                    finally:
                        os.close(descriptor)


def _lives(number):
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        pass
    return True


@contextlib.contextmanager
def writing(path, advice="free space or choose another folder"):
    """Make an OSError within the block the InputError that path cannot be written, with the reason and the advice."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; {advice}") from error


def write_whole(path, data, advice="free space or choose another folder"):
    """Write text (as UTF-8) or bytes to a file, which is whole or untouched. InputError if the disk refuses."""
    if isinstance(data, str):
        data = data.encode("utf-8")
    with writing(path, advice), replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def digests(path, names):
    """Digests of a file as hexadecimal text, by their names: hashlib's, and git_blob, git's name of that content."""
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
