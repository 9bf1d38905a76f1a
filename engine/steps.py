"""What a run and its backend exchange: the steps of an epoch, their sums, the scores and the errors."""
import dataclasses
import logging
import math
from typing import Any, Callable, Optional

import numpy as np

from support.errors import InputError, out_of_memory

from .recipe import Recipe
from .schedule import learning_rate, mixing_share

log = logging.getLogger(__name__)

# Steps that may be queued on the device before the result of the oldest is read. One step is always under way, so the
# device never waits for the host; the queue is short enough to stop and to notice NaN at once.
LAG = 2


class Diverged(Exception):
    """The loss or a weight is no longer a finite number."""


class DataFault(InputError):
    """A batch could not be read."""


def read_from(items):
    """The same items; an error while one is made, also in a data thread, becomes a DataFault."""
    items = iter(items)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except InputError as error:
            raise DataFault(str(error)) from error
        except Exception as error:
            if out_of_memory(error) is not None:
                raise
            log.debug("a batch could not be read", exc_info=True)
            raise DataFault(f"a batch cannot be read ({type(error).__name__}: {error})") from error
        yield item


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of an epoch from `first` on; iterating gives (rate, images, labels, share) for each.

    rate : the step's learning rate. images, labels : one batch of `batches` (engine.data.dataset), made ahead by
        `workers` threads. share : an image's share if pairs of images are mixed, else 1 (engine.schedule).

    A backend that keeps the images on its device uses `draws` instead: (rate, draws, share).
    """

    batches: Any
    recipe: Recipe
    seed: int
    epoch: int
    first: int = 0
    workers: int = 0

    def __iter__(self):
        for step, batch in enumerate(self.batches.epoch(self.epoch, self.first, self.workers), self.first):
            rate, share = self.settings(step)
            yield (rate, *batch, share)

    def draws(self):
        """(rate, draws, share) for each step; draws : its random choices (engine.data.dataset)."""
        for step in range(self.first, self.batches.steps):
            rate, share = self.settings(step)
            yield rate, self.batches.draws(self.epoch, step), share

    def settings(self, step):
        """(rate, share) of a step."""
        return (learning_rate(self.recipe, self.epoch, step, self.batches.steps),
                mixing_share(self.recipe, self.seed, self.epoch, step))


@dataclasses.dataclass
class Meter:
    """Sums over the images seen: cross entropy (nats) and correct answers."""

    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    def add(self, images, loss_sum, correct):
        """Add sums. Raises Diverged for a loss that is not finite."""
        if not np.isfinite(loss_sum):
            raise Diverged("the loss is no longer a finite number")
        self.images += images
        self.loss_sum += float(loss_sum)
        self.correct += int(correct)

    @property
    def loss(self):
        return self.loss_sum / self.images if self.images else math.nan

    @property
    def accuracy(self):
        return self.correct / self.images if self.images else math.nan


@dataclasses.dataclass
class Counts:
    """Sums over scored images, each counted once; confusion[i, j] counts images of class i answered j.

    labels : classes of the data; the net may have more outputs. told : called after each batch. right : for each batch,
    which answers are right.
    """

    labels: int
    told: Callable = lambda: None
    images: int = 0
    loss_sum: float = 0.0
    top5: int = 0
    confusion: Any = None
    right: list = dataclasses.field(default_factory=list)

    def add(self, logits, truth):
        """Count a batch: logits (N, outputs) and labels (N,). Raises Diverged for logits that are not finite."""
        logits = logits.astype(np.float64)
        if not np.isfinite(logits).all():
            raise Diverged("the net answers with numbers that are not finite")
        if self.confusion is None:
            self.confusion = np.zeros((self.labels, max(self.labels, logits.shape[1])), np.int64)
        own = logits[np.arange(len(truth)), truth]
        largest = logits.max(axis=1)
        losses = np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest - own
        # The rank counts larger logits and, as argmax does, equal ones at a smaller index.
        before = np.arange(logits.shape[1]) < truth[:, None]
        ranks = ((logits > own[:, None]) | ((logits == own[:, None]) & before)).sum(axis=1)
        self.images += len(truth)
        self.loss_sum += float(np.sum(losses))
        self.top5 += int((ranks < 5).sum())
        answers = logits.argmax(axis=1)
        np.add.at(self.confusion, (truth, answers), 1)
        self.right.append(answers == truth)
        self.told()

    def scores(self, total=None):
        """The Scores. total(array) adds float64 sums over several workers. Raises InputError if nothing was counted."""
        if not self.images:
            raise InputError("there are no images to evaluate")
        images, loss_sum, top5, confusion = self.images, self.loss_sum, self.top5, self.confusion
        right = np.concatenate(self.right)
        if total is not None:
            right = None
            (images, loss_sum, top5), confusion = np.split(
                total(np.concatenate([[images, loss_sum, top5], confusion.ravel()])), [3])
            confusion = confusion.reshape(self.confusion.shape).astype(np.int64)
        correct = np.trace(confusion)
        return Scores(int(images), loss_sum / images, float(correct / images), float(top5 / images), confusion, right)


@dataclasses.dataclass
class Scores:
    """A net's score, each image counted once: loss in nats, shares of right answers, the confusion of Counts.

    right : whether each image was answered right, in the order of the batches; None for the images of several workers.
    """

    images: int
    loss: float
    top1: float
    top5: float
    confusion: np.ndarray
    right: Optional[np.ndarray] = None


class LossScale:
    """A power of two that multiplies the gradients in float16: halved if they overflow, doubled again later.

    The loss is summed over a device's images, so gradients are large already. The scale therefore starts at 1, as in
    the authors' code, and moves only if a run needs it. A step with an overflow is left out.
    """

    PATIENCE = 2000  # steps without overflow before the scale doubles
    MOST, LEAST = 2.0 ** 16, 2.0 ** -24

    def __init__(self, value=1.0, sound=0, left_out=0):
        self.value, self.sound, self.left_out = value, sound, left_out

    def follow(self, finite):
        """Move the scale after a step with finite or infinite gradients. Raises Diverged below the least scale."""
        if finite:
            self.sound += 1
            if self.sound >= self.PATIENCE:
                self.sound, self.value = 0, min(2 * self.value, self.MOST)
            return
        self.sound, self.value, self.left_out = 0, self.value / 2, self.left_out + 1
        if self.value < self.LEAST:
            raise Diverged("the gradients overflow float16 at every loss scale")
