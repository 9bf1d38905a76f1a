"""An exported net on its way to disk: made, loaded back by its own program, compared with the net, put in its place."""
import contextlib
import os

import numpy as np

from engine.data.cifar_files import SIDE
from support.errors import InputError
from support.files import replacing, writing

from . import FORMATS, format_module
from .scoring import load

TOLERANCE = 1e-4  # of the largest logit; rounding alone makes about 1e-6
MOST, FEW = 128, 8  # images in the largest batch that is compared: of CIFAR's size, and larger ones


def largest_batch(size):
    """How many images of size x size pixels are in the largest batch that is compared."""
    return MOST if size == SIDE else FEW


def images_wanted(size):
    """How many images fill a batch of 1, one of 2 and the largest."""
    return 3 + largest_batch(size)


def batches_of(images):
    """Batches of 1, of 2, and then of the largest size, together at least all images; short ones are filled."""
    most = largest_batch(images.shape[-1])
    rest = max(1, -(-(len(images) - 3) // most))
    filled = images[np.arange(3 + rest * most) % len(images)]
    return np.split(filled, [1, 3, *range(3 + most, len(filled), most)])


def write(name, net, about, images, called, reference, base):
    """Write a net in a format to base + each of the format's endings; returns (paths, sentence of the comparison).

    net : what the format's `make` takes. about : its About. images : float32 (N, 3, S, S), to compare on. called :
    their number and kind, in words. reference(images) : the right logits. Existing files are replaced, all of them,
    once everything went well; else they stay, and nothing is written. Raises InputError.
    """
    paths = [f"{base}{ending}" for ending in FORMATS[name].endings]
    parts = []
    with writing(base), contextlib.ExitStack() as stack:
        for path in paths:  # before any work, because not every folder can be written to
            with writing(path):
                parts.append(stack.enter_context(replacing(path)))
        for part, content in zip(parts, format_module(name).make(net, about)):
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sentence = compared(load(name, parts), images, called, reference)
    return paths, sentence


def compared(loaded, images, called, reference):
    """A sentence about the answers of a Loaded. Raises InputError if they are not the reference's."""
    batches = batches_of(images)
    found, expected = (np.concatenate([forward(batch) for batch in batches]).astype(np.float64)
                       for forward in (loaded.forward, reference))
    largest = np.abs(expected).max()
    if not np.isfinite(largest):
        raise InputError("the net answers with numbers that are not finite; use another checkpoint")
    difference = np.abs(found - expected).max() / max(largest, np.finfo(np.float32).tiny)
    others = int((found.argmax(1) != expected.argmax(1)).sum())
    sizes = sorted({len(batch) for batch in batches})
    how = f"{called}, in batches of {', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"
    if not difference <= TOLERANCE or others:
        raise InputError(f"{loaded.sentence} does not answer {how}, as the net does: {others} of {len(found)} answers "
                         f"have another class, and the largest difference is {difference:.2g} of the largest logit "
                         f"({TOLERANCE:g} is allowed); nothing was written")
    return (f"{loaded.sentence} answers {how}, as the net does: the same class for each, and logits that differ by at "
            f"most {difference:.2g} of the largest")
