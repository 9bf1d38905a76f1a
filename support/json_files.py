"""JSON files: written whole, and read only if they have a given shape.

A shape is a Kind, [shape] for a list, {name: shape} for an object with at least these names, {TEXT: shape} for an
object with any names, or a tuple of shapes, one of which must fit.
"""
import json
import re
import sys
from typing import Callable, NamedTuple

from . import files
from .errors import InputError


class Kind(NamedTuple):
    """A kind of value: its name in a message, and a test for a value."""

    words: str
    holds: Callable


def _is_number(value):
    # Compared before it is used: an integer may be too large for a float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


NOTHING = Kind("null", lambda value: value is None)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("text on one line", lambda value: isinstance(value, str) and value.isprintable())
NUMBER = Kind("a finite number", _is_number)
POSITIVE = Kind("a finite number of at least 0", lambda value: _is_number(value) and value >= 0)
SHARE = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
COUNT = Kind("a whole number of at least 0", lambda value: _is_whole(value) and 0 <= value < 2**63)
SOME = Kind("a whole number of at least 1", lambda value: COUNT.holds(value) and value >= 1)
SHA256 = Kind("a SHA-256", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)
FILE_NAME = Kind("the name of a file without a folder", lambda value: TEXT.holds(value) and "/" not in value
                 and "\\" not in value and value.strip() not in ("", ".", ".."))
LINES = Kind("text", lambda value: isinstance(value, str))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def problem(value, shape, place=""):
    """What is wrong with a value, in a few words; None if it has the shape. place: its path in the file."""
    where = place or "it"
    if isinstance(shape, Kind):
        return None if shape.holds(value) else f"{where} is not {shape.words}"
    if isinstance(shape, tuple):
        problems = [problem(value, each, place) for each in shape]
        return None if None in problems else problems[-1]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is not a list"
        return _first(problem(each, shape[0], f"{place}[{index}]") for index, each in enumerate(value))
    if not isinstance(value, dict):
        return f"{where} is not an object"
    prefix = f"{place}." if place else ""
    if TEXT in shape:
        return _first(problem(name, TEXT, f"a name in {where}") or problem(each, shape[TEXT], f"{prefix}{name}")
                      for name, each in value.items())
    return _first(f"{where} has no {name!r}" if name not in value else problem(value[name], each, f"{prefix}{name}")
                  for name, each in shape.items())


def _first(problems):
    return next(filter(None, problems), None)


def loads(content):
    """The value of a JSON text (str or bytes). ValueError, without words of the content, if it is no JSON."""
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 text at byte {error.start:,}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON at line {error.lineno:,}, column {error.colno:,}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise ValueError("a number in it is too long") from None


def read(path, shape, advice):
    """The value of a JSON file. InputError with the advice if it cannot be read or does not have the shape."""
    try:
        value = loads(files.content(path))
        wrong = problem(value, shape)
    except (OSError, ValueError) as error:
        wrong = getattr(error, "strerror", None) or str(error)
    if wrong:
        raise InputError(f"{path} cannot be used: {wrong}; {advice}")
    return value


def write(path, value):
    """Write a JSON file, whole or not at all. InputError if the disk refuses."""
    files.write_whole(path, json.dumps(value, indent=1, sort_keys=True) + "\n")
