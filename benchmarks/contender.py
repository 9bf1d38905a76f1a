"""What a benchmark measures: a contender does units of work in its own process, after proving that they are right.

Imports no framework, so that a worker loads only the one that it measures.
"""
import json
import time
from itertools import islice
from pathlib import Path

import numpy as np

LOGITS_TOLERANCE = 1e-4  # largest difference of a logit from the plain net's, over the logits' standard deviation
LOSS_TOLERANCE = 1e-3  # relative, of the mean loss of the first training step
# And of the CHECK_STEPS steps after each other. ResNet-50's first steps on a few images multiply rounding: the plain
# net's own float32 gradients differ from its float64 ones by up to a third of the largest.
LOSSES_TOLERANCE = {32: 1e-3, 224: 0.1}  # by the side of the images
CHECK_STEPS = 3
# A benchmark trains on the same batch again and again, which must not diverge. It changes no duration.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4


class NotMeasured(Exception):
    """Why a contender cannot be measured here, as one sentence."""


class Contender:
    """Made by a worker; `images`, `macs` and `bytes` are what one unit of work handles, 0 where that means nothing."""

    images = macs = bytes = 0

    def work(self, count):
        """Do `count` units and return when they are done, not merely queued."""
        raise NotImplementedError

    def measure(self, count):
        """Seconds that a unit takes, the mean of `count`."""
        began = time.perf_counter()
        self.work(count)
        return (time.perf_counter() - began) / count

    def describe(self):
        """What else the record should say: the path chosen, differences from the plain net, settings."""
        return {}


class Rounds:
    """Training batches of engine.data.cifar.TrainBatches, a number of them at a time, over as many epochs as needed."""

    def __init__(self, batches):
        self.batches, self.epoch = batches, 0

    def take(self, count):
        while count:
            for batch in islice(self.batches.epoch(self.epoch, workers=1), count):
                count -= 1
                yield batch
            self.epoch += 1


class Reference:
    """The folder that describes one net: graph, arrays, a batch, and the plain Gluon net's answers and losses.

    Made by `mxnet_contenders.PlainNet`; every contender starts from its arrays.
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
        """{structural name: numpy array} of the Gluon net."""
        with np.load(self.folder / "arrays.npz") as stored:
            return {name: stored[name] for name in stored.files}

    def graph(self):
        """The net's graph as text (backend.graph)."""
        return (self.folder / "graph.json").read_text(encoding="utf-8")

    @property
    def macs(self):
        """Multiply-adds of one image forward; a training step has three times as many."""
        return self.about["macs"]

    def distance(self, logits):
        """Largest difference of the first logits from the plain net's, over the standard deviation of all."""
        return float(np.abs(logits - self.logits[:len(logits)]).max() / self.logits.std())

    def compare_logits(self, logits):
        """`distance`; NotMeasured above LOGITS_TOLERANCE."""
        distance = self.distance(logits)
        if not distance <= LOGITS_TOLERANCE:
            raise NotMeasured(f"its logits differ by {distance:.1e} of their spread from the plain net's, allowed are "
                              f"{LOGITS_TOLERANCE:.0e}")
        return distance

    def check(self, answer):
        """compare_logits for answer(images of a whole batch), batch after batch until every stored logit is met."""
        batch, found = self.about["batch"], []
        for start in range(0, len(self.logits), batch):
            images = self.images[start:start + batch]
            found.append(answer(np.resize(images, (batch, *images.shape[1:]))))
        return self.compare_logits(np.concatenate(found)[:len(self.logits)])

    def compare_losses(self, losses):
        """Largest relative difference of the losses of the training steps; NotMeasured above what is allowed."""
        differences = np.abs(np.asarray(losses) / self.losses - 1)
        allowed = LOSSES_TOLERANCE.get(self.about.get("size"), LOSS_TOLERANCE)
        if not (differences[0] <= LOSS_TOLERANCE and differences.max() <= allowed):
            raise NotMeasured(f"its losses differ by {differences[0]:.1e} from the plain net's in the first training "
                              f"step and by {differences.max():.1e} within {CHECK_STEPS}, allowed are "
                              f"{LOSS_TOLERANCE:.0e} and {allowed:.0e}")
        return float(differences.max())
