"""A torch.export program with its weights (torch.export.save): it runs in PyTorch without this project.

PyTorch's loader reads expressions and may unpickle parts of such a file, so one from a stranger may run code. What the
file says of itself is read first, without that loader.
"""
import io
import json
import logging
import warnings
import zipfile
from contextlib import contextmanager

import torch

from support import json_files
from support.files import content
from support.json_files import LINES, TEXT

from .about import About
from .nets import forward_of

ABOUT = "about.json"


@contextmanager
def quiet():
    """Without the remarks of PyTorch's exporters about themselves and about packages that are not needed."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def call_of(about):
    """Arguments of PyTorch's exporters: an example, and that a batch may have any length."""
    size = about.preprocessing.size
    return {"args": (torch.zeros(2, 3, size, size),), "dynamic_shapes": ({0: torch.export.Dim("batch", min=1)},)}


def make(module, about):
    file = io.BytesIO()
    with quiet():
        program = torch.export.export(module, **call_of(about))
        program.example_inputs = None  # PyTorch would pickle them
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        torch.export.save(program, file, extra_files={ABOUT: json.dumps(about.as_texts())})
    return [file.getvalue()]


def load(paths):
    data = io.BytesIO(content(paths[0]))
    about = About.from_texts(described(data), paths[0])  # before PyTorch's loader sees the file
    data.seek(0)
    with quiet():
        program = torch.export.load(data)
    return forward_of(program.module()), about, f"PyTorch {torch.__version__} on the exported program"


def described(file):
    """The texts of an archive, by Python's own reader; {} if it has none."""
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/extra/{ABOUT}")]
        texts = json_files.loads(archive.read(names[0])) if names else {}
    return texts if json_files.problem(texts, {TEXT: LINES}) is None else {}
