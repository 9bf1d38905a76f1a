"""What a benchmark measures: a contender does units of work in its own process, after it has proved its results right.

Imports no framework, so that a worker only loads the one that it measures.
"""
import json
import time
from itertools import islice
from pathlib import Path

import numpy as np

from engine.data import cifar, in_memory

LOGITS_TOLERANCE = 1e-4  # largest difference of a logit from the plain net's, over the logits' standard deviation
LOSS_TOLERANCE = 1e-3  # relative, for the mean loss of the first training step
# The same for CHECK_STEPS steps in a row. ResNet-50's first steps on a few images multiply rounding: the plain net's
# own float32 gradients differ from its float64 gradients by up to a third of the largest.
LOSSES_TOLERANCE = {32: 1e-3, 224: 0.1}  # by the side of the images
CHECK_STEPS = 3
# A benchmark trains on the same batch again and again and must not diverge. These numbers do not change the times.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 1e-4
TRAINING_MACS = 3  # a step's multiply-adds over the forward pass's: outputs, gradients of weights and of inputs


class NotMeasured(Exception):
    """A contender cannot be measured here; one sentence says why."""


class Contender:
    """Made by a worker. `images`, `macs` and `bytes` count the work of one unit; 0 if that means nothing.

    `about` holds more facts for the record: the chosen path, differences from the plain net, settings.
    """

    images = macs = bytes = 0
    about = {}

    def unit(self):
        """Do one unit."""
        raise NotImplementedError

    def work(self, count):
        """Do `count` units, and return when they are finished, not merely queued."""
        for _ in range(count):
            self.unit()

    def measure(self, count):
        """Seconds per unit, the mean of `count` units."""
        began = time.perf_counter()
        self.work(count)
        return (time.perf_counter() - began) / count


class OnBatch(Contender):
    """A contender whose unit is the batch of a Reference. passes: a unit's multiply-adds over the forward pass's."""

    def __init__(self, folder, passes=1):
        self.reference = Reference(folder)
        self.images = self.reference.about["batch"]
        self.macs = passes * self.images * self.reference.macs
        self.batch = self.reference.images[:self.images], self.reference.labels[:self.images]


class Answers(OnBatch):
    """Inference: `answer` maps NumPy images to NumPy logits."""

    def answer(self, images):
        raise NotImplementedError

    def unit(self):
        self.answer(self.batch[0])


class OnEpochs(Contender):
    """A contender whose unit is a part of an epoch of CIFAR-10, training and validation.

    steps: training batches, None for all; evaluated: validation images, None for all.
    """

    def __init__(self, folder, data_dir, steps, evaluated):
        self.reference, self.data = Reference(folder), cifar.load("cifar10", data_dir)
        self.batch, self.epoch = self.reference.about["batch"], 0
        self.batches = in_memory.TrainBatches(self.data.train, self.batch, seed=0)
        self.scored = in_memory.Split(self.data.test.images[:evaluated], self.data.test.labels[:evaluated])
        self.steps = steps or self.batches.steps
        self.images = self.steps * self.batch
        self.macs = self.reference.macs * (TRAINING_MACS * self.images + len(self.scored))
        self.about = {"training_images": self.images, "validation_images": len(self.scored)}

    def take(self):
        """A unit's training batches from this project's input pipeline, of as many epochs as needed."""
        left = self.steps
        while left:
            for batch in islice(self.batches.epoch(self.epoch, workers=1), left):
                left -= 1
                yield batch
            self.epoch += 1


class Reference:
    """The folder that describes one net: graph, arrays, a batch, and the plain Gluon net's answers and losses.

    `mxnet_contenders.PlainNet` makes it; every contender starts from its arrays.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "about.json").read_text(encoding="utf-8"))
        with np.load(self.folder / "batch.npz") as batch:
            self.images, self.labels, self.logits, self.losses = (
                batch[name] for name in ("images", "labels", "logits", "losses"))

    @staticmethod
    def write(folder, about, arrays, graph="", **batch):
        folder = Path(folder)
        folder.mkdir(parents=True)
        np.savez(folder / "arrays.npz", **arrays)
        np.savez(folder / "batch.npz", **batch)
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        (folder / "graph.json").write_text(graph, encoding="utf-8")

    def arrays(self):
        """{structural name: NumPy array} of the Gluon net."""
        with np.load(self.folder / "arrays.npz") as stored:
            return {name: stored[name] for name in stored.files}

    def graph(self):
        """The net's graph as text (model.graph)."""
        return (self.folder / "graph.json").read_text(encoding="utf-8")

    @property
    def macs(self):
        """Multiply-adds of the forward pass of one image; a training step has three times as many."""
        return self.about["macs"]

    def distance(self, logits):
        """Largest difference of the first logits from the plain net's, over the standard deviation of all logits."""
        return float(np.abs(logits - self.logits[:len(logits)]).max() / self.logits.std())

    def compare_logits(self, logits):
        """`distance`; NotMeasured above LOGITS_TOLERANCE."""
        distance = self.distance(logits)
        if not distance <= LOGITS_TOLERANCE:
            raise NotMeasured(f"its logits differ from the plain net's by {distance:.1e} of their spread; the limit is "
                              f"{LOGITS_TOLERANCE:.0e}")
        return distance

    def check(self, answer):
        """compare_logits for answer(images of a whole batch), batch by batch until all stored logits are compared."""
        batch, found = self.about["batch"], []
        for start in range(0, len(self.logits), batch):
            images = self.images[start:start + batch]
            found.append(answer(np.resize(images, (batch, *images.shape[1:]))))
        return self.compare_logits(np.concatenate(found)[:len(self.logits)])

    def compare_losses(self, losses):
        """Largest relative difference of the training steps' losses; NotMeasured above the limit."""
        differences = np.abs(np.asarray(losses) / self.losses - 1)
        allowed = LOSSES_TOLERANCE.get(self.about.get("size"), LOSS_TOLERANCE)
        if not (differences[0] <= LOSS_TOLERANCE and differences.max() <= allowed):
            raise NotMeasured(f"its losses differ from the plain net's by {differences[0]:.1e} in the first training "
                              f"step and by {differences.max():.1e} within {CHECK_STEPS}; the limits are "
                              f"{LOSS_TOLERANCE:.0e} and {allowed:.0e}")
        return float(differences.max())
