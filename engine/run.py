"""A training run from its first step, or its last checkpoint, to result.json."""
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Optional

from support.errors import InputError

from . import checkpoint, loop, runlog
from .recipe import Recipe
from .schedule import learning_rate

log = logging.getLogger(__name__)

LAST, BEST = "last.params", "best.params"


@dataclasses.dataclass
class Job:
    """What a run is made of.

    net : initialized, on contexts.
    batches : training data with `steps` and `epoch(index, start, workers)` (engine.cifar.TrainBatches).
    score_batches, labels : images (engine.cifar.EvalBatches) and number of their classes, scored after every epoch.
    scored_on : what those are, 'test' or 'held-out'.
    test_batches : the test images, scored once at the end, where score_batches are others; else None.
    settings : JSON-able description of the run (net, data, recipe, seed); it travels in every checkpoint.
    dtype : 'float32', or on GPUs 'float16' with float32 master weights (engine.loop.make_trainer).
    forward : computes the logits in the place of net, on its parameters; None: net itself.
    update_all : operator that updates all parameters at once (engine.nag); None: MXNet's own.
    """

    net: Any
    recipe: Recipe
    batches: Any
    score_batches: Any
    labels: int
    scored_on: str
    test_batches: Optional[Any]
    contexts: list
    directory: Path
    settings: dict
    workers: int = 0
    kvstore: str = "device"
    save_period: int = 0
    log_interval: int = 100
    dtype: str = "float32"
    forward: Any = None
    update_all: Any = None


class Stopped(Exception):
    """A signal ended the run; everything is saved. `status` is the exit status a shell expects."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


class _StopSignal:
    """Notes the first SIGTERM or SIGINT, so that the step under way can end and be saved; the second one kills."""

    received = None

    def __enter__(self):
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, frame):
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@dataclasses.dataclass
class _State:
    """Where a run stands: epoch and step to do next, the sums of the epoch so far, and the best epoch yet."""

    epoch: int = 0
    step: int = 0
    meter: loop.Meter = dataclasses.field(default_factory=loop.Meter)
    best: Optional[dict] = None

    def as_dict(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored):
        return cls(stored["epoch"], stored["step"], loop.Meter(**stored["meter"]), stored["best"])


def train(job, resume=None):
    """Run a job, from a checkpoint file when resume names one. Returns the record of result.json.

    Raises Stopped after SIGTERM or SIGINT, and InputError when the training diverges; both leave last.params behind,
    the end of the last whole step or epoch.
    """
    trainer = loop.make_trainer(job.net, job.recipe, job.kvstore, job.dtype, job.update_all)
    state = _State()
    if resume is not None:
        state = _State.from_dict(checkpoint.restore(resume, job.net, trainer)["state"])
        log.info("going on from %s: epoch %d, step %d", resume, state.epoch, state.step)
    metrics = runlog.Metrics(job.directory / "metrics.jsonl", keep_epochs=state.epoch)

    with _StopSignal() as stop:
        while state.epoch < job.recipe.epochs:
            started, first_step = time.time(), state.step
            try:
                _train_epoch(job, trainer, state, stop)
                if state.step < job.batches.steps:
                    _save(job, LAST, state, trainer)
                    raise Stopped(_stop_sentence(job, state, stop), stop.received)
                loop.check_weights(job.net)
                trained = time.time()
                loop.average_running_statistics(job.net)
                score = loop.evaluate(job.net, job.score_batches, job.contexts, job.labels, job.forward)
                _finish_epoch(job, trainer, state, metrics, score, first_step, started, trained)
            except loop.Diverged as error:
                raise InputError(_divergence_sentence(job, state, error)) from error
            if stop.received is not None and state.epoch < job.recipe.epochs:
                raise Stopped(_stop_sentence(job, state, stop), stop.received)
    return _finish(job, metrics, state)


def _train_epoch(job, trainer, state, stop):
    """Train from state.step to the end of the epoch, or to a stop signal; state follows."""
    steps = job.batches.steps
    first = state.step

    def feed():
        for step, (images, labels) in enumerate(job.batches.epoch(state.epoch, first, job.workers), first):
            yield learning_rate(job.recipe, state.epoch, step, steps), images, labels

    mark, marked = time.time(), first
    images_per_step = job.recipe.batch_size * len(job.contexts)
    with runlog.progress_bar(steps, f"epoch {state.epoch + 1}/{job.recipe.epochs}", first) as bar, \
            contextlib.closing(loop.train_steps(job.net, trainer, feed(), job.contexts, state.meter,
                                                job.forward)) as progress:
        for done in progress:
            state.step = first + done
            bar.update()
            if state.step % job.log_interval == 0:
                speed = (state.step - marked) * images_per_step / max(time.time() - mark, 1e-9)
                mark, marked = time.time(), state.step
                bar.set_postfix_str(f"loss {state.meter.loss:.3f}, accuracy {state.meter.accuracy:.3f}, "
                                    f"{speed:,.0f} images/s")
                # A terminal has the bar; the plain lines are for files and pipes.
                log.log(logging.DEBUG if sys.stderr.isatty() else logging.INFO,
                        "Epoch[%d] Batch [%d]\tSpeed: %f samples/sec\taccuracy=%f\tlr=%f", state.epoch, state.step,
                        speed, state.meter.accuracy, trainer.learning_rate)
            if stop.received is not None:
                break


def _finish_epoch(job, trainer, state, metrics, score, first_step, started, trained):
    """Write the record and the checkpoints of a scored epoch, and move state to the next one."""
    meter, epoch = state.meter, state.epoch
    images = (job.batches.steps - first_step) * job.recipe.batch_size * len(job.contexts)
    record = {
        "epoch": epoch, "lr": trainer.learning_rate, "train_loss": meter.loss, "train_accuracy": meter.accuracy,
        "train_images": meter.images, "val_loss": score.loss, "val_accuracy": score.top1, "val_top5": score.top5,
        "val_images": score.images, "scored_on": job.scored_on, "seconds": time.time() - started,
        "train_images_per_second": images / max(trained - started, 1e-9),
    }
    log.info("[Epoch %d] train=%f val=%f loss=%f time: %f", epoch, meter.accuracy, score.top1, meter.loss,
             record["seconds"])
    log.info("[Epoch %d] validation: err-top1=%f err-top5=%f", epoch, 1 - score.top1, 1 - score.top5)
    metrics.append(record)
    improved = state.best is None or score.top1 > state.best["accuracy"]
    if improved:
        state.best = {"epoch": epoch, "accuracy": score.top1, "loss": score.loss, "top5": score.top5}
    state.epoch, state.step, state.meter = epoch + 1, 0, loop.Meter()
    if improved:
        _save(job, BEST, state, trainer, score)
    if job.save_period and state.epoch % job.save_period == 0:
        _save(job, f"epoch-{state.epoch:04d}.params", state, trainer, score)
    _save(job, LAST, state, trainer, score)


def _save(job, name, state, trainer, score=None):
    settings = {**job.settings, "state": state.as_dict(), "scored_on": job.scored_on}
    if score is not None:
        settings["score"] = {"images": score.images, "accuracy": score.top1, "top5": score.top5, "loss": score.loss}
    checkpoint.save(job.directory / name, job.net, settings, trainer)


def _stop_sentence(job, state, stop):
    where = f"before epoch {state.epoch}" if state.step == 0 else \
        f"in epoch {state.epoch} after step {state.step} of {job.batches.steps}"
    return (f"stopped by {signal.Signals(stop.received).name} {where}; everything is saved in "
            f"{job.directory / LAST}: give the same command with --resume {job.directory} to go on")


def _divergence_sentence(job, state, error):
    good = job.directory / LAST
    kept = f"the last good checkpoint is {good}" if good.exists() else "there is no checkpoint yet"
    return (f"the training diverged in epoch {state.epoch}: {error}; {kept}. Try a smaller --lr, or a warmup "
            "(--warmup-epochs)")


def _finish(job, metrics, state):
    """Score the test images where they were kept back, draw the history, write result.json."""
    if not metrics.records:
        raise InputError(f"all {state.epoch} epochs are done, but {metrics.path} does not have them; put the run's own "
                         "metrics.jsonl back")
    last = metrics.records[-1]
    result = {
        **job.settings, "epochs": state.epoch, "scored_on": job.scored_on, "environment": runlog.environment(),
        "last": {"epoch": last["epoch"], "accuracy": last["val_accuracy"], "top5": last["val_top5"],
                 "loss": last["val_loss"], "images": last["val_images"]},
        "best": state.best, "seconds": sum(record["seconds"] for record in metrics.records),
        "train_images_per_second": sorted(record["train_images_per_second"]
                                          for record in metrics.records)[len(metrics.records) // 2],
    }
    if job.test_batches is not None:
        for name in (LAST, BEST):
            checkpoint.load_weights(job.directory / name, job.net)
            test = loop.evaluate(job.net, job.test_batches, job.contexts, job.labels, job.forward)
            result[f"test_of_{name.partition('.')[0]}"] = {"accuracy": test.top1, "top5": test.top5,
                                                           "loss": test.loss, "images": test.images}
            log.info("test images with the weights of the %s epoch: err-top1=%f err-top5=%f",
                     name.partition(".")[0], 1 - test.top1, 1 - test.top5)
    runlog.plot_history(metrics.records, job.directory / "history.png", job.directory.name,
                        f"{job.scored_on} images")
    runlog.write_json(job.directory / "result.json", result)
    return result


def new_directory(wanted, name):
    """A folder for a new run: `wanted`, or runs/`name` with a number behind it where that is taken.

    Raises InputError when `wanted` holds a run already: nothing is overwritten.
    """
    try:
        if wanted is None:
            return _make_numbered(name)
        directory = Path(wanted).expanduser()
        # An empty metrics.jsonl is of a run that was killed before it had saved anything.
        if any((directory / file).exists() and (directory / file).stat().st_size
               for file in (LAST, BEST, "metrics.jsonl")):
            raise InputError(f"{directory} holds a run already: go on with it by --resume, or give another --save-dir")
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{wanted or 'runs'} cannot be made: {error.strerror}; give another --save-dir") from error
    if not os.access(directory, os.W_OK):
        raise InputError(f"{directory} cannot be written to; give another --save-dir")
    return directory


def _make_numbered(name):
    for directory in _numbered(name):
        with contextlib.suppress(FileExistsError):  # two runs may start at once
            directory.mkdir(parents=True)
            return directory


def _numbered(name):
    yield Path("runs") / name
    number = 2
    while True:
        yield Path("runs") / f"{name}-{number}"
        number += 1


def newest_directory(name):
    """The newest of the numbered folders of runs/`name` that has a checkpoint to go on from, or None."""
    newest = None
    for path in _numbered(name):
        if not path.exists():
            return newest
        if (path / LAST).exists():
            newest = path


def refuse_rewinding(path, state):
    """InputError when the folder of a checkpoint has a sound last.params that is further on.

    Going on from the earlier one would mix two runs: the folder's metrics and best.params are of the later one.
    """
    last = path.parent / LAST
    if path.name == LAST or not last.exists():
        return
    try:
        newest = checkpoint.read_settings(last)["state"]
    except (InputError, KeyError):  # damaged: then the earlier one is what is left
        return
    if (newest["epoch"], newest["step"]) > (state["epoch"], state["step"]):
        raise InputError(f"--resume: {last} is further on (epoch {newest['epoch']}, step {newest['step']}): resume "
                         f"{path.parent}, or start a new run with --resume-params {path}")


def checkpoint_to_resume(path):
    """The checkpoint file that --resume PATH means: PATH itself, or last.params in the folder PATH."""
    path = Path(path).expanduser()
    file = path / LAST if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"--resume: there is no checkpoint {file}; name a run's folder or one of its .params files")
    return file
