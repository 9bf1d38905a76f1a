"""ImageNet's 2012 classification images in record files or class folders: find and check them.

The images stay on disk and are read in random order, by one thread for each data worker. engine.data.prepare_imagenet
makes the record files.
"""
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from engine.data import class_folders, images
from engine.data.cifar_files import SIDE
from engine.data.class_folders import PREPARE, SPLITS, class_order
from engine.data.class_names import NAMES_FILE, SYNSETS
from engine.data.dataset import EVERY_IMAGE, Dataset, Images, Origin, Training, root_of, translate, unnamed
from engine.data.image_batches import EvalBatches, TrainBatches, normalise_centre, preprocessing, shorter_side
from engine.data.image_sources import Folders, Records, Source
from engine.recipe import CROP_RATIO, HALVINGS, INPUT_SIZE
from support.errors import InputError
from support.files import expanded
from support.threads import usable_cores

log = logging.getLogger(__name__)

NAMES = dict(zip(SYNSETS, (Path(__file__).parent / "imagenet_names.txt").read_text("ascii").splitlines()))

BATCH = {"cpu": 32, "gpu": 128}  # images to score at once: each needs megabytes in a ResNet-50
AUTHORS_BATCH = 256  # two GPUs with 128 each; the counted padding depends on it
PADDING = "full batches of the authors' record iterator, its padding included"

OFFICIAL_COUNTS = {"train": 1_281_167, "val": 50_000}


@dataclass(frozen=True)
class Data(Origin):
    """ImageNet, or some images in its form.

    class_names : WordNet ids, or 'class 0' to 'class K-1' for record files without a synset.txt. variant : "official
    counts", or one sentence about what is not official. provenance : {"sha256" of both lists of images, "official":
    whether counts and classes are, "splits": {split: {"source", "images", "sha256"}}}. train, val : None if not needed.
    """

    train: Optional[Source]
    val: Optional[Source]


def load(data_dir=None, use_rec: bool = False, rec_train=None, rec_train_idx=None, rec_val=None, rec_val_idx=None,
         need: Sequence[str] = SPLITS, variant_of=None) -> Data:
    """Find the splits in `need` ('train', 'val'): in data_dir/SPLIT, a folder for each class, or in record files.

    data_dir : default of `root_of`; if it holds the class folders itself, it serves as either split.
    use_rec : take record files: those named, data_dir/rec/SPLIT.rec or data_dir/SPLIT.rec. They are also taken if one
    is named, or if data_dir has record files and no folders.
    variant_of(sources by split, class names, root) : the variant; by default from ImageNet's counts, with a warning.

    Raises InputError if nothing is found, if something is malformed, or if both splits would be the same files.
    """
    root = root_of("imagenet", data_dir)
    named = {"train": (rec_train, rec_train_idx), "val": (rec_val, rec_val_idx)}
    try:
        return _load(root, use_rec, {split: named[split] for split in need}, variant_of or _variant)
    except OSError as error:  # such as a folder without permission
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror}; give another --data-dir"
                         ) from None


def _load(root, use_rec, named, variant_of):
    if use_rec or any(rec for rec, _ in named.values()) or _only_records(root, named):
        kind = "records"
        sources = {split: _find_records(root, split, *paths) for split, paths in named.items()}
        known = {source.class_names for source in sources.values()} - {None}
        if len(known) > 1:
            raise InputError(f"{' and '.join(source.description for source in sources.values())} have different "
                             f"classes in the {NAMES_FILE} beside them: give record files that were prepared together")
        names = known.pop() if known else unnamed(1 + max(int(source.labels.max()) for source in sources.values()))
    else:
        kind = "folders"
        sources = _find_folders(root, tuple(named))
        names = next(iter(sources.values())).class_names
    shared = sources["train"].shared(sources["val"]) if len(sources) > 1 else None
    if shared is not None:
        raise InputError(f"{shared} would be both trained on and validated on, so that no score would mean anything: "
                         "give other images for one of them")
    variant = variant_of(sources, names, root)
    provenance = {
        "sha256": hashlib.sha256("".join(source.sha256 for source in sources.values()).encode()).hexdigest(),
        "official": variant == "official counts",
        "splits": {split: {"source": kind, "images": len(source), "sha256": source.sha256}
                   for split, source in sources.items()},
        **{f"{name}_images": len(sources[split]) for name, split in (("train", "train"), ("test", "val"))
           if split in sources},
    }
    return Data(names, variant, provenance, sources.get("train"), sources.get("val"))


def _record_files(root, split):
    return [path for path in (root / "rec" / f"{split}.rec", root / f"{split}.rec") if path.is_file()]


def _only_records(root, need):
    if not root.is_dir() or any((root / split).is_dir() for split in need):
        return False
    packed = [split for split in SPLITS if _record_files(root, split)]
    return set(need) <= set(packed) or bool(packed) and not class_folders.listing(root).folders


def _find_records(root, split, rec, idx):
    if rec is None:
        found = _record_files(root, split)
        if not found:
            raise InputError(f"there is no {root / 'rec' / split}.rec: name the record file with --rec-{split}, or its "
                             f"folder with --data-dir, or make it with: {PREPARE} {root}")
        rec = found[0]
    if not expanded(rec).is_file():
        raise InputError(f"there is no record file {rec}: give --rec-{split} the path of a .rec")
    return Records(rec, idx)


def _find_folders(root, need):
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: give ImageNet's with --data-dir; docs/IMAGENET.md says how to "
                         "get and prepare it")
    if not any((root / split).is_dir() for split in SPLITS):
        source = Folders(root, class_order(None, root))  # raises if it has no class folders
        if len(need) > 1:
            parent = root.resolve().parent
            advice = f"put those to train on into {root / 'train'} and others into {root / 'val'}, in class folders"
            if all((parent / split).is_dir() for split in SPLITS):
                advice = f"give the folder that holds train and val, --data-dir {parent}"
            raise InputError(f"{root} holds class folders, and the same images would be trained on and validated on: "
                             f"{advice}")
        return dict.fromkeys(need, source)
    for split in need:
        if not (root / split).is_dir():
            packed = ", or read the record files with --use-rec" if _record_files(root, split) else ""
            raise InputError(f"there is no {root / split}: put its class folders there, or make it from the official "
                             f"archive with: {PREPARE} {root}{packed}")
    names = class_order(root / "train" if (root / "train").is_dir() else None, root / "val")
    return {split: Folders(root / split, names) for split in need}


def _variant(sources, names, root):
    parts = [f"{len(source):,} {'training' if split == 'train' else 'validation'} images (officially "
             f"{OFFICIAL_COUNTS[split]:,})"
             for split, source in sources.items() if len(source) != OFFICIAL_COUNTS[split]]
    if len(names) != len(SYNSETS):
        parts.append(f"{len(names):,} classes (officially {len(SYNSETS):,})")
    elif names[0] != "class 0" and names != SYNSETS:
        parts.append("the class names are not the official WordNet ids in their order")
    if "train" not in sources and Path(sources["val"].description).resolve().name == "train":
        parts.append("from a folder named train")
    for split, source in sources.items():
        absent = len(names) - len(np.unique(source.labels[source.labels >= 0]))
        if absent:
            parts.append(f"{absent:,} of {len(names):,} classes without an image in {split}")
    if parts:
        log.warning("ImageNet: %s", "; ".join(parts))
    return "; ".join(parts) or "official counts"


class ImageNetSet(Dataset):
    """ImageNet: images read as needed, from record files or from a folder for each class.

    options : data_dir, use_rec, rec_train, rec_train_idx, rec_val, rec_val_idx, damaged, num_data_workers,
    count_padding, input_size, crop_ratio; an absent one is off. A class is known by its name, a WordNet id: if the
    data have only some of a net's classes, or another order, an evaluation translates the labels.
    """

    outputs = (len(SYNSETS),)

    def __init__(self, name, options, known=None):
        super().__init__(name, options)
        self.classes_of_run = known and known.class_names
        self.size = self.option("input_size") or (known and known.input_size)
        self.crop_ratio = self.option("crop_ratio") or (known and known.crop_ratio) or CROP_RATIO

    def option(self, name):
        return getattr(self.options, name, None)

    @property
    def record(self):
        return {"input_size": self.size, "crop_ratio": self.crop_ratio}

    @property
    def workers(self):
        """Threads that read images."""
        given = self.option("num_data_workers")
        return usable_cores() if given is None else given

    @property
    def damaged(self):
        return self.option("damaged") or "refuse"

    def class_names(self, classes):
        return tuple(f"{name} {NAMES[name]}" if name in NAMES else name for name in self._names(classes))

    def _names(self, classes):
        """The names in the data; 'class 0' and so on if they are not known."""
        if self.classes_of_run:
            return tuple(self.classes_of_run)
        return SYNSETS if classes == len(SYNSETS) else unnamed(classes)

    def complete(self, model, arguments, size):
        if size == SIDE:
            raise InputError(f"{model} is for CIFAR's images: name a ResNet-50 of model.list_models()")
        return self.sized(arguments)

    def sized(self, arguments):
        """The arguments of a net; sets self.size."""
        own = "input_size" in arguments  # the net is made for one size
        if own and self.option("input_size"):
            arguments = {**arguments, "input_size": self.option("input_size")}
        self.size = (arguments["input_size"] if own else self.size) or INPUT_SIZE
        if not isinstance(self.size, int) or self.size % HALVINGS or not isinstance(self.crop_ratio, (int, float)):
            raise InputError(f"--input-size is a multiple of {HALVINGS} and --crop-ratio a number, got {self.size!r} "
                             f"and {self.crop_ratio!r}")
        return arguments

    def load(self, need):
        """The Data with the splits in `need`."""
        named = {name: self.option(name) for name in ("rec_train", "rec_train_idx", "rec_val", "rec_val_idx")}
        return load(self.options.data_dir, bool(self.option("use_rec")), need=need, **named)

    def training(self, experiment, batch_size, kind, part=(0, 1)):
        data, size, recipe = self.load(SPLITS), experiment.input_size, experiment.recipe
        batches = TrainBatches(data.train, batch_size, experiment.seed, size, part=part, damaged=self.damaged)
        score_batches = EvalBatches(data.val, min(recipe.batch_size // recipe.accumulate, len(data.val)), size,
                                    experiment.crop_ratio, self.workers, part, damaged=self.damaged)
        return Training(data.origin, batches, score_batches, "validation", None, (
            f"data: {len(data.train):,} training and {len(data.val):,} validation images in {len(data.class_names)} "
            f"classes, {size}x{size} pixels, {data.in_short}, sha256 {data.provenance['sha256']}",))

    def images(self, classes, kind, batch_size=None):
        names, data, padding = self._names(classes), self.load(("val",)), bool(self.option("count_padding"))
        batch_size = batch_size or (AUTHORS_BATCH if padding else BATCH[kind])
        if not padding:
            batch_size = min(batch_size, len(data.val))
        translation = translate(data.val, data.class_names, names)
        labels = None if translation is None else translation[data.val.labels]
        batches = EvalBatches(data.val, batch_size, self.size, self.crop_ratio, self.workers, count_padding=padding,
                              damaged=self.damaged, labels=labels)
        text = (f"{self.title}: {len(data.val):,} validation images of {data.val.description}, data "
                f"{data.in_short}; the middle {self.size} x {self.size} after the shorter side was made "
                f"{batches.shorter}")
        if labels is not None:
            text += "; its classes are in another order than the net's and matched by name"
        return Images(data.origin, batches, text, PADDING if padding else EVERY_IMAGE)

    @property
    def preprocessing(self):
        return preprocessing(self.size, self.crop_ratio)

    def pixels(self, picture):
        """As a validation image: its middle, at the run's size."""
        images.require()
        batch = np.empty((1, 3, self.size, self.size), np.float32)
        normalise_centre(picture, shorter_side(self.size, self.crop_ratio), batch[0])
        return batch
