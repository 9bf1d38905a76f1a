"""A training run from its first step, or its last checkpoint, to result.json."""
import contextlib
import dataclasses
import logging
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Optional

import numpy as np

from backend.gluon import loop
from backend.gluon.distributed import Team
from support import json_files
from support.errors import InputError, OutOfMemory, out_of_memory
from support.files import expanded
from support.words import counted, duration

from . import checkpoint, runlog
from .experiment import Result, Score
from .schedule import learning_rate, mixing_share

log = logging.getLogger(__name__)

LAST, BEST, METRICS = "last.params", "best.params", "metrics.jsonl"


@dataclasses.dataclass
class Job:
    """What a run is made of.

    net : initialized, on contexts.
    saved : the Saved of its checkpoints (engine.checkpoint), with the experiment, as yet without state and score.
    batches : training data with `steps` and `epoch(index, start, workers)` (engine.data.cifar.TrainBatches).
    score_batches, labels : images (cifar.EvalBatches) and number of their classes, scored after every epoch.
    scored_on : what those are, 'test', 'held-out' or 'validation'.
    provenance : of the data, as the loaders have it; it goes into the Result.
    test_batches : the test images, scored once at the end, where score_batches are others; else None. For one worker.
    team : the workers that train together (gluon.distributed), each with its own Job: each reads its own share of
        the batches and of the images to score, the first one alone writes. By default this process alone.
    save_interval : write last.params every so many steps and before scoring, not only after an epoch; 0: no.
    forward : computes the logits in the place of net, on its parameters; None: net itself.
    update_all : operator that updates all parameters at once (backend.gluon.nag); None: MXNet's own.
    """

    net: Any
    saved: checkpoint.Saved
    batches: Any
    score_batches: Any
    labels: int
    scored_on: str
    test_batches: Optional[Any]
    contexts: list
    directory: Path
    provenance: dict = dataclasses.field(default_factory=dict)
    workers: int = 0
    team: Team = dataclasses.field(default_factory=lambda: Team("device"))
    save_period: int = 0
    save_interval: int = 0
    log_interval: int = 100
    forward: Any = None
    update_all: Any = None

    @property
    def experiment(self):
        return self.saved.experiment

    @property
    def recipe(self):
        return self.experiment.recipe


class Stopped(Exception):
    """A signal ended the run; everything is saved. `status` is the exit status a shell expects."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


class _StopSignal:
    """Notes the first SIGTERM, SIGINT or SIGHUP, so that the step under way can end and be saved; the second kills.

    A SIGHUP that the process was started to ignore, as by nohup, stays ignored. A step can wait for ever, as MXNet does
    where a thread of its own found no memory, and Python's handlers run only between the calls of the main thread. So
    a thread listens too: it ends the process at the second signal, and where the main thread has not taken note of the
    first after `patience` seconds.
    """

    received, _previous = None, {}

    def __init__(self, patience=900.0):
        self.patience = patience

    def __enter__(self):
        self._terminal = os.isatty(sys.__stderr__.fileno()) if sys.__stderr__ else False
        self._heard, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._listener = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._listener.start()
        self._wakeup = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._note)
                          for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
                          if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        return self

    def _note(self, number, frame):
        self.received = number
        signal.signal(number, signal.SIG_DFL)
        if self._terminal and not os.isatty(sys.__stderr__.fileno()):
            # The terminal is gone, and the next word to it would be an error that ends the run unsaved.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)

    def _listen(self):
        heard, until = [], None
        while True:
            left = None if until is None else max(0, until - time.monotonic())
            if not select.select([self._heard], [], [], left)[0]:
                if self.received is not None:  # the main thread has taken note
                    until = None
                    continue
                with contextlib.suppress(OSError):
                    os.write(2, f"the step under way did not end in the {self.patience:g} s since "
                                f"{signal.Signals(heard[0]).name}: left without saving it\n".encode())
                os._exit(128 + heard[0])
            for number in os.read(self._heard, 64):
                if number == 0:
                    return
                if number in heard:
                    os._exit(128 + number)
                if number in self._previous:
                    heard.append(number)
                    until = until or time.monotonic() + self.patience

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._told, b"\0")
        self._listener.join()
        for end in (self._heard, self._told):
            os.close(end)


@dataclasses.dataclass
class _State:
    """Where a run stands: epoch and step to do next, the sums of the epoch so far, the best epoch yet, its resumes."""

    epoch: int = 0
    step: int = 0
    meter: loop.Meter = dataclasses.field(default_factory=loop.Meter)
    best: Optional[dict] = None
    resumed: int = 0

    @classmethod
    def from_dict(cls, stored):
        meter = loop.Meter(*(stored["meter"][name] for name in ("images", "loss_sum", "correct")))
        return cls(stored["epoch"], stored["step"], meter, stored["best"], stored["resumed"])


def train(job, resume=None):
    """Run a job, from a checkpoint file when resume names one.

    Returns the Result, which it also writes to result.json; None in a worker that is not the first of its team. Raises
    Stopped after SIGTERM, SIGINT or SIGHUP, InputError when the training diverges or the data cannot be read, and
    OutOfMemory. All leave last.params behind: the end of the last whole step, or, of a run that diverged or found no
    memory, an earlier one that was good.
    """
    run = _Run(job)
    run.restore(resume)
    try:
        with _StopSignal() as stop:
            while run.state.epoch < job.recipe.epochs:
                run.epoch(stop)
        return run.finish() if run.writes else None
    except loop.Diverged as error:
        raise InputError(run.divergence_sentence(error)) from error
    except Exception as error:
        sentence = out_of_memory(error)
        if sentence is None:
            raise
        raise OutOfMemory(f"{sentence}; {run.kept()}") from error


class _Run:
    """A Job under way."""

    def __init__(self, job):
        self.job, self.team = job, job.team
        self.team.broadcast(job.net)
        self.trainer = loop.make_trainer(job.net, job.recipe, self.team.kvstore, job.experiment.dtype,
                                        job.update_all, self.team)
        self.scale = loop.LossScale() if job.experiment.dtype == "float16" else None
        self.method = loop.Method(job.recipe.label_smoothing, job.recipe.accumulate, self.scale)
        self.images_per_step = job.recipe.batch_size * len(job.contexts) * self.team.size
        self.state = _State(job.experiment.first_epoch)
        self.metrics = None
        self.epoch_seconds = None  # of the newest epoch, as if trained whole

    @property
    def writes(self):
        """Whether this process writes the run's files."""
        return self.team.rank == 0

    def restore(self, path):
        """Bring everything back to a checkpoint, or stay at the start where path is None, and open the metrics.

        Raises InputError in all workers of a team unless all of them are at the same place then.
        """
        place = [-1, 0]
        if path is not None:
            stored = checkpoint.restore(path, self.job.net, self.trainer, self.job.team).state
            self.state = _State.from_dict(stored)
            self.state.resumed += 1
            if self.state.step > self.job.batches.steps:
                raise InputError(f"{path} is at step {self.state.step} of an epoch, which has {self.job.batches.steps} "
                                 "here: it is not a checkpoint of this run")
            place = [self.state.epoch, self.state.step]
            if self.scale is not None and stored["loss_scale"]:
                self.scale = self.method.scale = loop.LossScale(
                    *(stored["loss_scale"][name] for name in ("value", "sound", "left_out")))
            if not self.writes:
                self.state.meter = loop.Meter()  # the first worker goes on with the sums of all
            log.info("going on from %s: epoch %d, step %d", path, *place)
        sums, squares = self.team.total(np.array([place, np.square(place)], np.float64))
        if (self.team.size * squares != sums ** 2).any():
            raise InputError("--resume: the workers do not find the same checkpoint; the run's folder must lie on a "
                             "disk that all of them reach by the same path")
        if self.writes:
            self.metrics = runlog.Metrics(self.job.directory / METRICS,
                                          None if path is None else self.state.epoch, self.job.experiment.first_epoch)

    def epoch(self, stop):
        """Train the rest of an epoch, score it, save. Raises Stopped, Diverged and InputError."""
        job, state = self.job, self.state
        started, first_step = time.time(), state.step
        try:
            self.train_epoch(stop)
        except loop.DataFault as error:
            raise InputError(self.fault_sentence(error)) from error
        if state.step < job.batches.steps:
            self.save(LAST)
            raise self.stopped(stop)
        loop.check_weights(job.net)
        if job.save_interval and state.step > first_step:
            self.save(LAST)
        trained = time.time()
        loop.average_running_statistics(job.net, job.team)
        score = loop.evaluate(job.net, job.score_batches, job.contexts, job.labels, job.forward, job.team)
        self.finish_epoch(score, first_step, started, trained)
        if state.epoch < job.recipe.epochs and self.asked_to(stop):
            raise self.stopped(stop)

    def train_epoch(self, stop):
        """Train from state.step to the end of the epoch, or to a stop signal; state follows."""
        job, state, recipe, steps = self.job, self.state, self.job.recipe, self.job.batches.steps
        first = state.step

        def feed():
            for step, (images, labels) in enumerate(job.batches.epoch(state.epoch, first, job.workers), first):
                yield (learning_rate(recipe, state.epoch, step, steps), images, labels,
                       mixing_share(recipe, job.experiment.seed, state.epoch, step))

        def saved_after(done):
            return job.save_interval and (first + done) % job.save_interval == 0 and first + done < steps

        def told_after(done):  # of an epoch that is shorter than the interval, its last step
            return (first + done) % min(job.log_interval, steps) == 0

        def settled_after(done):  # a line tells of some images at least
            return saved_after(done) or told_after(done) and not state.meter.images

        mark, marked, place = time.time(), first, f"epoch {state.epoch + 1}/{recipe.epochs}"
        with runlog.progress_bar(steps, place, first) as bar, \
                contextlib.closing(loop.train_steps(job.net, self.trainer, feed(), job.contexts, state.meter,
                                                    job.forward, self.method, settled_after)) as progress:
            for done in progress:
                state.step = first + done
                bar.update()
                if told_after(done):
                    speed = (state.step - marked) * self.images_per_step / max(time.time() - mark, 1e-9)
                    mark, marked = time.time(), state.step
                    left = duration(self.seconds_left(self.images_per_step / speed))
                    bar.set_description_str(f"{place}, about {left} left", refresh=False)
                    bar.set_postfix_str(f"loss {state.meter.loss:.3f}, accuracy {state.meter.accuracy:.3f}, "
                                        f"{speed:,.0f} images/s")
                    # A terminal has the bar; the plain lines are for files and pipes.
                    log.log(logging.DEBUG if sys.stderr.isatty() else logging.INFO,
                            "Epoch[%d] Batch [%d]\tSpeed: %f samples/sec\taccuracy=%f\tlr=%f", state.epoch,
                            state.step, speed, state.meter.accuracy, self.trainer.learning_rate)
                if self.asked_to(stop):
                    break
                if saved_after(done):
                    self.save(LAST)

    def finish_epoch(self, score, first_step, started, trained):
        """Write the record and the checkpoints of a scored epoch, and move state to the next one."""
        job, state, meter, epoch = self.job, self.state, self.meter(), self.state.epoch
        images = (job.batches.steps - first_step) * self.images_per_step
        record = {
            "epoch": epoch, "lr": learning_rate(job.recipe, epoch, job.batches.steps - 1, job.batches.steps),
            "train_loss": meter.loss, "train_accuracy": meter.accuracy, "train_images": meter.images,
            "val_loss": score.loss, "val_accuracy": score.top1, "val_top5": score.top5, "val_images": score.images,
            "scored_on": job.scored_on, "seconds": time.time() - started,
            "train_images_per_second": images / max(trained - started, 1e-9),
        }
        log.info("[Epoch %d] train=%f val=%f loss=%f time: %f", epoch, meter.accuracy, score.top1, meter.loss,
                 record["seconds"])
        log.info("[Epoch %d] validation: err-top1=%f err-top5=%f", epoch, 1 - score.top1, 1 - score.top5)
        if self.scale is not None and self.scale.left_out:
            log.info("[Epoch %d] float16: %s of the run left out, the gradients overflowed; loss scale now %g",
                     epoch, counted(self.scale.left_out, "step"), self.scale.value)
        if self.writes:
            self.metrics.append(record)
        improved = state.best is None or score.top1 > state.best["accuracy"]
        if improved:
            state.best = {"epoch": epoch, "accuracy": score.top1, "loss": score.loss, "top5": score.top5}
        state.epoch, state.step, state.meter = epoch + 1, 0, loop.Meter()
        if improved:
            self.save(BEST, score)
        if job.save_period and state.epoch % job.save_period == 0:
            self.save(f"epoch-{state.epoch:04d}.params", score)
        self.save(LAST, score)
        if images:  # not only scored
            share = (job.batches.steps - first_step) / job.batches.steps
            self.epoch_seconds = (trained - started) / share + time.time() - trained
        if self.epoch_seconds is not None and state.epoch < job.recipe.epochs:
            log.info("about %s left", duration(self.seconds_left(0)))

    def seconds_left(self, step):
        """What is left of the run, by the newest epoch and, of the epoch under way, by `step` seconds a step."""
        steps, state = self.job.batches.steps, self.state
        epoch = self.epoch_seconds or step * steps  # without the time of scoring, in the first epoch
        return (steps - state.step) * (step or epoch / steps) + (self.job.recipe.epochs - state.epoch - 1) * epoch

    def save(self, name, score=None):
        """Write a checkpoint; all workers of a team at once."""
        job = self.job
        state = {**dataclasses.asdict(self.state), "meter": dataclasses.asdict(self.meter()),
                 "loss_scale": self.scale and self.scale.as_dict()}
        if score is not None:
            score = {"images": score.images, "accuracy": score.top1, "top5": score.top5, "loss": score.loss}
        saved = dataclasses.replace(job.saved, state=state, scored_on=job.scored_on, score=score)
        checkpoint.save(job.directory / name, job.net, saved, self.trainer, job.team)

    def meter(self):
        """The epoch's sums so far, over all workers."""
        own = self.state.meter
        images, loss_sum, correct = self.team.total(np.array([own.images, own.loss_sum, own.correct], np.float64))
        return loop.Meter(int(images), float(loss_sum), int(correct))

    def asked_to(self, stop):
        """Whether this process or another of its team was told to stop."""
        return self.team.any(stop.received is not None)

    def stopped(self, stop):
        """The Stopped of a run whose state is saved."""
        state, number = self.state, stop.received or signal.SIGTERM  # where another worker was told
        where = f"before epoch {state.epoch}" if state.step == 0 else \
            f"in epoch {state.epoch} after step {state.step} of {self.job.batches.steps}"
        return Stopped(f"stopped by {signal.Signals(number).name} {where}; everything is saved in "
                       f"{self.job.directory / LAST}: give the same command with --resume {self.job.directory} to go "
                       "on", number)

    def fault_sentence(self, error):
        """What to say of a batch that cannot be read; saves the steps before it, unless others had to join in."""
        if self.team.size == 1 and self.state.step:
            self.save(LAST)
        return f"epoch {self.state.epoch}, step {self.state.step}: {error}; {self.kept()}"

    def divergence_sentence(self, error):
        return (f"the training diverged in epoch {self.state.epoch}: {error}; {self.kept()}. Try a smaller --lr, or a "
                "warmup (--warmup-epochs)")

    def kept(self):
        """What is on the disk, in words."""
        good = self.job.directory / LAST
        return f"the last good checkpoint is {good}" if good.exists() else "there is no checkpoint yet"

    def finish(self):
        """Score the test images where they were kept back, draw the history, write result.json."""
        job, records = self.job, self.metrics.records
        if not records:
            raise InputError(f"all {self.state.epoch} epochs are done, but {self.metrics.path} does not have them; put "
                             "the run's own metrics.jsonl back")
        last, best = records[-1], self.state.best
        scores = {"last": Score(last["epoch"], last["val_accuracy"], last["val_top5"], last["val_loss"],
                                last["val_images"]),
                  "best": Score(best["epoch"], best["accuracy"], best["top5"], best["loss"], last["val_images"])}
        held_out = None
        if job.test_batches is not None:
            held_out, scores = scores, {which: self.test_score(which, score) for which, score in scores.items()}
        result = Result(
            experiment=job.experiment, data={"variant": job.saved.data["variant"], **job.provenance}, **scores,
            chosen_on=job.scored_on, held_out=held_out, seconds=sum(record["seconds"] for record in records),
            resumed=self.state.resumed, train_images_per_second=sorted(
                record["train_images_per_second"] for record in records)[len(records) // 2],
            operators=job.saved.operators, command=job.saved.command,
            environment=runlog.environment(job.contexts))
        runlog.plot_history(records, job.directory / "history.png", job.directory.name, f"{job.scored_on} images")
        json_files.write(job.directory / "result.json", result.as_json())
        return result

    def test_score(self, which, chosen):
        """The Score of the test images with the weights of an epoch, 'last' or 'best', that has another Score."""
        job = self.job
        checkpoint.load_weights(job.directory / f"{which}.params", job.net)
        test = loop.evaluate(job.net, job.test_batches, job.contexts, job.labels, job.forward)
        log.info("test images with the weights of the %s epoch: err-top1=%f err-top5=%f", which, 1 - test.top1,
                 1 - test.top5)
        return Score(chosen.epoch, test.top1, test.top5, test.loss, test.images)


def new_directory(wanted, name, resumed=False):
    """A folder for a new run: `wanted`, or runs/`name` with a number behind it where that is taken.

    Raises InputError when `wanted` holds a run already: nothing is overwritten, but (resumed: --resume was given) for
    what a run has left that ended before its first checkpoint.
    """
    try:
        if wanted is None:
            return _make_numbered(name)
        directory = expanded(wanted)
        # An empty metrics.jsonl is of a run that was killed before it had saved anything.
        taken = [file for file in (LAST, BEST, METRICS)
                 if (directory / file).exists() and (directory / file).stat().st_size]
        if taken and not (resumed and LAST not in taken and _in_first_epoch(directory)):
            advice = "go on with it by --resume, or" if LAST in taken else \
                f"its {LAST} is gone: go on from another of its checkpoints with --resume FILE, or"
            raise InputError(f"{directory} holds a run already: {advice} give another --save-dir")
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{wanted or 'runs'} cannot be made: {error.strerror}; give another --save-dir") from error
    if not os.access(directory, os.W_OK):
        raise InputError(f"{directory} cannot be written to; give another --save-dir")
    return directory


def _in_first_epoch(directory):
    """Whether the run in a folder without last.params had not come further than the end of its first epoch."""
    epochs = len(runlog.read_metrics(directory / METRICS)) if (directory / METRICS).exists() else 0
    return epochs == 1 or epochs == 0 and not (directory / BEST).exists()


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
        newest = checkpoint.read(last).state
    except InputError:  # damaged: then the earlier one is what is left
        return
    if newest and (newest["epoch"], newest["step"]) > (state["epoch"], state["step"]):
        raise InputError(f"--resume: {last} is further on (epoch {newest['epoch']}, step {newest['step']}): resume "
                         f"{path.parent}, or start a new run with --resume-params {path}")


def checkpoint_to_resume(path):
    """The checkpoint file that --resume PATH means: PATH itself, or last.params in the folder PATH."""
    path = expanded(path)
    file = path / LAST if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"--resume: there is no checkpoint {file}; name a run's folder or one of its .params files")
    return file


def weights_file(path):
    """The parameter file that a flag means: path itself, or best.params where path is a run's folder, which is said."""
    folder = expanded(path)
    if not folder.is_dir():
        return path
    if not (folder / BEST).is_file():
        raise InputError(f"{path} is a folder without {BEST}; name a run's folder or a parameter file")
    log.info("%s is a folder: taking its %s, the weights of the epoch that scored best", path, BEST)
    return str(folder / BEST)
