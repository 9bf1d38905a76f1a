"""A training run, from its first step or its last checkpoint to result.json."""
import contextlib
import dataclasses
import logging
import signal
import statistics
import time
from pathlib import Path
from typing import Any, Optional

import numpy as np

from support import json_files
from support.errors import InputError, OutOfMemory, out_of_memory
from support.words import counted, duration

from . import checkpoint, runlog
from .experiment import Result, Score
from .figures import curves
from .folders import BEST, HISTORY, LAST, METRICS
from .progress import EpochShown, scoring_bar
from .schedule import learning_rate
from .signals import Stopped, StopSignal
from .steps import DataFault, Diverged, LossScale, Meter, Steps
from .tensorboard import Board

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Job:
    """The parts of a run.

    program : the backend's Program (backend.base), which computes.
    saved : the Saved of its checkpoints (engine.checkpoint): the experiment, without state and score.
    batches : training data with `steps` and `epoch(index, start, workers)` (engine.data.dataset).
    score_batches, labels : images scored after every epoch, and the number of their classes.
    scored_on : the kind of these images: 'test', 'held-out' or 'validation'.
    provenance : of the data (engine.data.dataset); it goes into the Result.
    test_batches : the test images, scored once at the end; None if they are score_batches.
    save_interval : write last.params also every so many steps and before scoring; 0: only after an epoch.
    board : for TensorBoard; None in every worker except worker 0, and if it was not asked for.
    """

    program: Any
    saved: checkpoint.Saved
    batches: Any
    score_batches: Any
    labels: int
    scored_on: str
    test_batches: Optional[Any]
    directory: Path
    provenance: dict = dataclasses.field(default_factory=dict)
    workers: int = 0
    save_period: int = 0
    save_interval: int = 0
    log_interval: int = 100
    board: Optional[Board] = None

    @property
    def experiment(self):
        return self.saved.experiment

    @property
    def recipe(self):
        return self.experiment.recipe


@dataclasses.dataclass
class _State:
    """The position of a run: next epoch and step, the sums of the epoch so far, the best epoch yet, its resumes."""

    epoch: int = 0
    step: int = 0
    meter: Meter = dataclasses.field(default_factory=Meter)
    best: Optional[dict] = None
    resumed: int = 0

    @classmethod
    def from_dict(cls, stored):
        meter = Meter(*(stored["meter"][name] for name in ("images", "loss_sum", "correct")))
        return cls(stored["epoch"], stored["step"], meter, stored["best"], stored["resumed"])


def train(job, resume=None):
    """Run a job, from the checkpoint file `resume` if there is one.

    Returns the Result, which it also writes to result.json; None in every worker except worker 0. Raises Stopped after
    SIGTERM, SIGINT or SIGHUP, InputError if the training diverges or the data cannot be read, and OutOfMemory. Each
    leaves last.params: the state after the last whole step or, if the run diverged or found no memory, an earlier good
    state.
    """
    run = _Run(job)
    run.restore(resume)
    try:
        with StopSignal() as stop:
            while run.state.epoch < job.recipe.epochs:
                run.epoch(stop)
        return run.finish()
    except Diverged as error:
        raise InputError(run.divergence_sentence(error)) from error
    except Exception as error:
        sentence = out_of_memory(error)
        if sentence is None:
            raise
        raise OutOfMemory(f"{sentence}; {run.kept()}") from error


class _Run:
    """A Job under way."""

    def __init__(self, job):
        self.job, self.program, self.team = job, job.program, job.program.team
        self.images_per_step = job.recipe.batch_size * job.experiment.devices
        self.state = _State(job.experiment.first_epoch)
        self.metrics = None
        self.epoch_seconds = None  # of the newest epoch, extrapolated if only a part was trained

    def restore(self, path):
        """Restore a checkpoint, or stay at the start if path is None, and open the metrics.

        Raises InputError in all workers of a team unless all of them are then at the same place.
        """
        place = [-1, 0]
        if path is not None:
            arrays, saved = checkpoint.load(path, self.program.forms())
            self.program.restore(arrays)
            self.state = _State.from_dict(saved.state)
            self.state.resumed += 1
            if self.state.step > self.job.batches.steps:
                raise InputError(f"{path} is at step {self.state.step} of an epoch, which has {self.job.batches.steps} "
                                 "here: it is not a checkpoint of this run")
            place = [self.state.epoch, self.state.step]
            if self.program.scale is not None and saved.state["loss_scale"]:
                self.program.scale = LossScale(*(saved.state["loss_scale"][name]
                                                 for name in ("value", "sound", "left_out")))
            if not self.team.writes:
                self.state.meter = Meter()  # worker 0 keeps the sums of all
            log.info("resuming from %s: epoch %d, step %d", path, *place)
        sums, squares = self.team.total(np.array([place, np.square(place)], np.float64))
        if (self.team.size * squares != sums ** 2).any():
            raise InputError("--resume: the workers do not find the same checkpoint; the run's folder must lie on a "
                             "disk that all of them reach by the same path")
        if self.team.writes:
            self.metrics = runlog.Metrics(self.job.directory / METRICS,
                                          None if path is None else self.state.epoch, self.job.experiment.first_epoch)

    def epoch(self, stop):
        """Train the rest of an epoch, score it, save. Raises Stopped, Diverged and InputError."""
        job, state = self.job, self.state
        started, first_step = time.time(), state.step
        try:
            self.train_epoch(stop)
        except DataFault as error:
            raise InputError(self.fault_sentence(error)) from error
        if state.step < job.batches.steps:
            self.save(LAST)
            raise self.stopped(stop)
        self.program.check()
        if job.save_interval and state.step > first_step:
            self.save(LAST)
        trained = time.time()
        score = self.score(job.score_batches, f"epoch {state.epoch + 1}/{job.recipe.epochs}, scoring")
        self.finish_epoch(score, first_step, started, trained)
        if state.epoch < job.recipe.epochs and self.asked_to(stop):
            raise self.stopped(stop)

    def train_epoch(self, stop):
        """Train from state.step to the end of the epoch or a stop signal, and move state along."""
        job, state, recipe, steps = self.job, self.state, self.job.recipe, self.job.batches.steps
        first = state.step

        def saved_after(done):
            return job.save_interval and (first + done) % job.save_interval == 0 and first + done < steps

        def told_after(done):  # an epoch shorter than the interval logs its last step
            return (first + done) % min(job.log_interval, steps) == 0

        def settled_after(done):  # the first line must count some images
            return saved_after(done) or told_after(done) and not state.meter.images

        todo = Steps(job.batches, recipe, job.experiment.seed, state.epoch, first, job.workers)
        with EpochShown(todo, state.meter, self.images_per_step, self.seconds_left, job.board,
                        self.team.writes) as shown, \
                contextlib.closing(self.program.steps(todo, state.meter, settled_after)) as progress:
            for done in progress:
                state.step = first + done
                shown.done(state.step, told_after(done))
                if self.asked_to(stop):
                    break
                if saved_after(done):
                    self.save(LAST)

    def score(self, batches, description):
        """The Scores on batches, with a bar."""
        with scoring_bar(batches, description, self.team.writes) as bar:
            return self.program.score(batches, self.job.labels, bar.update)

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
        scale = self.program.scale
        if scale is not None and scale.left_out:
            log.info("[Epoch %d] float16: %s of the run left out, the gradients overflowed; loss scale now %g",
                     epoch, counted(scale.left_out, "step"), scale.value)
        if self.team.writes:
            self.metrics.append(record)
        improved = state.best is None or score.top1 > state.best["accuracy"]
        if improved:
            state.best = {"epoch": epoch, "accuracy": score.top1, "loss": score.loss, "top5": score.top5}
        state.epoch, state.step, state.meter = epoch + 1, 0, Meter()
        if job.board is not None:  # before the checkpoint, after which nothing of this epoch is written again
            job.board.epoch(state.epoch * job.batches.steps, score, self.program.gates)
        if improved:
            self.save(BEST, score)
        if job.save_period and state.epoch % job.save_period == 0:
            self.save(f"epoch-{state.epoch:04d}.params", score)
        self.save(LAST, score)
        if images:  # a resumed run may only have scored
            share = (job.batches.steps - first_step) / job.batches.steps
            self.epoch_seconds = (trained - started) / share + time.time() - trained
        if self.epoch_seconds is not None and state.epoch < job.recipe.epochs:
            log.info("about %s left", duration(self.seconds_left(0)))

    def seconds_left(self, step):
        """Seconds until the end of the run, from the time of the newest epoch and of a step in the present one."""
        steps, state = self.job.batches.steps, self.state
        epoch = self.epoch_seconds or step * steps  # in the first epoch, without the time of scoring
        return (steps - state.step) * (step or epoch / steps) + (self.job.recipe.epochs - state.epoch - 1) * epoch

    def save(self, name, score=None):
        """Write a checkpoint; all workers of a team must call it."""
        job = self.job
        state = {**dataclasses.asdict(self.state), "meter": dataclasses.asdict(self.meter()),
                 "loss_scale": self.program.scale and vars(self.program.scale)}
        if score is not None:
            score = {"images": score.images, "accuracy": score.top1, "top5": score.top5, "loss": score.loss}
        saved = dataclasses.replace(job.saved, state=state, scored_on=job.scored_on, score=score)
        arrays = self.program.arrays()
        if self.team.writes:
            checkpoint.save(job.directory / name, arrays, saved)

    def meter(self):
        """The sums of the epoch so far, over all workers."""
        own = self.state.meter
        images, loss_sum, correct = self.team.total(np.array([own.images, own.loss_sum, own.correct], np.float64))
        return Meter(int(images), float(loss_sum), int(correct))

    def asked_to(self, stop):
        """Whether any process of the team was told to stop."""
        return self.team.any(stop.received is not None)

    def stopped(self, stop):
        """The Stopped of a run whose state is saved."""
        state, number = self.state, stop.received or signal.SIGTERM  # SIGTERM if another worker was told
        where = f"before epoch {state.epoch}" if state.step == 0 else \
            f"in epoch {state.epoch} after step {state.step} of {self.job.batches.steps}"
        return Stopped(f"stopped by {signal.Signals(number).name} {where}; everything is saved in "
                       f"{self.job.directory / LAST}: to resume, give the same command with --resume "
                       f"{self.job.directory}", number)

    def fault_sentence(self, error):
        """The sentence for a batch that cannot be read. Saves the steps before it, if this is the only worker."""
        if self.team.size == 1 and self.state.step:
            self.save(LAST)
        return f"epoch {self.state.epoch}, step {self.state.step}: {error}; {self.kept()}"

    def divergence_sentence(self, error):
        return (f"the training diverged in epoch {self.state.epoch}: {error}; {self.kept()}. Try a smaller --lr, or a "
                "warmup (--warmup-epochs)")

    def kept(self):
        """Which checkpoint is on the disk, in words."""
        good = self.job.directory / LAST
        return f"the last good checkpoint is {good}" if good.exists() else "there is no checkpoint yet"

    def finish(self):
        """Score the test images if others chose the best epoch; worker 0 writes history and result.json. The Result."""
        job, tested = self.job, None
        if job.test_batches is not None:
            tested = {"last": self.test_score("last", self.state.epoch - 1),
                      "best": self.test_score("best", self.state.best["epoch"])}
        if not self.team.writes:
            return None
        records = self.metrics.records
        if not records:
            raise InputError(f"all {self.state.epoch} epochs are done, but {self.metrics.path} does not have them; "
                             "restore the run's own metrics.jsonl")
        last, best = records[-1], self.state.best
        scores = {"last": Score(last["epoch"], last["val_accuracy"], last["val_top5"], last["val_loss"],
                                last["val_images"]),
                  "best": Score(best["epoch"], best["accuracy"], best["top5"], best["loss"], last["val_images"])}
        held_out = None
        if tested is not None:
            held_out, scores = scores, tested
        result = Result(
            experiment=job.experiment, data={"variant": job.saved.data["variant"], **job.provenance}, **scores,
            chosen_on=job.scored_on, held_out=held_out, seconds=sum(record["seconds"] for record in records),
            resumed=self.state.resumed, train_images_per_second=statistics.median_high(
                record["train_images_per_second"] for record in records),
            operators=job.saved.operators, command=job.saved.command,
            environment=runlog.environment(self.program.environment()))
        curves.draw({f"{job.scored_on} images": records}, job.directory / HISTORY, job.directory.name)
        json_files.write(job.directory / "result.json", result.as_json())
        return result

    def test_score(self, which, epoch):
        """The Score on the test images of the 'last' or 'best' weights, of an epoch; all workers call it at once."""
        job = self.job
        self.team.any(False)  # worker 0 has written them when it comes here
        self.program.restore(checkpoint.weights(job.directory / f"{which}.params"))
        test = self.score(job.test_batches, f"scoring the test images, {which} epoch")
        log.info("test images with the weights of the %s epoch: err-top1=%f err-top5=%f", which, 1 - test.top1,
                 1 - test.top5)
        return Score(epoch, test.top1, test.top5, test.loss, test.images)
