"""Trains the missing cells of an exhibit, several at a time; it can be stopped and resumed at any time.

Every run has its own folder in runs/grid/ with a lock that its training process shares, so the folder is free only when
both the script and the training have ended. Saved runs are resumed; runs in the ledger are not repeated.
"""
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

from engine.experiment import Experiment
from engine.run import Stopped
from support import ROOT, threads
from support.errors import InputError
from support.files import expanded, regular, writing
from support.lock import take
from support.processes import handling
from support.words import counted, duration

from . import grid, ledger
from .plan import find_data, finished, progress_of

log = logging.getLogger("engine.reproduce")  # the level that engine.runlog sets for the engine's own lines

POLL = 0.2  # seconds between two looks at the trainings


@dataclasses.dataclass
class _Training:
    """A running training process."""

    run: Experiment
    folder: Path
    process: subprocess.Popen
    lock: int
    slot: Optional[int]  # the GPU, or None for the CPU
    signals: int = 0  # how many it was sent


def command_of(run, folder, gpu, options):
    """The training's command line, for the repository's root; it names no other folder of this machine."""
    place = os.path.relpath(folder, ROOT) if ROOT in folder.parents else str(folder)
    words = ["train_cifar.py", "--model", run.model, "--blocks", str(run.blocks)]
    sites = run.net.get("replaced_sites")
    if sites is not None:
        words += ["--replaced-sites", str(sites)]
    words += ["--dataset", run.dataset, "--classes", str(run.classes)]
    if run.label_mode:
        words += ["--label-mode", run.label_mode]
    words += ["--recipe", "scaled", "--num-epochs", str(run.recipe.epochs), "--seed", str(run.seed),
              "--gpus", "" if gpu is None else str(gpu), "-j", str(options.workers)]
    if options.data_dir is not None:
        words += ["--data-dir", f"{place}/data"]
    return [*words, "--save-dir", place, "--resume"]


class Grid:
    """Trains a list of runs; `failures` holds (run, reason) of those that failed."""

    def __init__(self, runs, options):
        self.waiting, self.options = list(runs), options
        self.running, self.failures, self.done, self.total = [], [], 0, len(runs)
        # With more jobs than GPUs, several share one.
        self.free = [options.gpus[index % len(options.gpus)] if options.gpus else None for index in range(options.jobs)]
        self.data, self.told_waiting = {}, False

    def train(self):
        """Train all runs. Raises Stopped after SIGTERM or SIGINT, when every training has saved itself.

        InputError, before any training, if there is no data at all.
        """
        self.find_data()
        asked = []  # the signals that asked to stop
        with handling((signal.SIGTERM, signal.SIGINT), lambda number, _: asked.append(number)):
            while self.running or (self.waiting and not asked):
                if not asked:
                    self.start_what_fits()
                for training in list(self.running):
                    while training.signals < len(asked):  # the first lets it save, the second one kills
                        training.process.terminate()
                        training.signals += 1
                    if training.process.poll() is not None:
                        self.collect(training, stopped=bool(asked))
                time.sleep(POLL)
        if asked:
            raise Stopped(f"stopped by {signal.Signals(asked[0]).name}: {self.done} of "
                          f"{counted(self.total, 'run')} finished, running trainings are saved; give the same command "
                          "to resume", asked[0])

    def find_data(self):
        """Find the data of every run. Runs without data fail, with one message."""
        self.data, missing = find_data(self.waiting, self.options)
        for reason, names in missing.items():
            if not self.data:
                raise InputError(reason)
            left = [run for run in self.waiting if run.data_name in names]
            log.error("%s, the first is %s: FAILED: %s", counted(len(left), "run"), grid.title(left[0]), reason)
            for run in left:
                self.waiting.remove(run)
                self.failures.append((run, reason))

    def start_what_fits(self):
        """Start waiting runs on free devices, and finish those that need no training."""
        passed_over = []
        while self.waiting and self.free:
            run = self.waiting.pop(0)
            data = self.data[run.data_name]
            if finished(run, data, self.options.results):
                self.finish(run, "was finished before")
                continue
            folder = self.options.work / grid.name(run, data["sha256"])
            with writing(folder, "free space, or give another --runs"):
                folder.mkdir(parents=True, exist_ok=True)
            lock = take(folder / "lock")
            if lock is None:
                passed_over.append(run)
            elif (folder / "result.json").exists():  # killed between the training's end and the record
                self.record(run, folder)
                os.close(lock)
            else:
                try:
                    self.start(run, folder, lock)
                except OSError as error:
                    os.close(lock)
                    self.fail(run, f"the training cannot be started: {error}; free space or memory")
        self.waiting += passed_over
        if passed_over and not self.running and not self.told_waiting:
            self.told_waiting = True
            log.info("waiting for %s, which another process is training", grid.key(passed_over[0]))

    def start(self, run, folder, lock):
        done = progress_of(folder)
        if self.options.data_dir is not None:
            # A link, so that commands and logs in the ledger name no folder of this machine.
            link = folder / "data"
            link.unlink(missing_ok=True)
            link.symlink_to(expanded(self.options.data_dir).resolve(), target_is_directory=True)
        slot = self.free[0]
        environment = {**os.environ}
        if slot is None and self.options.jobs > 1:
            own = max(1, threads.usable_cores() // self.options.jobs)
            # Set by the user, or by runtime.prepare() to all cores.
            environment["OMP_NUM_THREADS"] = str(min(own, int(environment["OMP_NUM_THREADS"])))
        command = command_of(run, folder, slot, self.options)
        with open(folder / "output.log", "ab", opener=regular) as output:
            # In its own session, so that Ctrl-C reaches the trainings once, through this process.
            process = subprocess.Popen(
                [sys.executable, "-m", "reproduce.child", str(os.getpid()), sys.executable, *command],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=[lock], start_new_session=True)
        self.free.pop(0)
        self.running.append(_Training(run, folder, process, lock, slot))
        log.info("%s: started on %s%s", grid.title(run), "the CPU" if slot is None else f"GPU {slot}",
                 f", resuming after {counted(done, 'epoch')}" if done else "")

    def collect(self, training, stopped):
        """Record the result or the failure of a training that has ended."""
        self.running.remove(training)
        self.free.append(training.slot)
        status = training.process.returncode
        if status == 0:
            self.record(training.run, training.folder)
        elif not stopped:
            self.fail(training.run, ending(status, training.folder / "output.log"))
        os.close(training.lock)

    def record(self, run, folder):
        """Put a training's result into the ledger."""
        try:
            record = ledger.add(folder, self.options.results)
            if record.id != folder.name:
                raise InputError(f"{folder} holds another run ({record.id}); remove it")
        except InputError as error:
            self.fail(run, str(error))
            return
        result = record.result
        self.finish(run, f"last epoch {result.last.accuracy:.4f}, best {result.best.accuracy:.4f} (epoch "
                         f"{result.best.epoch}), "
                         f"{duration(result.seconds)}, {result.train_images_per_second:,.0f} images/s")

    def finish(self, run, words):
        self.done += 1
        log.info("%s: %s (%d of %s finished)", grid.title(run), words, self.done, counted(self.total, "run"))

    def fail(self, run, reason):
        self.failures.append((run, reason))
        log.error("%s: FAILED: %s", grid.title(run), reason)


def ending(status, log_file):
    """Why a training failed, by its exit status (a shell's or Popen's) and the last line of its log file."""
    number = -status if status < 0 else status - 128
    known = {each.value: each.name for each in signal.Signals}
    # After a signal that asks to stop, the training's own last line says more.
    if number in known and number not in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        why = "out of memory?" if number == signal.SIGKILL else known[number]
        return f"killed by signal {number} ({why}); the same command resumes it from its checkpoint; log: {log_file}"
    with open(log_file, encoding="utf-8", errors="replace", opener=regular) as file:
        lines = [line.strip() for line in file if line.strip()]
    words = lines[-1] if lines else "it ended without a message"
    return f"{words} (exit status {status}; the whole log: {log_file})"
