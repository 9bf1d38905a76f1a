"""Interleaved measurement: one process for each variant of a group; all are alive, one works at a time.

The variants take turns, round after round, so that a change of the machine affects all of them. Ratios are within a
round. Each process has its own allocator, threads and peak memory. Waiting processes sleep, and the record says how
busy the rest of the machine was.
"""
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Optional

from engine.experiment import Experiment
from support import ROOT, json_files
from support.files import write_whole, writing
from support.json_files import OBJECT
from support.threads import usable_cores

from . import machine
from .contender import NotMeasured

log = logging.getLogger("benchmarks")

PAUSE = 0.05  # seconds before a turn, in which the threads of the previous variant fall asleep
MOST_UNITS = 50  # in one turn


@dataclasses.dataclass(frozen=True)
class Net:
    """The net of an Experiment and a batch of its images; `onnx` exports it too."""

    experiment: Experiment
    training: bool = True
    onnx: bool = False


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a group. contender is "module:Class" of this package, called with arguments and the net's folder."""

    name: str
    contender: str
    arguments: dict = dataclasses.field(default_factory=dict)
    net: Optional[Net] = None
    threads: Optional[int] = None  # None: those of the run
    tuned: bool = True


@dataclasses.dataclass(frozen=True)
class Group:
    """Variants to compare; `unit` names the timed work. Ratios refer to the first variant."""

    name: str
    unit: str
    variants: tuple
    once: bool = False  # its contenders describe themselves and are not timed
    warm: int = 1  # uncounted units before each turn, because caches hold another process's data


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a run measures. seconds: the length of a turn; patience: seconds before a process counts as stuck."""

    repeats: int = 5
    seconds: float = 0.5
    threads: int = dataclasses.field(default_factory=usable_cores)
    patience: float = 900
    quick: bool = False


class Worker:
    """A process of benchmarks.worker and the pipes to it."""

    def __init__(self, environment, patience):
        self.patience = patience
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"], cwd=ROOT, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.errors, text=True, start_new_session=True)
        self.stuck = False

    def call(self, **order):
        """Send an order and return its answer; NotMeasured with the reason if there is none."""
        watch = threading.Timer(self.patience, self._give_up)
        watch.start()
        try:
            print(json.dumps(order), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if self.stuck:
            self.end()
            raise NotMeasured(f"it did not answer within {self.patience:g} seconds")
        if not line:
            raise NotMeasured(f"its process ended with status {self.process.wait()}{self._last_words()}")
        answer = json.loads(line)
        if "not_measured" in answer:
            raise NotMeasured(answer["not_measured"])
        return answer

    def _give_up(self):
        self.stuck = True
        self._kill()

    def _kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its session is its own

    def _last_words(self):
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()[:200]})" if lines else ""

    def seconds(self):
        """Processor time of the process and its children so far."""
        return machine.session_seconds(self.process.pid)

    def end(self):
        """End the process, which has 10 s to end by itself, and its children. A second call does no harm."""
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self._kill()
        self.process.wait()


class _Turns:
    """A variant while its group is measured: its worker and its results so far."""

    def __init__(self, variant, warm):
        self.variant, self.warm, self.worker, self.count = variant, warm, None, 1
        self.record, self.seconds = {}, []

    def attempt(self, step, *arguments):
        """Do a step. A failure becomes the variant's record and removes it from the group."""
        try:
            step(*arguments)
        except NotMeasured as error:
            log.info("  %s: not measured: %s", self.variant.name, error)
            self.record = {"not_measured": str(error)}
            self.end()

    def make(self, plan, folder):
        variant = self.variant
        threads = variant.threads or plan.threads
        self.worker = Worker(machine.environment(threads, variant.tuned), plan.patience)
        arguments = {**variant.arguments, **({"folder": str(folder)} if folder else {})}
        began = time.perf_counter()
        self.record = {"threads": threads, "tuned": variant.tuned,
                       **self.worker.call(do="make", contender=variant.contender, arguments=arguments)}
        log.info("  %s: ready after %.1f s", variant.name, time.perf_counter() - began)

    def calibrate(self, plan):
        """Choose the number of units per turn."""
        once = self.worker.call(do="measure", count=1, warm=self.warm)["seconds"]
        self.count = int(min(max(plan.seconds / max(once, 1e-9), 1), MOST_UNITS))
        self.record["units_per_turn"] = self.count
        self.worker.call(do="forget_peak")

    def take(self):
        """One turn: records the mean seconds per unit, and other processor time as a share of one core."""
        time.sleep(PAUSE)
        before = machine.busy_seconds(), self.worker.seconds(), time.monotonic()
        self.seconds.append(self.worker.call(do="measure", count=self.count, warm=self.warm)["seconds"])
        elapsed = time.monotonic() - before[2]
        if before[0] is not None:
            elsewhere = (machine.busy_seconds() - before[0]) - (self.worker.seconds() - before[1])
            self.record.setdefault("elsewhere", []).append(round(max(elsewhere, 0) / elapsed, 3))

    def finish(self):
        self.record.update(self.worker.call(do="end"))
        self.record["elsewhere"] = statistics.median(self.record["elsewhere"]) if "elsewhere" in self.record else None
        self.record.update(seconds=self.seconds, **spread(self.seconds))

    def end(self):
        if self.worker is not None:
            self.worker.end()
            self.worker = None


def spread(values):
    """Median and quartiles of a list of numbers."""
    if len(values) < 2:
        return {"median": values[0], "quartiles": [values[0]] * 2}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "quartiles": [low, high]}


class References:
    """Folders of plain nets, made in a place when first asked for."""

    def __init__(self, plan, place):
        self.plan, self.place, self._made = plan, Path(place), {}

    def folder(self, net):
        """The folder of a net; NotMeasured if it cannot be built."""
        if net is None:
            return None
        if net not in self._made:
            folder = self.place / str(len(self._made))
            worker = Worker(machine.environment(self.plan.threads), self.plan.patience)
            try:
                worker.call(do="make", contender="mxnet_contenders:PlainNet",
                            arguments={"experiment": net.experiment.as_json(), "training": net.training,
                                       "onnx": net.onnx, "folder": str(folder)})
                self._made[net] = folder
            except NotMeasured as error:
                self._made[net] = error
            finally:
                worker.end()
        if isinstance(self._made[net], NotMeasured):
            raise self._made[net]
        return self._made[net]


def measure(group, plan, references):
    """Measure a group's variants in turns. Returns its record."""
    log.info("%s", group.name)
    began = time.monotonic()
    turns = [_Turns(variant, group.warm) for variant in group.variants]

    def alive():
        return [turn for turn in turns if turn.worker is not None]

    def start(turn):
        turn.make(plan, references.folder(turn.variant.net))

    try:
        for turn in turns:
            turn.attempt(start, turn)
        if not group.once:
            for turn in alive():
                turn.attempt(turn.calibrate, plan)
            for _, turn in itertools.product(range(plan.repeats), list(turns)):
                if turn.worker is not None:
                    turn.attempt(turn.take)
            for turn in alive():
                turn.attempt(turn.finish)
    finally:
        for turn in turns:
            turn.end()
    record = {
        "unit": group.unit, "date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine.description(),
        "repeats": plan.repeats, "quick": plan.quick, "took_seconds": round(time.monotonic() - began, 1),
        "variants": [{"name": turn.variant.name, **turn.record} for turn in turns],
    }
    _add_ratios(record["variants"])
    return record


def _add_ratios(variants):
    """Each variant's seconds over those of the first in the same round: above 1, the first is faster."""
    base = variants[0].get("seconds")
    for variant in variants:
        if base and variant.get("seconds"):
            ratios = [other / own for other, own in zip(variant["seconds"], base)]
            variant["ratio"] = spread(ratios)


# ---- Records

ADVICE = "give another file with --out"


def read_records(path):
    """{"groups": {name: record}} of a file, empty if there is no file; InputError for another kind of file."""
    return json_files.read(path, {"groups": OBJECT}, ADVICE) if os.path.exists(path) else {"groups": {}}


def write_records(path, records):
    """Write a file of records, whole or not at all."""
    with writing(path, ADVICE):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(records, indent=1) + "\n", ADVICE)


def run(groups, plan, out=None):
    """Measure groups one after the other. Merges each record into the file `out`, then yields (name, record)."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
        references = References(plan, place)
        for group in groups:
            record = measure(group, plan, references)
            if out is not None:  # so that finished groups stay if a later one is interrupted
                stored = read_records(out)
                stored["groups"][group.name] = record
                write_records(out, stored)
            yield group.name, record


def as_text(record):
    """A record as lines for a terminal."""
    lines = []
    for variant in record["variants"]:
        if "not_measured" in variant:
            lines.append(f"  {variant['name']:<44} not measured: {variant['not_measured']}")
        elif "median" in variant:
            low, high = variant["quartiles"]
            ratio = f"{variant['ratio']['median']:8.2f}x" if "ratio" in variant else ""
            lines.append(f"  {variant['name']:<44} {1000 * variant['median']:10.2f} ms ({1000 * low:.2f} to "
                         f"{1000 * high:.2f}){ratio}")
        else:
            lines.append(f"  {variant['name']:<44} recorded")
    return "\n".join(lines)


