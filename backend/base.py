"""The interface between a run and what computes it: all that engine/ sees of a framework.

A backend is a module, a folder of backend/, with these functions:

    devices(wanted)             the devices for GPU numbers, and a sentence about the choice
    kind(devices)               'cpu' or 'gpu'
    training_type(dtype, devices)   the type to train in on them, and a sentence about it or None
    join(kvstore)               this worker's Team, a context
    prepare(net, experiment, devices, team, ...)    a Program
    scorer(net, devices, example, mode, fused)      a Scorer, and a sentence about the form of its net
"""
import abc


class Scorer(abc.ABC):
    """A net on its devices, for inference. kind : 'cpu' or 'gpu', the devices' kind."""

    kind = "cpu"

    @abc.abstractmethod
    def score(self, batches, labels, told=lambda: None):
        """The Scores (engine.steps) on batches of (images, labels, count).

        labels : classes of the data. told : called after each batch.
        """

    @abc.abstractmethod
    def logits(self, images):
        """The logits, float64 (N, outputs), of float32 images (N, 3, S, S)."""


class Program(Scorer):
    """A net on its devices, for training: one update a step, and its whole state as NumPy arrays.

    operators : what computes the net, in words. team : the workers (backend.team); worker 0 writes the run's files.
    scale : the LossScale of a float16 training, else None.
    """

    operators, team, scale = "", None, None

    @property
    def writes(self):
        """Whether this process writes the run's files."""
        return self.team.rank == 0

    @property
    def size(self):
        """The number of workers."""
        return self.team.size

    def total(self, values):
        """The sum of a float64 array over the workers, exact for counts."""
        return self.team.total(values)

    def any(self, flag):
        """Whether flag is true on any worker."""
        return self.team.any(flag)

    @abc.abstractmethod
    def steps(self, steps, meter, settle=None):
        """Train on Steps (engine.steps); after each step yields the number of steps done. meter : this worker's sums.

        settle : called after each step with the steps done; if it returns True, meter and device are brought up to
        date before that number is yielded.
        """

    @abc.abstractmethod
    def gates(self, images):
        """{structural name: gates} of the gated units on float32 images (N, 3, S, S); leaves the training as it is.

        Gates: float32 (N, C, H, W), or (N, C, 1, 1) for one value a channel. {} if the net has no gated unit. One
        worker may call it alone.
        """

    @abc.abstractmethod
    def check(self):
        """Raise Diverged if a weight is not finite."""

    @abc.abstractmethod
    def arrays(self):
        """All numbers of the state by name (the names: backend.gluon.state). Raises Diverged."""

    @abc.abstractmethod
    def forms(self):
        """{name: (shape, type)} of `arrays`."""

    @abc.abstractmethod
    def restore(self, arrays):
        """Set the state from all of `arrays`, or the weights alone."""

    @abc.abstractmethod
    def environment(self):
        """Versions and devices that a result depends on, for JSON: at least `contexts` and `gpus`."""
