"""A data set of a user's own: DIR/train and DIR/val, each with a folder of images for each class."""
import functools
import logging

import numpy as np

from engine.data import class_folders, images
from engine.data.class_folders import SPLITS
from engine.data.dataset import OWN, Images, Origin, translate
from engine.data.imagenet import ImageNetSet, load
from engine.data.in_memory import CPU_BATCH, SIDE, SMALL, EvalBatches, Split, digest, normalise, small, training_of
from engine.data.prefetch import by_workers
from engine.data.records import Damaged
from support.errors import InputError
from support.files import expanded

log = logging.getLogger(__name__)

HOW = "--dataset folder takes --data-dir DIR with DIR/train and DIR/val, each with a folder of images for each class"


class FolderSet(ImageNetSet):
    """A folder of images for each class, for nets of 32 pixels and for ResNet-50; options as ImageNetSet's.

    For a net of 32 pixels, the scaled middle square of every image is held in memory, with CIFAR's means and
    augmentation. For a ResNet-50, the images are treated as ImageNet's.
    """

    outputs = ()

    def root(self, need=SPLITS):
        """The folder. Raises InputError if a split is missing."""
        if self.options.data_dir is None:
            raise InputError(HOW)
        root = expanded(self.options.data_dir)
        for split in need:
            if not (root / split).is_dir():
                raise InputError(f"there is no folder {root / split}: {HOW}")
        return root

    def _names(self, classes):
        if self.classes_of_run:
            return tuple(self.classes_of_run)
        root = self.root(("val",))
        return tuple(class_folders.classes(root / ("train" if (root / "train").is_dir() else "val")))

    def class_names(self, classes=None):
        return self._names(classes)

    def complete(self, model, arguments, size):
        if size != SIDE:
            return self.sized(arguments)
        self.size = SIDE
        return arguments

    def load(self, need):
        return load(self.root(need), need=need, variant_of=own_variant)

    def training(self, experiment, batch_size, kind, part=(0, 1)):
        if experiment.input_size != SIDE:
            return super().training(experiment, batch_size, kind, part)
        data = self.load(SPLITS)
        train, val = self.read(data.train), self.read(data.val)
        origin = Origin(data.class_names, data.variant, {**data.provenance, "sha256": digest(train, val)})
        return training_of(origin, train, val, experiment, batch_size, kind, "validation", (
            f"data: {len(train):,} training and {len(val):,} validation images in {len(data.class_names)} classes, "
            f"{SIDE}x{SIDE} pixels, {data.variant}, sha256 {origin.provenance['sha256']}",), part)

    def images(self, classes, kind, batch_size=None):
        if self.size != SIDE:
            return super().images(classes, kind, batch_size)
        data, names = self.load(("val",)), self._names(classes)
        split = self.read(data.val)
        translation = translate(data.val, data.class_names, names)
        if translation is not None:
            split = Split(split.images, translation[split.labels])
        batches = EvalBatches(split, min(batch_size or CPU_BATCH, len(split)))
        return Images(data.origin, batches, f"{self.title}: {len(split):,} validation images of "
                      f"{data.val.description}; their middle square, {SIDE} x {SIDE}")

    def read(self, source):
        """All images of a source in memory, as a Split; damaged ones as --damaged says."""
        images.require()
        source.check(self.damaged)
        pixels, labels = [], []
        calls = (functools.partial(self._small, source, index) for index in range(len(source)))
        for index, made in enumerate(by_workers(calls, self.workers, more=64)):
            if isinstance(made, Damaged):
                log.warning("left out %s: %s", source.left_out(index, made, self.damaged), made)
            else:
                pixels.append(made)
                labels.append(source.labels[index])
        if not pixels:
            raise InputError(f"{source.description} has no image that is not damaged")
        return Split(np.ascontiguousarray(np.stack(pixels)), np.array(labels, np.int32))

    @staticmethod
    def _small(source, index):
        try:
            return small(images.decode(source.read(index)))
        except Damaged as reason:
            return reason

    @property
    def preprocessing(self):
        return SMALL if self.size == SIDE else super().preprocessing

    def pixels(self, picture):
        return normalise(small(picture)[None]) if self.size == SIDE else super().pixels(picture)


def own_variant(sources, names, root):
    """The variant of the data, which belongs beside every result: there are no official ones."""
    counts = " and ".join(f"{len(source):,} {'training' if split == 'train' else 'validation'} images"
                          for split, source in sources.items())
    return f"{OWN}: {counts} in {len(names):,} classes"
