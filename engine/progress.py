"""What a person sees of long work: a bar on a terminal, lines in files and pipes."""
import dataclasses
import logging
import os
import sys
import time

from tqdm import tqdm

from support.words import duration

log = logging.getLogger(__name__)


def progress_bar(total, description, initial=0, shown=True, **options):
    """A bar on a terminal if `shown`; silent in a file or pipe, where the log has plain lines. options : of tqdm."""
    terminal = sys.stderr.isatty()
    size = {"dynamic_ncols": True}
    if terminal and 0 in os.get_terminal_size(sys.stderr.fileno()):  # unknown size: tqdm would hide the bar
        size = {"ncols": 100, "nrows": 24}
    return tqdm(total=total, desc=description, initial=initial, leave=False, disable=not (terminal and shown),
                **{"unit": "step", **size, **options})


def scoring_bar(batches, description, shown=True):
    """A bar over batches to score, which appears if they take more than a second."""
    return progress_bar(len(batches), description, shown=shown, unit="batch", delay=1)


class EpochShown:
    """An epoch under way, as a context: a bar on a terminal, log lines in files and pipes, points for a Board.

    todo : its Steps. meter : its sums, which lag behind and are read as they are: nothing waits for the device.
    seconds_left(seconds a step) : until the end of the run. board : a Board (engine.tensorboard) or None. shown :
    whether this process has the bar.
    """

    def __init__(self, todo, meter, images_per_step, seconds_left, board=None, shown=True):
        self.todo, self.meter, self.images_per_step = todo, meter, images_per_step
        self.seconds_left, self.board = seconds_left, board
        self._mark = time.time(), todo.first, dataclasses.replace(meter)
        self._bar = progress_bar(
            todo.batches.steps, f"epoch {todo.epoch + 1}/{todo.recipe.epochs}", todo.first, shown, miniters=1,
            smoothing=.05, bar_format="{desc} |{bar}| {n_fmt}/{total_fmt}{postfix}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()

    def _words(self, step):
        """The end of the bar; the first words stay if the terminal is narrow."""
        bar = self._bar.format_dict
        rate = bar["rate"] or (bar["n"] - bar["initial"]) / max(bar["elapsed"], 1e-9)
        words = [f"loss {self.meter.loss:.3f}", f"acc {self.meter.accuracy:.3f}"] if self.meter.images else []
        if rate:
            words += [f"{duration(self.seconds_left(1 / rate))} left", f"{rate * self.images_per_step:,.0f} img/s"]
        lr, _ = self.todo.settings(step - 1)
        return ", ".join([*words, f"lr {lr:.3g}"])

    def done(self, step, told):
        """One more step is done, which makes `step` of the epoch; told : whether the log has a line for it."""
        if not self._bar.disable:
            self._bar.set_postfix_str(self._words(step), refresh=False)
        self._bar.update()
        if told:
            self._tell(step)

    def _tell(self, step):
        (mark, marked, before), meter = self._mark, self.meter
        self._mark = time.time(), step, dataclasses.replace(meter)
        speed = (step - marked) * self.images_per_step / max(time.time() - mark, 1e-9)
        lr, _ = self.todo.settings(step - 1)
        # A terminal shows the bar; files and pipes get plain lines.
        log.log(logging.DEBUG if sys.stderr.isatty() else logging.INFO,
                "Epoch[%d] Batch [%d]\tSpeed: %f samples/sec\taccuracy=%f\tlr=%f", self.todo.epoch, step, speed,
                meter.accuracy, lr)
        if self.board is not None:
            images, values = meter.images - before.images, {"lr": lr, "images_per_second": speed}
            if images:  # the mean of this stretch, so that a curve does not start again with each epoch
                values.update(loss=(meter.loss_sum - before.loss_sum) / images,
                              accuracy=(meter.correct - before.correct) / images)
            self.board.step(self.todo.epoch * self.todo.batches.steps + step, **values)
