"""Nets in files for other programs: written (write.py), loaded back and scored with those programs (scoring.py).

A format is a module here with two functions. make(net, about) gives the bytes of its files; net is a PyTorch module
(nets.py), for MXNet's own format a Gluon net. load(paths) gives (forward, about, sentence): the logits of NumPy images,
the files' own description (about.py), and what computes.
"""
import importlib
import importlib.util
from typing import NamedTuple, Tuple

from support.errors import InputError

INSTALL = ".venv/bin/python -m pip install -r requirements-export.txt"


OPSET = 18  # of the .onnx files; PyTorch's own, so nothing is converted


class Format(NamedTuple):
    """What a format is, the endings of its files, what writing needs beside MXNet, and what computes such a file."""

    words: str
    endings: Tuple[str, ...]
    packages: Tuple[str, ...] = ()
    runtime: Tuple[str, ...] = ()  # of a format that evaluate.py scores


FORMATS = {
    "pt2": Format("a program of torch.export", (".pt2",), ("torch",), ("torch",)),
    "safetensors": Format("the weights alone", (".safetensors",), ("torch", "safetensors")),
    "onnx": Format(f"ONNX, opset {OPSET}", (".onnx",), ("torch", "onnx", "onnxscript", "onnxruntime"),
                   ("onnxruntime",)),
    "symbol": Format("MXNet's symbol and parameters, two files", ("-symbol.json", "-0000.params"))}
SCORED = {ending: name for name, known in FORMATS.items() if known.runtime for ending in known.endings}


def is_one(path):
    """Whether the ending of a path says that it is an exported net that can be scored."""
    return path.endswith(tuple(SCORED))


def require(packages, what):
    """Raise InputError if one of the packages is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {', '.join(missing)}, not installed here: {INSTALL}")


def format_module(name):
    """The module of a format."""
    return importlib.import_module(f"{__name__}.{name}")
