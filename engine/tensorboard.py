"""What --tensorboard shows: curves of the training and of the scores, and histograms of the gates.

A step is an update; that of an epoch's scores and gates is the number of updates so far.
"""
import contextlib
import logging
import tempfile

from support.files import expanded, writing

from .event_file import EventFile, histogram, scalar
from .gates import site

log = logging.getLogger(__name__)

ADVICE = "give another folder to --tensorboard"
IMAGES = 16  # whose gates are shown
BINS = 50  # of the gates' values from 0 to 1


def checked(folder):
    """The Path of a user's folder, made and tried. Raises InputError if it cannot be written."""
    folder = expanded(folder)
    with writing(folder, ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder


class Board:
    """A run's curves, in a folder of its own.

    start : the first step to come; what an earlier process of this run wrote from there on is void. batches : as an
    EvalBatches (engine.data); the gates are those of its first images. A disk that fails later ends the curves with a
    warning, not the run. Raises InputError if the folder cannot be written.
    """

    def __init__(self, folder, start, batches):
        with contextlib.closing(iter(batches)) as reading:
            images, _, count = next(reading)
        self._images = images[:min(count, IMAGES)].copy()
        self._folder = folder
        with writing(folder, ADVICE):
            folder.mkdir(exist_ok=True)
            self._file = EventFile(folder, start)

    def step(self, updates, **values):
        """Add a point to the curves of the training; updates : those of the run so far."""
        self._scalars(updates, "train", values)

    def epoch(self, updates, scores, gates):
        """Add the Scores of an epoch, and histograms of the gates; gates(images) : those of a net, by unit."""
        self._scalars(updates, "validation", {"accuracy": scores.top1, "top5": scores.top5, "loss": scores.loss})
        found = gates(self._images)
        if found:
            self._add(updates, [histogram(f"gates/{site(unit)}", values, BINS, (0, 1))
                                for unit, values in found.items()])

    def _scalars(self, updates, group, values):
        self._add(updates, [scalar(f"{group}/{name}", value) for name, value in values.items()])

    def _add(self, updates, values):
        if self._file is None:
            return
        try:
            self._file.add(updates, values)
        except OSError as error:
            log.warning("%s cannot be written: %s; the training continues without TensorBoard", self._folder,
                        error.strerror)
            self.close()

    def close(self):
        if self._file is not None:
            self._file.close()
            self._file = None
