"""Images in memory and their batches: shuffled and augmented for training, in order for scoring."""
import functools
import hashlib
from dataclasses import dataclass
from typing import Iterator, NamedTuple, Tuple

import numpy as np
from PIL import Image

from engine.data.cifar_files import SIDE
from engine.data.dataset import Preprocessing, Training, steps_of, stretch
from engine.data.prefetch import by_workers
from engine.seeds import random_stream
from support.errors import InputError

# Of pixel values scaled to 0..1, as in the authors' code for both CIFAR sets. Each deviation is the mean of
# the images' own deviations; over all CIFAR-10 training pixels the deviations are .247, .243, .262.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)

# Images to score at once; 1000 fill a GPU. Both divide CIFAR's 10,000, so nothing is padded.
CPU_BATCH, GPU_BATCH = 250, 1000

PAD = 4  # zero pixels on each side before the random crop, the authors' transforms.RandomCrop(32, pad=4)

# One random stream for each purpose, so that none depends on the draws of another.
_HOLD_OUT, _ORDER, _AUGMENT = range(3)

SCALE = (1 / (255 * np.array(STD))).astype(np.float32).reshape(3, 1, 1)
SHIFT = (-np.array(MEAN) / np.array(STD)).astype(np.float32).reshape(3, 1, 1)
SMALL = Preprocessing(SIDE, SIDE, "bicubic", MEAN, STD)  # `small`, then `normalise`


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 3, 32, 32), contiguous and read-only, and their labels int32 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        self.images.flags.writeable = False
        self.labels.flags.writeable = False

    def __len__(self):
        return len(self.labels)


def digest(*splits: Split) -> str:
    """SHA-256 of the images and labels (as little-endian int32) of the splits."""
    found = hashlib.sha256()
    for split in splits:
        found.update(split.images)
        found.update(split.labels.astype("<i4"))
    return found.hexdigest()


def hold_out(split: Split, count: int, seed: int) -> Tuple[Split, Split]:
    """Hold out `count` images, drawn from the seed, of every class in proportion; both parts keep the order.

    Returns (training part, held-out part). Raises InputError if either would be empty.
    """
    if not 0 < count < len(split):
        raise InputError(f"cannot hold out {count} of {len(split)} images: give a number from 1 to {len(split) - 1}")
    sizes = np.bincount(split.labels)
    shares = sizes * count / len(split)
    taken = np.floor(shares).astype(int)
    # The images left by rounding down go to the largest remainders, on a tie to the lower label.
    taken[np.argsort(taken - shares, kind="stable")[: count - taken.sum()]] += 1

    generator = random_stream(seed, _HOLD_OUT)
    held = np.zeros(len(split), bool)
    for label, number in enumerate(taken):
        held[generator.permutation(np.flatnonzero(split.labels == label))[:number]] = True
    return tuple(Split(split.images[part], split.labels[part]) for part in (~held, held))


def normalise(images: np.ndarray) -> np.ndarray:
    """(pixel / 255 - MEAN) / STD by channel: uint8 (..., 3, H, W) -> new float32 array of the same shape."""
    out = np.multiply(images, SCALE, dtype=np.float32)
    out += SHIFT
    return out


class Draws(NamedTuple):
    """The random choices of a step.

    chosen : indices of the images. y, x : the corner of each crop in the padded image. mirrored : which are mirrored.
    """

    chosen: np.ndarray
    y: np.ndarray
    x: np.ndarray
    mirrored: np.ndarray


class TrainBatches:
    """Shuffled, augmented batches; each is a function of (seed, epoch, step) alone.

    So an epoch resumed at any step gives the bits of an uninterrupted one, with any number of workers, and the parts of
    several processes together are the batch of one. Images that do not fill a batch are left out of an epoch,
    as in the authors' setting.
    Augmentation: PAD zero pixels around each image, a random 32x32 crop, a mirror image half of the time.
    batch_size : of all parts together. part : (rank, parts): the rank-th share of every batch.
    Raises InputError for a batch larger than the split.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, part: Tuple[int, int] = (0, 1)):
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.steps = steps_of(len(split), batch_size)
        self._rows = stretch(batch_size, part)
        self._kept = None, None  # an epoch and its order, which `draws` asks for at every step
        # Padded once: 240 MB for 50,000 images. _crops is a view, not a copy.
        padded = np.pad(split.images, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)))
        self._crops = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(2, 3))

    def epoch(self, index: int, start: int = 0, workers: int = 0) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """This part of the batches of epoch `index` from step `start` on: new (float32 (b, 3, 32, 32), int32 (b,)).

        workers: threads that compute ahead (at most one for each core), 0 for none.
        """
        return by_workers((functools.partial(self._batch, index, step) for step in range(start, self.steps)), workers)

    def draws(self, epoch: int, step: int) -> Draws:
        """The random choices of this part of a step, to make its images elsewhere, such as on a GPU."""
        chosen = self._order(epoch)[step * self.batch_size:(step + 1) * self.batch_size]
        generator = random_stream(self.seed, _AUGMENT, epoch, step)  # drawn for the whole batch, whatever the part
        y, x = generator.integers(0, 2 * PAD + 1, (2, len(chosen)))
        mirrored = generator.random(len(chosen)) < 0.5
        return Draws(*(drawn[self._rows] for drawn in (chosen, y, x, mirrored)))

    def _order(self, epoch):
        kept, order = self._kept
        if kept != epoch:
            order = random_stream(self.seed, _ORDER, epoch).permutation(len(self.split))
            self._kept = epoch, order
        return order

    def _batch(self, epoch, step):
        chosen, y, x, mirrored = self.draws(epoch, step)
        images = self._crops[chosen, :, y, x]
        images[mirrored] = images[mirrored, :, :, ::-1]
        return normalise(images), self.split.labels[chosen]


class EvalBatches:
    """Every image once, in order: (float32 (B, 3, 32, 32), int32 (B,), count), B always the batch size.

    Only the first `count` images of a batch are real: the last batch is filled with the first images.
    part : (rank, parts): the rank-th stretch of the images, each image in one part. Raises InputError for an empty one.
    """

    skipped = ()  # nothing in memory is damaged

    def __init__(self, split: Split, batch_size: int, part: Tuple[int, int] = (0, 1)):
        rows = stretch(len(split), part)
        self.split, self.batch_size = Split(split.images[rows], split.labels[rows]), batch_size

    def __len__(self):
        return -(-len(self.split) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.split), self.batch_size):
            chosen = np.arange(start, start + self.batch_size) % len(self.split)
            count = min(self.batch_size, len(self.split) - start)
            yield normalise(self.split.images[chosen]), self.split.labels[chosen], count


def small(picture: np.ndarray) -> np.ndarray:
    """The scaled middle square, uint8 (3, 32, 32), red first, of a picture, uint8 (height, width, 3), blue first."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    made = Image.frombuffer("RGB", (width, height), np.ascontiguousarray(picture), "raw", "BGR", 0, 1)
    made = made.resize((SIDE, SIDE), Image.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(made).transpose(2, 0, 1)


def training_of(origin, train, test, experiment, batch_size, kind, tested, remarks, part=(0, 1)):
    """The Training on two Splits; experiment.val_split images of `train` are held out.

    tested : the name of `test`. part : (rank, workers), as in Dataset.training.
    """
    held_out = None
    if experiment.val_split:
        train, held_out = hold_out(train, experiment.val_split, experiment.seed)

    def scored(split):
        return EvalBatches(split, min(GPU_BATCH if kind == "gpu" else CPU_BATCH, len(split)), part)

    return Training(origin, TrainBatches(train, batch_size, experiment.seed, part=part), scored(held_out or test),
                    "held-out" if held_out else tested, scored(test) if held_out else None, tuple(remarks))
