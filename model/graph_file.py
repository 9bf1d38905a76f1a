"""params/graphs.xz: the graphs of many nets in one file, for machines without MXNet. It is xz-compressed JSON."""
import json
import lzma

from support.errors import InputError
from support.files import content, write_whole

from .weights import RESTORE, SHIPPED

FILE = SHIPPED / "graphs.xz"
FORMAT = 1


def packed(graphs):
    """The bytes of the file for {(model's name, its arguments as JSON): text of its graph (model.graph)}."""
    entries = [{"model": name, "arguments": json.loads(arguments), "graph": json.loads(text)}
               for (name, arguments), text in sorted(graphs.items())]
    return lzma.compress(json.dumps({"format": FORMAT, "nets": entries}).encode(), preset=9 | lzma.PRESET_EXTREME)


def write(graphs, path=FILE):
    """Write the file, whole or not at all. graphs : as `packed` takes them."""
    write_whole(path, packed(graphs))


def read(path=FILE):
    """The entries of the file: dicts with model, arguments and graph. Raises InputError if it cannot be used."""
    try:
        stored = json.loads(lzma.decompress(content(path)))
        if stored["format"] != FORMAT:
            raise ValueError(f"its format is {stored['format']!r}, not {FORMAT}")
        return stored["nets"]
    except (OSError, lzma.LZMAError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be used: {getattr(error, 'strerror', None) or error}; {RESTORE}") from error
