"""Files that are whole or untouched, and their checksums."""
import contextlib
import errno
import hashlib
import os


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside `path`: it takes the place of `path` when the block ends well, and vanishes when not.

    Raises IsADirectoryError before any work is done where `path` is a folder.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    temporary = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def sha256(path):
    """The SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
