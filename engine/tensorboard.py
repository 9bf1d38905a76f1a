"""What --tensorboard shows: curves of the training and of the scores, and histograms of the gates.

A step is an update; that of an epoch's scores and gates is the number of updates so far. tensorboardX writes the files:
by its EventsWriter, as its SummaryWriter has a thread of its own, and a full disk would be no error of a call.
"""
import contextlib
import logging
import os
import tempfile
import time

import numpy as np

from support.errors import InputError
from support.files import expanded, writing

from .gates import site

log = logging.getLogger(__name__)

ADVICE = "give another folder to --tensorboard"
IMAGES = 16  # whose gates are shown
BINS = np.linspace(0, 1, 51)  # of the gates' values


def checked(folder):
    """The Path of a user's folder, made and tried. Raises InputError without tensorboardX, or on a failed write."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise InputError(f"--tensorboard: tensorboardX cannot be imported ({error}); run "
                         "`.venv/bin/python -m pip install -r requirements-tensorboard.txt`") from None
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
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        with contextlib.closing(iter(batches)) as reading:
            images, _, count = next(reading)
        self._images = images[:min(count, IMAGES)].copy()
        self._folder = folder
        with writing(folder, ADVICE):
            folder.mkdir(exist_ok=True)
            self._file = EventsWriter(os.path.join(folder, "events"), f".{time.time_ns()}")
            self._write(start, session_log=SessionLog(status=SessionLog.START))

    def step(self, updates, **values):
        """Add a point to the curves of the training; updates : those of the run so far."""
        self._scalars(updates, "train", values)

    def epoch(self, updates, scores, gates):
        """Add the Scores of an epoch, and histograms of the gates; gates(images) : those of a net, by unit."""
        from tensorboardX.summary import histogram

        self._scalars(updates, "validation", {"accuracy": scores.top1, "top5": scores.top5, "loss": scores.loss})
        self._add(updates, [histogram(f"gates/{site(unit)}", values, BINS).value[0]
                            for unit, values in gates(self._images).items() if np.isfinite(values).all()])

    def _scalars(self, updates, group, values):
        from tensorboardX.proto.summary_pb2 import Summary

        self._add(updates, [Summary.Value(tag=f"{group}/{name}", simple_value=value)
                            for name, value in values.items()])

    def _add(self, updates, values):
        if self._file is None or not values:
            return
        try:
            self._write(updates, summary={"value": values})
        except OSError as error:
            log.warning("%s cannot be written: %s; the training continues without TensorBoard", self._folder,
                        error.strerror)
            self.close()

    def _write(self, updates, **what):
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(wall_time=time.time(), step=updates, **what))
        self._file.flush()

    def close(self):
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a disk that failed before
                self._file.close()
            self._file = None
