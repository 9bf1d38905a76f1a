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


def program_of(module, about):
    """The ExportedProgram of a module, for batches of any length."""
    size = about.preprocessing.size
    with quiet():
        program = torch.export.export(module, (torch.zeros(2, 3, size, size),),
                                      dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    program.example_inputs = None  # PyTorch would pickle them
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def make(module, about):
    file = io.BytesIO()
    with quiet():
        torch.export.save(program_of(module, about), file, extra_files={ABOUT: json.dumps(about.as_texts())})
    return [file.getvalue()]


def load(paths):
    data = io.BytesIO(content(paths[0]))
    texts = described(data)
    data.seek(0)
    with quiet():
        program = torch.export.load(data)
    return forward_of(program.module()), texts, f"PyTorch {torch.__version__} on the exported program"


def described(file):
    """The texts of an archive, by Python's own reader; {} if it has none."""
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/extra/{ABOUT}")]
        texts = json_files.loads(archive.read(names[0])) if names else {}
    return texts if json_files.problem(texts, {TEXT: LINES}) is None else {}
