"""Class names by label: ImageNet's own, and those in the synset.txt beside record files.

A line is a name; spaces and every script are allowed. A class folder must have a name that a line can hold, so that
folders and the record files made from them have the same classes.
"""
import os
from pathlib import Path
from typing import Iterable, Optional, Tuple

from support import files
from support.errors import InputError

SYNSETS = tuple((Path(__file__).parent / "imagenet_synsets.txt").read_text(encoding="ascii").split())
NAMES_FILE = "synset.txt"  # beside record files


def read_names(path) -> Optional[Tuple[str, ...]]:
    """The names in a file, one on each line; None if there is no such file. Raises InputError."""
    if not os.path.lexists(path):
        return None
    try:
        names = _lines(files.content(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; it must hold a class name on each line") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text at byte {error.start}: it must hold a class name on each line"
                         ) from None
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path} must hold a different class name on each line")
    return names


def write_names(path, names: Iterable[str]) -> None:
    """Write a file that `read_names` reads; it is whole or untouched."""
    files.write_whole(path, "\n".join(names) + "\n")


def check_names(names: Iterable[str], directory) -> None:
    """Raise InputError for a class folder with a name that a line of text cannot hold."""
    for name in names:
        try:
            held = _lines(name.encode("utf-8"))
        except UnicodeEncodeError:
            held = ()
        if held != (name,):
            raise InputError(f"{directory} has the class folder {ascii(name)}: a class name is a line of UTF-8 text "
                             "without spaces at its ends; rename the folder")


def _lines(content):
    """The lines of a text, without a byte order mark, empty lines and white space at the ends of a line."""
    return tuple(filter(None, (line.strip() for line in content.decode("utf-8-sig").split("\n"))))
