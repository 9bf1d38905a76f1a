"""The interface of a data set to a run and to evaluate.py; implement it to add a data set of your own."""
import abc
import os
from dataclasses import dataclass
from typing import Any, Iterable, Optional, Tuple

import numpy as np

from support import json_files
from support.errors import InputError
from support.files import expanded
from support.json_files import NOTHING, OBJECT, TEXT

EVERY_IMAGE = "every image once"
OWN = "own images"  # there are no official ones


@dataclass(frozen=True)
class Known:
    """What is known before any data are read: the net, and the data that it was or will be trained on."""

    model: str
    arguments: dict
    dataset: str
    label_mode: Optional[str] = None
    class_names: Optional[Tuple[str, ...]] = None
    input_size: Optional[int] = None
    crop_ratio: Optional[float] = None

    ENTRY = {"model": TEXT, "arguments": OBJECT, "dataset": TEXT, "label_mode": (NOTHING, TEXT)}

    @classmethod
    def of(cls, experiment, class_names=()):
        """From an Experiment and the class names of a file of ours."""
        return cls(experiment.model, experiment.net, experiment.dataset, experiment.label_mode,
                   tuple(class_names) or None, experiment.input_size, experiment.crop_ratio)

    @classmethod
    def of_entry(cls, entry, path):
        """From the manifest's entry for a file that is not ours. Raises InputError for an incomplete entry."""
        wrong = json_files.problem({"label_mode": None, **entry}, cls.ENTRY)
        if wrong:
            raise InputError(f"{path}: in the manifest {wrong}; restore it from the repository")
        return cls(*(entry.get(name) for name in cls.ENTRY))


@dataclass(frozen=True)
class Origin:
    """Where data are from; also the base of loaded data.

    class_names : by label. variant : "official", or one line that names what is not official; it belongs beside every
    result. provenance : for JSON: sha256, official, train_images, test_images and more fields of the data set.
    """

    class_names: Tuple[str, ...]
    variant: str
    provenance: dict

    @property
    def origin(self):
        """The Origin alone of loaded data."""
        return Origin(self.class_names, self.variant, self.provenance)

    @property
    def in_short(self):
        """What the data are, without details: a warning named what is not official as they were read."""
        if self.variant.startswith(OWN):
            return OWN
        return self.variant if self.provenance["official"] else "not the official files"


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a net's input, in words for other programs.

    The shorter side becomes `shorter` pixels by the filter `resize`, the middle size x size stays, and each pixel, red,
    green and blue, becomes (pixel / 255 - mean) / std.
    """

    size: int
    shorter: int
    resize: str
    mean: Tuple[float, float, float]
    std: Tuple[float, float, float]


@dataclass(frozen=True)
class Training:
    """Batches to train on and to score.

    batches : `steps` is the number of steps in an epoch; `epoch(index, start, workers)` gives (images, labels) of the
        steps from `start` on: float32 (B, 3, S, S) and int32 (B,), a function of (seed, epoch, step) alone.
        `draws(epoch, step)`, which is optional, gives the random choices of a step, to make its images from `split` on
        a device.
    score_batches : (images, labels, count) with the first `count` real, scored after every epoch.
    scored_on : the kind of these images: 'test', 'validation' or 'held-out'.
    test_batches : the test images if score_batches are held out, else None.
    remarks : sentences for the log.
    """

    origin: Origin
    batches: Any
    score_batches: Iterable
    scored_on: str
    test_batches: Optional[Iterable] = None
    remarks: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """Test images as batches of (images, labels, count). text : their description in a report."""

    origin: Origin
    batches: Iterable
    text: str
    counting: str = EVERY_IMAGE

    @property
    def skipped(self):
        """Names of the damaged images that were left out so far."""
        return list(self.batches.skipped)


class Dataset(abc.ABC):
    """A data set by its name; nothing is read before `training` or `images`.

    options : the parsed flags; each data set takes its own. known : the Known of the net, or None.

    name : as in an Experiment. label_mode : 'coarse' or 'fine' for CIFAR-100, else None. title : both in words.
    outputs : the lengths of its nets' outputs, the most common first; () if the data decide. record : its fields in
    the JSON record of an evaluation.
    """

    label_mode = None
    outputs = ()
    record = {}

    def __init__(self, name, options, known=None):
        self.name = self.title = name
        self.options = options

    @abc.abstractmethod
    def class_names(self, classes):
        """Names by label, before any data are read; classes : length of the net's output."""

    @abc.abstractmethod
    def complete(self, model, arguments, size):
        """The net's arguments, completed by the flags; size : side of the net's images. Raises InputError."""

    @abc.abstractmethod
    def training(self, experiment, batch_size, kind, part=(0, 1)):
        """The Training of an Experiment with batch_size images in a step, on devices of a kind ('cpu' or 'gpu').

        part : (rank, workers), this worker's share of every batch. Raises InputError for data that cannot be used.
        """

    @abc.abstractmethod
    def images(self, classes, kind, batch_size=None):
        """The test images as Images, for a net with this number of classes."""

    @property
    @abc.abstractmethod
    def preprocessing(self):
        """What `pixels` does, as a Preprocessing; known after `complete`."""

    @abc.abstractmethod
    def pixels(self, picture):
        """The net's input, float32 (1, 3, S, S), for a picture, uint8 (height, width, 3), blue first."""

    def visible(self, pixels):
        """The picture (S, S, 3), red first, from 0 to 1, of a net's input, float32 (3, S, S)."""
        made = self.preprocessing
        return (pixels.transpose(1, 2, 0) * made.std + made.mean).clip(0, 1)


def root_of(name, given=None):
    """The folder of a data set: the given one, or ~/.mxnet/datasets/<name>, as in Gluon and GluonCV."""
    if given is not None:
        return expanded(given)
    return expanded(os.environ.get("MXNET_HOME") or "~/.mxnet") / "datasets" / name


def steps_of(images, batch_size):
    """The steps of an epoch without a last batch that is not full. Raises InputError if there would be none."""
    if batch_size > images:
        raise InputError(f"a batch of {batch_size} does not fit {images} training images: give a batch size from 1 to "
                         f"{images}")
    return images // batch_size


def stretch(count, part):
    """The rank-th of `parts` stretches of `count` images, as a slice; part: (rank, parts). InputError if empty."""
    rank, parts = part
    if count < parts:
        raise InputError(f"{count} images cannot be shared by {parts} workers: use fewer")
    return slice(count * rank // parts, count * (rank + 1) // parts)


def unnamed(classes):
    """The names of classes without names."""
    return tuple(f"class {label}" for label in range(classes))


def translate(source, names, outputs):
    """The net's output for each label of a source, int32 (labels,); None if the numbers are the same.

    names, outputs: the class names by label and by output. Raises InputError for images of a class that the net does
    not have.
    """
    known = unnamed(len(names)) != names
    if not known and len(names) <= len(outputs):
        return None  # without class names, the labels of a record file are outputs
    if not known or unnamed(len(outputs)) == outputs:
        if len(names) != len(outputs):
            raise InputError(f"{source.description} has {len(names):,} classes and the net {len(outputs):,}, and no "
                             "names to match them by: give the data that the net was trained on")
        return None
    places = {name: place for place, name in enumerate(outputs)}
    present = [names[label] for label in np.unique(source.labels) if label >= 0]
    strange = [name for name in present if name not in places]
    if strange:
        raise InputError(f"{source.description} has images of {len(strange):,} class(es) that the net does not have, "
                         f"{strange[0]} first: give the data that the net was trained on")
    found = np.array([places.get(name, -1) for name in names], np.int32)
    return None if (found[found >= 0] == np.flatnonzero(found >= 0)).all() else found
