"""The interface between a run and what computes it: all that engine/ sees of a framework.

A backend is a module, a folder of backend/, with these functions:

    devices(wanted)             the devices for GPU numbers, and a sentence about the choice
    kind(devices)               'cpu' or 'gpu'
    training_type(dtype, devices)   the type to train in on them, and a sentence about it or None
    join(kvstore)               this worker's Team, a context
    prepare(net, experiment, devices, team, ...)    a Program
    scorer(net, devices, example, mode, fused)      a Scorer, and a sentence about the form of its net

The order of steps, the late reading of results and the names of a state are written here, once for all frameworks.
"""
import abc
import collections
import contextlib

import numpy as np

from engine.data.prefetch import prefetch
from engine.steps import LAG, Counts, Diverged, LossScale, read_from
from support.errors import out_of_memory

from .team import Team


def late(items):
    """The same items, each after LAG more were made: what a device computes is read while it computes the next."""
    pending = collections.deque()
    for item in items:
        pending.append(item)
        if len(pending) > LAG:
            yield pending.popleft()
    yield from pending


def part(array, index, count):
    """Part `index` of an array that is cut along its first axis into `count` equal parts."""
    return array[len(array) * index // count:len(array) * (index + 1) // count]


class Scorer(abc.ABC):
    """A net on its devices, for inference.

    kind : 'cpu' or 'gpu', the devices' kind. team : the workers that score together; each brings its own batches.
    """

    kind, team = "cpu", Team()

    def score(self, batches, labels, told=lambda: None):
        """The Scores (engine.steps) on batches of (images, labels, count); only the first `count` of a batch are real.

        labels : classes of the data; the net may have more outputs. told : called after each batch. The scores are
        those over the batches of all workers. The host counts while the device computes the next batches. Raises
        Diverged if the net answers with NaN or infinity.
        """
        counts = Counts(labels, told)
        with contextlib.closing(self.answers(batches)) as answers:
            for logits, truth in late(answers):
                counts.add(logits()[:len(truth)], truth)
        return counts.scores(self.team.total if self.team.size > 1 else None)

    def staging(self, items, stage):
        """stage(item) of each item; for a GPU a thread works one item ahead, so that the GPU does not wait."""
        results = (stage(item) for item in read_from(items))
        return prefetch(results, depth=1) if self.kind == "gpu" else results

    @abc.abstractmethod
    def answers(self, batches):
        """A generator of (function that waits for a batch's logits, its real labels), for batches as in `score`."""

    @abc.abstractmethod
    def logits(self, images):
        """The logits, float64 (N, outputs), of float32 images (N, 3, S, S)."""

    def gates(self, images):
        """{structural name: gates} of the gated units on float32 images (N, 3, S, S), in the order of the data flow.

        Gates: float32 (N, C, H, W), or (N, C, 1, 1) for one value a channel. {} if the net has no gated unit. It leaves
        a training as it is; one worker may call it alone.
        """
        return {}


class Program(Scorer):
    """A net on its devices, for training: one update a step, and its whole state as NumPy arrays.

    The names of the arrays, all float32:

    - `name`: a weight or a running statistic, by its structural name; of several devices the statistics' mean.
    - `optimizer/name.0`: the momentum of that weight.
    - `running/d/name`: a running statistic on device d, if there are several, counted worker by worker. Each device
      keeps the statistics of its own share of each batch.

    A float16 net gives its float32 master weights, so the states of all types are interchangeable.

    operators : what computes the net, in words. team : the workers (backend.team); worker 0 writes the run's files.
    scale : the LossScale of a float16 training, else None. In the hooks, a place is an array of the framework.
    """

    operators = ""

    def __init__(self, recipe, dtype, team):
        self.recipe, self.dtype, self.team = recipe, dtype, team
        self.scale = LossScale() if dtype == "float16" else None

    def steps(self, steps, meter, settle=None):
        """Train on Steps (engine.steps); after each step yields the number of steps done. meter : this worker's sums.

        settle : called after each step with the steps done; if it returns True, meter and device are brought up to
        date before that number is yielded, so that the caller can save.

        The gradient is the mean over the whole batch. Accuracy counts answers that are the image's label, or the label
        with the larger share. meter lags LAG steps behind; it is complete when the generator ends, even if it is closed
        early. Raises Diverged if a loss is not finite.
        """
        pending = collections.deque()

        def read(left):
            while len(pending) > left:
                for images, sums in pending.popleft():
                    meter.add(images, *sums())

        lost = False
        with contextlib.closing(self.staged(steps)) as batches:
            try:
                for done, batch in enumerate(batches, 1):
                    pending.append(self.step(*batch))
                    read(LAG)
                    if settle is not None and settle(done):
                        read(0)
                        self.finished()
                    yield done
            except Exception as error:
                lost = out_of_memory(error) is not None
                raise
            finally:
                if not lost:  # MXNet would wait forever for a step that found no memory or thread
                    read(0)
                    self.finished()

    def score(self, batches, labels, told=lambda: None):
        """As Scorer.score, with the mean of all devices' running statistics, which is what a saved file holds."""
        self.average()
        return super().score(batches, labels, told)

    def running(self):
        """The running statistics of all devices of all workers: {name: (devices, *shape)}; {} for one device."""
        own = {name: np.stack([self.read(place) for place in places]) for name, places in self._apart().items()}
        if not own:
            return {}
        rows = self.team.each(np.concatenate([array.reshape(len(array), -1) for array in own.values()], axis=1))
        edges = np.cumsum([array[0].size for array in own.values()])[:-1]
        return {name: values.reshape(-1, *array.shape[1:])
                for (name, array), values in zip(own.items(), np.split(rows, edges, axis=-1))}

    def _apart(self):
        """`statistics` if there are several devices, whose statistics then differ; else {}."""
        return {name: places for name, places in self.statistics().items() if self.team.size * len(places) > 1}

    def average(self):
        """Give all devices of all workers the mean of their running statistics."""
        places = self.statistics()
        for name, values in self.running().items():
            for place in places[name]:
                self.write(place, values.mean(axis=0))

    def check(self):
        """Raise Diverged if a weight is not finite. The loss may not show it: MXNet's ReLU turns NaN into 0."""
        for name, places in self.weights().items():
            if not all(np.isfinite(self.read(place)).all() for place in places):
                raise Diverged(f"{name} is no longer finite")

    def arrays(self):
        """All numbers of the state by name; all workers call it. Raises Diverged if a weight is not finite."""
        self.check()
        arrays = {name: self.read(places[0]) for name, places in {**self.weights(), **self.momenta()}.items()}
        for name, values in self.running().items():
            arrays[name] = values.mean(axis=0)
            arrays.update({f"running/{device}/{name}": value for device, value in enumerate(values)})
        return arrays

    def forms(self):
        """{name: (shape, type)} of `arrays`."""
        shapes = {name: places[0].shape for name, places in {**self.weights(), **self.momenta()}.items()}
        for name, places in self._apart().items():
            shapes.update({f"running/{device}/{name}": shapes[name] for device in range(self.team.size * len(places))})
        return {name: (tuple(shape), np.dtype(np.float32)) for name, shape in shapes.items()}

    def restore(self, arrays):
        """Set the state on all devices from all of `arrays`, or from the weights alone."""
        for name, places in {**self.weights(), **self.momenta()}.items():
            if name in arrays:
                for place in places:
                    self.write(place, arrays[name])
        for name, places in self._apart().items():
            for device, place in enumerate(places, self.team.rank * len(places)):
                if f"running/{device}/{name}" in arrays:
                    self.write(place, arrays[f"running/{device}/{name}"])

    @abc.abstractmethod
    def staged(self, steps):
        """A generator of the batches of Steps, each on its way to the devices: the arguments of `step`."""

    @abc.abstractmethod
    def step(self, *batch):
        """Queue one update; [(images, function that waits for the sums of loss and right answers)] of the parts."""

    def finished(self):
        """Wait until everything that was queued is computed."""

    @abc.abstractmethod
    def weights(self):
        """{name: places} of all weights and statistics. The first place is read, all are written."""

    @abc.abstractmethod
    def statistics(self):
        """{name: places} of the running statistics, one place for each device of this worker."""

    @abc.abstractmethod
    def momenta(self):
        """{name: places} of the momenta, as `weights`; {} without momentum."""

    @abc.abstractmethod
    def read(self, place):
        """A copy of a place's numbers as a float32 NumPy array. Waits for them."""

    @abc.abstractmethod
    def write(self, place, array):
        """Set the numbers of a place."""

    @abc.abstractmethod
    def environment(self):
        """Versions and devices that a result depends on, for JSON: at least `contexts` and `gpus`."""
