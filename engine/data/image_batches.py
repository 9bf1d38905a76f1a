"""Batches of images that are read and decoded as needed: augmented for training, cropped in order for scoring."""
import contextlib
import functools
import logging
import math
import threading
from typing import Iterator, Optional, Tuple

import numpy as np

from engine.data import images
from engine.data.dataset import Preprocessing, steps_of, stretch
from engine.data.image_sources import Source
from engine.data.prefetch import by_workers
from engine.data.records import Damaged
from engine.recipe import CROP_RATIO, INPUT_SIZE
from engine.seeds import random_stream
from support.errors import InputError

log = logging.getLogger(__name__)

# Red, green, blue on the scale 0..255, as the authors' script passes them to MXNet's iterator.
MEAN = (123.68, 116.779, 103.939)
STD = (58.393, 57.12, 57.375)

# Eigenvalues and eigenvectors (in columns) of the colours (red, green, blue) of ImageNet: Krizhevsky et al., 2012, as
# MXNet has them.
EIGENVALUES = (55.46, 4.794, 1.148)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))

RATIO = (3 / 4, 4 / 3)  # of width to height of a random crop
MIN_AREA = .08  # share of an image's area that a random crop has at least
ATTEMPTS = 10  # random crops tried before the largest central one is taken

DAMAGED = ("refuse", "skip")
CHUNK = 8  # images that a thread makes at a time

# The evaluation of epoch 155 gave the error in the released file's name, after so many passes of the iterator.
RELEASED_PASSES = 155

# One random stream for each purpose, so that none depends on the draws of another.
_ORDER, _AUGMENT = range(2)

_SCALE = 1 / np.array(STD)
_SHIFT = -np.array(MEAN) / np.array(STD)


class _Batches:
    """The common part of both kinds of batches: a source, its damaged images, and threads that make chunks."""

    def __init__(self, source, input_size, damaged):
        images.require()
        source.check(damaged)
        self.source, self.input_size, self.damaged = source, input_size, damaged
        self._lock = threading.Lock()
        self._skipped = {}

    @property
    def skipped(self):
        """Names of the damaged images that were left out so far, in the order of the source."""
        with self._lock:
            return [name for _, name in sorted(self._skipped.items())]

    def _leave_out(self, index, reason):
        name = self.source.left_out(index, reason, self.damaged)
        with self._lock:
            new = index not in self._skipped
            self._skipped[index] = name
        if new:
            log.warning("left out %s: %s", name, reason)

    def _made(self, plans, size, workers):
        """(images, labels) for each plan; self._fill(plan, row, out) makes a row; its label or, if left out, -1."""
        def chunk(plan, out, labels, rows):
            for row in rows:
                labels[row] = self._fill(plan, row, out[row])
            return (out, labels) if rows.stop == size else None

        def calls():
            for plan in plans:
                out = np.empty((size, 3, self.input_size, self.input_size), np.float32)
                labels = np.empty(size, np.int32)
                for start in range(0, size, CHUNK):
                    rows = range(start, min(start + CHUNK, size))
                    yield functools.partial(chunk, plan, out, labels, rows)

        # Results come in order, so a batch ends with its last chunk. A batch beside the work of all threads is ahead.
        with contextlib.closing(by_workers(calls(), workers, more=-(-size // CHUNK))) as results:
            yield from filter(None, results)


class TrainBatches(_Batches):
    """Shuffled, augmented batches; each is a function of (seed, epoch, step) alone.

    So an epoch resumed at any step gives the bits of an uninterrupted one, with any number of workers, and the parts
    of several machines together are the batch of one machine. Images that do not fill a batch are left out of an epoch.

    Augmentation (the authors' log): a random crop with MIN_AREA to 1 of the image's area and a shape of 3/4 to 4/3,
    resized to input_size; a mirror image half of the time; brightness, contrast and saturation changed by up to
    `jitter` each, in random order; noise of deviation `lighting` along the principal components of colour.
    Differences from the authors' iterator, which decodes at full size and resizes bilinearly: if the crop is at least
    twice as large as wanted, the JPEG is decoded at 1/2, 1/4 or 1/8 (`images.crop`); the colour noise is not cut to
    0..255. As there, areas and the logarithms of shapes are drawn evenly.

    batch_size : of all parts together. part : (rank, parts), the rank-th share of every batch.
    damaged : 'refuse' raises InputError with the image's name; 'skip' takes the next sound image of the epoch's order
    instead and names the damaged one in `skipped`. Raises InputError for a batch larger than the source.
    """

    def __init__(self, source: Source, batch_size: int, seed: int, input_size: int = INPUT_SIZE, jitter: float = .4,
                 lighting: float = .1, part: Tuple[int, int] = (0, 1), damaged: str = "refuse"):
        super().__init__(source, input_size, damaged)
        self.batch_size, self.seed, self.jitter, self.lighting = batch_size, seed, jitter, lighting
        self.steps = steps_of(len(source), batch_size)
        self._rows = stretch(batch_size, part)

    def epoch(self, index: int, start: int = 0, workers: int = 0) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """This part of the batches of epoch `index` from step `start` on: new (float32 (b, 3, S, S), int32 (b,)).

        workers: threads that compute ahead (at most one for each core), 0 for none.
        """
        order = random_stream(self.seed, _ORDER, index).permutation(len(self.source))
        plans = (self._plan(order, index, step) for step in range(start, self.steps))
        return self._made(plans, self._rows.stop - self._rows.start, workers)

    def _plan(self, order, epoch, step):
        # Drawn at once for the whole batch: neither parts nor an image's size change the draws of other images.
        stream = random_stream(self.seed, _AUGMENT, epoch, step)
        even = stream.random((self.batch_size, 2 * ATTEMPTS + 7))[self._rows]
        normal = stream.standard_normal((self.batch_size, 3))[self._rows]
        return order, step * self.batch_size + self._rows.start, even, normal

    def _fill(self, plan, row, out):
        order, first, even, normal = plan
        for ahead_by in range(len(order)):
            index = int(order[(first + row + ahead_by) % len(order)])
            if index in self._skipped:
                continue
            try:
                self._augment(self.source.read(index), even[row], normal[row], out)
                return self.source.labels[index]
            except Damaged as reason:
                self._leave_out(index, reason)
        raise InputError(f"{self.source.description} has no image that is not damaged")

    def _augment(self, data, even, normal, out):
        crops, (mirrored, order), changes = np.split(even, [2 * ATTEMPTS + 2, 2 * ATTEMPTS + 4])
        side = self.input_size
        pixels = images.crop(data, functools.partial(random_box, crops, MIN_AREA), side)
        pixels = images.resize(pixels, side, side)
        if mirrored < .5:
            pixels = images.mirror(pixels)
        if self.jitter:
            pixels = images.jitter(pixels, 1 + self.jitter * (2 * changes - 1), images.ORDERS[int(6 * order)])
        light = np.array(EIGENVECTORS) @ (self.lighting * normal * EIGENVALUES)
        images.planes(pixels, _SCALE, _SHIFT + light * _SCALE, out)


def random_box(even: np.ndarray, min_area: float, height: int, width: int) -> images.Box:
    """A random part of an image, from 2 x ATTEMPTS + 2 numbers of [0, 1): (y, x, height, width).

    Its share of the area is uniform from min_area to 1, and the logarithm of its width/height is uniform within RATIO.
    After ATTEMPTS that do not fit, it is the largest central part with a shape within RATIO.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    areas, ratios = even[:2 * ATTEMPTS].reshape(2, ATTEMPTS)
    for area, ratio in zip(height * width * (min_area + (1 - min_area) * areas), np.exp(low + (high - low) * ratios)):
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(even[-2] * (height - h + 1)), int(even[-1] * (width - w + 1)), h, w
    w, h = min(width, max(1, round(height * RATIO[1]))), min(height, max(1, round(width / RATIO[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def shorter_side(input_size: int, crop_ratio: float) -> int:
    """Pixels of an image's shorter side before the middle crop of input_size."""
    return max(input_size, math.ceil(round(input_size / crop_ratio, 6)))


def normalise_centre(pixels: np.ndarray, shorter: int, out: np.ndarray) -> None:
    """Write a net's input for evaluation into out, float32 (3, S, S); pixels: uint8 (height, width, 3), blue first."""
    images.planes(images.centre(pixels, shorter, out.shape[-1]), _SCALE, _SHIFT, out)


def preprocessing(input_size: int, crop_ratio: float) -> Preprocessing:
    """What `normalise_centre` does."""
    mean, std = (tuple(value / 255 for value in values) for values in (MEAN, STD))
    return Preprocessing(input_size, shorter_side(input_size, crop_ratio), "bilinear", mean, std)


class EvalBatches(_Batches):
    """Every image once, in order: (float32 (B, 3, S, S), int32 (B,), count), B always the batch size.

    Only the first `count` images of a batch are real. The shorter side becomes input_size / crop_ratio pixels, rounded
    up (256 for 224 and .875), bilinearly; then the middle is cropped. This is the authors' iterator, to the bit.

    part : (rank, parts), the rank-th stretch of the images; each image is in one part.
    damaged : 'refuse' raises InputError with the image's name; 'skip' leaves it out of the counts and names it in
    `skipped`.
    count_padding : True counts as the authors' iterator does. It gives only full batches: the last one is filled with
    the first images, which are counted again, and the next pass begins after them. passes : the number of passes before
    this one. The default is the released file's evaluation: 195 batches of 256, which are 49,920 of 50,000 images; the
    very first pass gives 50,176.
    labels : int32 (N,) in place of the source's.
    """

    def __init__(self, source: Source, batch_size: int, input_size: int = INPUT_SIZE, crop_ratio: float = CROP_RATIO,
                 workers: int = 0, part: Tuple[int, int] = (0, 1), count_padding: bool = False,
                 damaged: str = "refuse", passes: int = RELEASED_PASSES, labels: Optional[np.ndarray] = None):
        super().__init__(source, input_size, damaged)
        self.batch_size, self.workers = batch_size, workers
        self.labels = source.labels if labels is None else labels
        self.shorter = shorter_side(input_size, crop_ratio)
        rows = stretch(len(source), part)
        first, last = rows.start, rows.stop
        if count_padding:
            first, last = (batch_size * -(-len(source) * edge // batch_size) for edge in (passes, passes + 1))
            if first == last:
                raise InputError(f"after {passes} passes in batches of {batch_size} the record iterator has nothing "
                                 f"left of {len(source)} images: use a smaller batch")
        self._range = range(first, last)

    def __len__(self):
        return -(-len(self._range) // self.batch_size)

    def __iter__(self):
        starts = self._range[::self.batch_size]
        for pixels, labels in self._made(starts, self.batch_size, self.workers):
            sound = np.flatnonzero(labels >= 0)
            if len(sound) < len(labels):
                rows = np.resize(sound, len(labels))  # zeros if none is sound
                pixels, labels = pixels[rows], labels[rows].clip(0)
            yield pixels, labels, len(sound)

    def _fill(self, start, row, out):
        if start + row < self._range.stop:
            index = (start + row) % len(self.source)
            try:
                normalise_centre(images.decode(self.source.read(index)), self.shorter, out)
                return self.labels[index]
            except Damaged as reason:
                self._leave_out(index, reason)
        out[:] = 0
        return -1
