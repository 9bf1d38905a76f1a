"""Exported nets, loaded in their own programs, with the part of a backend (backend.base) that evaluate.py needs."""
import contextlib
import functools
from typing import Any, Callable, NamedTuple

import numpy as np

from backend import base
from engine.steps import read_from
from support.errors import InputError, out_of_memory

from . import FORMATS, SCORED, format_module, require
from .about import About


class Loaded(NamedTuple):
    """A net in its own program. forward(images) : logits (N, classes) of float32 images (N, 3, S, S), in NumPy."""

    forward: Callable[[Any], np.ndarray]
    about: About
    sentence: str


def load(name, paths):
    """The Loaded of a format's files. Raises InputError for files that are not ours, or damaged."""
    shown = str(paths[0])
    try:
        forward, about, sentence = format_module(name).load(paths)
    except (InputError, OSError):
        raise
    except Exception as error:  # each program has its own
        if out_of_memory(error) is not None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{shown} cannot be loaded ({type(error).__name__}: {reason}); export it again") from error
    classes, size = about.arguments["classes"], about.preprocessing.size

    def checked(images):
        try:
            logits = forward(np.array(images, np.float32))  # a copy: the batches are read-only
        except Exception as error:
            if out_of_memory(error) is not None:
                raise
            raise InputError(f"{shown} does not compute images of {size} x {size} pixels ({type(error).__name__}: "
                             f"{' '.join(str(error).split())[:200]}); export it again") from error
        if logits.shape != (len(images), classes):
            raise InputError(f"{shown} says that it has {classes} classes, and answers {len(images)} images with an "
                             f"array {logits.shape}; export it again")
        return logits

    return Loaded(checked, about, sentence)


def opened(path):
    """The Loaded of a file that a user names. Raises InputError."""
    ending = next(ending for ending in SCORED if path.endswith(ending))
    require(FORMATS[SCORED[ending]].runtime, f"a {ending} file")
    try:
        return load(SCORED[ending], [path])
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error


def devices(wanted):
    """The CPU, whatever is wanted, and a sentence about it."""
    return ["cpu"], "running on the CPU, as every exported net does here"


def kind(devices):
    """'cpu'."""
    return "cpu"


class Scorer(base.Scorer):
    """A Loaded net."""

    def __init__(self, net):
        self.net = net

    def answers(self, batches):
        with contextlib.closing(read_from(batches)) as reading:
            for images, truth, count in reading:
                logits = self.net.forward(images)
                yield functools.partial(np.asarray, logits), truth[:count]

    def logits(self, images):
        return self.net.forward(images).astype(np.float64)


def scorer(net, devices, example, mode="hybrid", fused="auto"):
    """The Scorer of a Loaded net and a sentence; all but net are of the Gluon backend, without meaning here."""
    return Scorer(net), net.sentence
