"""What evaluate.py must know of a data set, behind one interface: its classes, its test images, its way with a picture.

`of(name, args, known)` makes the object of a data set. args are the parsed flags; known is what the file under
evaluation says of itself, None for a file of somebody else's. Every object has

    name, label_mode        'coarse' or 'fine' for CIFAR-100, else None
    title                   both in words
    usual                   the lengths of output that its nets have, the commonest first
    batch_size(contexts)    images at a time where --batch-size says nothing
    class_names(classes)    of the labels, known before any data is read; classes is the length of the net's output
    complete(model, arguments, size)  the net's arguments with what the flags add; size is the side of its images
    load(classes, batch_size)  the test images as `Images`
    pixels(picture)         a picture of engine.data.images as the net takes it: float32 (1, 3, S, S)
    record                  what it adds to the JSON record
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Optional, Tuple

import numpy as np
from PIL import Image

from support import json_files, threads
from support.errors import InputError
from support.json_files import NOTHING, OBJECT, TEXT

from . import cifar, imagenet, images

EVERY_IMAGE = "every image once"
PADDING = "full batches of the authors' record iterator, its padding included"

CIFAR_BATCH = 250
IMAGENET_BATCH = {"cpu": 32, "gpu": 128}  # by the kind of device: every image needs megabytes in a ResNet-50
AUTHORS_BATCH = 256  # two GPUs with 128 each; how much of the padding is counted depends on it

INPUT_SIZE, CROP_RATIO = 224, .875  # of the authors' script
HALVINGS = 32  # a ResNet-50 halves the side of its images five times
NAMES = dict(zip(imagenet.SYNSETS, (Path(__file__).parent / "imagenet_names.txt").read_text("ascii").splitlines()))


@dataclass(frozen=True)
class Known:
    """What is known of a parameter file before anything is asked: its net, and the data that it was trained on."""

    model: str
    arguments: dict
    dataset: str
    label_mode: Optional[str] = None
    class_names: Optional[Tuple[str, ...]] = None
    input_size: Optional[int] = None
    crop_ratio: Optional[float] = None

    ENTRY = {"model": TEXT, "arguments": OBJECT, "dataset": TEXT, "label_mode": (NOTHING, TEXT)}

    @classmethod
    def of(cls, saved):
        """From the Saved of a file of ours."""
        run = saved.experiment
        return cls(run.model, run.net, run.dataset, run.label_mode, tuple(saved.data.get("class_names") or ()) or None,
                   run.input_size, run.crop_ratio)

    @classmethod
    def of_entry(cls, entry, path):
        """From the manifest's entry of somebody else's file. Raises InputError for one that does not say it all."""
        wrong = json_files.problem({"label_mode": None, **entry}, cls.ENTRY)
        if wrong:
            raise InputError(f"{path}: in the manifest {wrong}; restore it from the repository")
        return cls(*(entry.get(name) for name in cls.ENTRY))


def of(name, args, known=None):
    """The task of a data set by its name."""
    return (ImageNet if name == "imagenet" else Cifar)(name, args, known)


@dataclass(frozen=True)
class Images:
    """Test images as batches of (images, labels, count).

    expected: how many an evaluation has to count, damaged ones included. text: what a report says of them; variant,
    sha256: of the data, as the loaders have them.
    """

    batches: Iterable
    expected: int
    text: str
    variant: str
    sha256: str
    counting: str = EVERY_IMAGE

    @property
    def skipped(self):
        """Names of the damaged images that were left out so far."""
        return getattr(self.batches, "skipped", [])

    def check(self, counted):
        """InputError unless this number is what there was to count."""
        if counted + len(self.skipped) != self.expected:  # never on whole data
            raise InputError(f"evaluated {counted:,} of {self.expected:,} images, {len(self.skipped):,} left out")


class Cifar:
    """CIFAR-10 or CIFAR-100, in memory."""

    record = {}

    def __init__(self, name, args, known):
        own = None if known is None else known.label_mode
        self.name, self.args = name, args
        self.label_mode = own or args.label_mode or ("coarse" if name == "cifar100" else None)
        self.title = f"{name} ({self.label_mode} labels)" if self.label_mode else name
        self.usual = (10,) if name == "cifar10" else (100, 20) if self.label_mode == "coarse" else (100,)

    def batch_size(self, contexts):
        return CIFAR_BATCH

    def class_names(self, classes):
        return cifar.class_names(self.name, self.label_mode)

    def complete(self, model, arguments, size):
        cifar.check_size(model, size)
        return arguments

    def load(self, classes, batch_size):
        data = cifar.load_or_download(self.name, self.args.data_dir, self.label_mode, self.args.mirror)
        count = len(data.test)
        return Images(cifar.EvalBatches(data.test, min(batch_size, count)), count,
                      f"{self.title}: {count:,} test images, data {in_short(data)}", data.variant,
                      data.provenance["sha256"])

    def pixels(self, picture):
        """The middle square, scaled."""
        height, width = picture.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        made = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(picture), "raw", "BGR", 0, 1)
        made = made.resize((cifar.SIDE, cifar.SIDE), Image.BICUBIC, box=(left, top, left + side, top + side))
        return cifar.normalise(np.asarray(made).transpose(2, 0, 1)[None])


class ImageNet:
    """ImageNet's validation images, read while they are needed, from record files or from a folder for each class.

    A label means a class by its name, a WordNet id: where the data has only some of a net's classes, or has them in
    another order, its labels are translated.
    """

    label_mode = None
    usual = (len(imagenet.SYNSETS),)

    def __init__(self, name, args, known):
        self.name = self.title = name
        self.args = args
        self.classes_of_run = known and known.class_names
        self.size = args.input_size or (known and known.input_size)
        self.crop_ratio = args.crop_ratio or (known and known.crop_ratio) or CROP_RATIO

    @property
    def record(self):
        return {"input_size": self.size, "crop_ratio": self.crop_ratio}

    def batch_size(self, contexts):
        return AUTHORS_BATCH if self.args.count_padding else IMAGENET_BATCH[contexts[0].device_type]

    def class_names(self, classes):
        return tuple(f"{name} {NAMES[name]}" if name in NAMES else name for name in self._names(classes))

    def _names(self, classes):
        """The names as data has them; 'class 0' and so on where nobody knows."""
        if self.classes_of_run:
            return tuple(self.classes_of_run)
        return imagenet.SYNSETS if classes == len(imagenet.SYNSETS) else unnamed(classes)

    def complete(self, model, arguments, size):
        if size == cifar.SIDE:
            raise InputError(f"{model} is for CIFAR's images: name a ResNet-50 of model.list_models()")
        own = "input_size" in arguments
        if own and self.args.input_size:  # of a net that was made for one size
            arguments = {**arguments, "input_size": self.args.input_size}
        self.size = (arguments["input_size"] if own else self.size) or INPUT_SIZE
        if not isinstance(self.size, int) or self.size % HALVINGS or not isinstance(self.crop_ratio, (int, float)):
            raise InputError(f"--input-size is a multiple of {HALVINGS} and --crop-ratio a number, got {self.size!r} "
                             f"and {self.crop_ratio!r}")
        return arguments

    def load(self, classes, batch_size):
        args, names = self.args, self._names(classes)
        data = imagenet.load(args.data_dir, bool(args.use_rec), rec_val=args.rec_val, rec_val_idx=args.rec_val_idx,
                             need=("val",))
        count = len(data.val)
        if not args.count_padding:
            batch_size = min(batch_size, count)
        workers = threads.usable_cores() if args.num_data_workers is None else args.num_data_workers
        batches = imagenet.EvalBatches(data.val, batch_size, self.size, self.crop_ratio, workers,
                                       count_padding=bool(args.count_padding), damaged=args.damaged or "refuse")
        counting = PADDING if args.count_padding else EVERY_IMAGE
        text = (f"{self.title}: {count:,} validation images of {data.val.description}, data {in_short(data)}; the "
                f"middle {self.size} x {self.size} after the shorter side was made {batches.shorter}")
        translation = translate(data.val, data.class_names, names)
        if translation is not None:
            batches = Translated(batches, translation)
            text += "; its classes are in another order than the net's, and told by their names"
        return Images(batches, len(batches) * batch_size if args.count_padding else count, text, data.variant,
                      data.provenance["sha256"], counting)

    def pixels(self, picture):
        """As a validation image: the middle of it, at the run's size."""
        images.require()
        batch = np.empty((1, 3, self.size, self.size), np.float32)
        imagenet.normalise_centre(picture, imagenet.shorter_side(self.size, self.crop_ratio), batch[0])
        return batch


def in_short(data):
    """What the data are; a warning has said what is not official as they were read."""
    return data.variant if data.provenance["official"] else "not the official files"


def unnamed(classes):
    """What imagenet.load calls classes of which nobody says the names."""
    return tuple(f"class {label}" for label in range(classes))


def translate(source, names, outputs):
    """The outputs of a net that the labels of a source mean, int32 by label; None where the numbers are the same.

    names, outputs: the class names by label and by output. Raises InputError for images of a class that the net does
    not have.
    """
    known = unnamed(len(names)) != names
    if not known and len(names) <= len(outputs):
        return None  # a record file that nobody explains has numbers, and those are outputs
    if not known or unnamed(len(outputs)) == outputs:
        if len(names) != len(outputs):
            raise InputError(f"{source.description} has {len(names):,} classes and the net {len(outputs):,}, and "
                             "nobody says which are which: give the data that the net was trained on")
        return None
    places = {name: place for place, name in enumerate(outputs)}
    present = [names[label] for label in np.unique(source.labels) if label >= 0]
    strange = [name for name in present if name not in places]
    if strange:
        raise InputError(f"{source.description} has images of {len(strange):,} class(es) that the net does not have, "
                         f"{strange[0]} first: give the data that the net was trained on")
    found = np.array([places.get(name, -1) for name in names], np.int32)
    return None if (found[found >= 0] == np.flatnonzero(found >= 0)).all() else found


class Translated:
    """Batches with other labels."""

    def __init__(self, batches, translation):
        self.batches, self.translation = batches, translation

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return ((images, self.translation[labels], count) for images, labels, count in self.batches)

    @property
    def skipped(self):
        return self.batches.skipped
