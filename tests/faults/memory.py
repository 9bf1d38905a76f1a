"""Long trainings and many evaluations in one process: what they hold at the end, beside what they held when warm.

And trainings that may not have the memory that they need (a limit on their address space).

    python -m tests.faults.memory FUNCTION FOLDER ANSWER LENGTH      (a process of its own, and no fork: a fork's memory
                                                                      grows with every page it touches)
"""
import contextlib
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

from . import small_runs
from .suite import FAULT, ROOT, Case, Round, Theme

import tiny  # isort: skip - found by this package
from engine import run  # isort: skip
from engine.data import in_memory

from support.errors import InputError  # isort: skip

TRAINED, SCORED, RESTARTED, REFUSED = ("a long training", "many evaluations",
                                       "runs that break off, are stopped and go on", "memory that is refused")
KINDS = ((TRAINED, "training"), (SCORED, "evaluations"), (RESTARTED, "restarts"), (REFUSED, None))
LIMITS = (700, 1350)  # MiB, from where MXNet is hardly imported to where a training has all it wants
PATIENCE = 300  # seconds for a training that takes three, on a machine that is busy
BOUND = .02  # growth of the resident memory
WARM = .2  # share of the work after which it is measured first
WORKERS = 2  # threads that make batches


def held():
    """What this process holds: bytes of resident memory, open files, threads (the system's count) and children."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return {"resident": int(status["VmRSS"].split()[0]) << 10, "files": len(os.listdir("/proc/self/fd")),
            "threads": int(status["Threads"]), "children": children.read_text().split() if children.exists() else [],
            "own threads": sorted(thread.name for thread in threading.enumerate())}


class Watched:
    """Training batches; `call(step)` after so many steps of all epochs."""

    def __init__(self, batches, call):
        self.batches, self.call, self.steps, self.done = batches, call, batches.steps, 0

    def epoch(self, index, start=0, workers=0):
        for batch in self.batches.epoch(index, start, workers):
            yield batch
            self.done += 1
            self.call(self.done)


def training(folder, answer, steps):
    """In a process of its own: a training of `steps` steps."""
    seen = {}
    batches = in_memory.TrainBatches(tiny.split(320), 16, 0)  # 20 steps an epoch
    epochs = steps // batches.steps

    def call(done):
        if done == int(WARM * steps):
            seen["warm"] = held()

    run.train(tiny.job(Path(folder) / "before", batches=batches, epochs=2, workers=WORKERS))
    before = held()
    job = tiny.job(Path(folder) / "run", batches=Watched(batches, call), epochs=epochs, workers=WORKERS, lr=1e-3,
                   save_interval=7)
    run.train(job)
    Path(answer).write_text(json.dumps({"before": before, **seen, "end": held()}))


def evaluations(folder, answer, rounds):
    """In a process of its own: `rounds` evaluations."""
    seen = {}
    net, batches = tiny.ready(tiny.net()), in_memory.EvalBatches(tiny.split(600, 9), 50)
    tiny.score(net, batches, 10)
    before = held()
    for number in range(rounds):
        tiny.score(net, batches, 10)
        if number + 1 == int(WARM * rounds):
            seen["warm"] = held()
    Path(answer).write_text(json.dumps({"before": before, **seen, "end": held()}))


def restarts(folder, answer, rounds):
    """In a process of its own: a run that is stopped and gone on with, or that its data ends, again and again."""
    folder, seen = Path(folder), {}
    for number in range(rounds):
        place = folder / str(number // 5)  # five goes at each run: four stops, and then it ends or breaks
        resume = place / run.LAST if number % 5 else None

        def broken():
            raise InputError("the disk is gone")

        call = broken if number % 10 == 9 else lambda: os.kill(os.getpid(), signal.SIGTERM)
        job = tiny.job(place, epochs=5, workers=WORKERS,
                       batches=tiny.Hooked(in_memory.TrainBatches(tiny.split(128), 16, 0), number % 5, 4, call))
        with contextlib.suppress(run.Stopped, InputError):
            run.train(job, resume)
        if number == 4:
            seen["before"] = held()
        if number + 1 == max(5, int(WARM * rounds)):
            seen["warm"] = held()
    Path(answer).write_text(json.dumps({**seen, "end": held()}))


def judged(case, done, answer, said, bound):
    if done.returncode != 0:
        return Round(case, FAULT, f"{said}: it ended with {done.returncode}: {small_runs.last_line(done.stderr)}")
    seen = json.loads(answer.read_text())
    before, end = seen["before"], seen["end"]
    growth = end["resident"] / seen["warm"]["resident"] - 1
    said += f": {seen['warm']['resident'] / 2**20:.1f} MiB when warm, {100 * growth:+.2f}% at the end"
    odd = [f"{before[name]} {name} before, {end[name]} at the end"
           for name in ("files", "threads", "children", "own threads") if end[name] != before[name]]
    if growth > bound or odd:
        return Round(case, FAULT, "; ".join([said, *odd]))
    return Round(case, f"within {100 * bound:g}%", said)


def refused(number, seed, place):
    """A training whose process may have so many bytes and no more: it trains, says a sentence, or a library aborts."""
    limit = random.Random(f"{seed}/refused/{number}").randrange(*LIMITS)
    setting, said = small_runs.Setting(place, 2), f"round {number}, {limit:,} MiB"
    with open(place / "output", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train_cifar.py"), *setting.command()], cwd=place, env=small_runs.THREADS,
            stdout=output, stderr=output,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit << 20, limit << 20)))
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return Round(REFUSED, FAULT, f"{said}: it does not end")
    last = small_runs.last_line((place / "output").read_text(errors="replace"))
    wrong = small_runs.wrong_in(place / "run")
    if wrong is None and status == 1 and not last.startswith("train_cifar.py: there is not enough memory ("):
        wrong = last
    if wrong is not None:
        return Round(REFUSED, FAULT, f"{said}: {status}, {wrong}")
    return Round(REFUSED, {0: "trained", 1: "a sentence"}.get(status, "a library ended the process"), said)


def run_all(rounds, seed, folder, steps=2000, evaluated=100, restarted=60, bound=BOUND):
    lengths = {TRAINED: steps, SCORED: evaluated, RESTARTED: restarted}
    for number in range(rounds):
        case, function = KINDS[number % len(KINDS)]
        place = folder / str(number)
        place.mkdir()
        if case == REFUSED:
            yield refused(number, seed, place)
            continue
        length = lengths[case]
        done = subprocess.run(
            [sys.executable, "-m", f"{__package__}.memory", function, place, place / "answer", str(length)],
            cwd=ROOT if "." in __package__ else ROOT / "tests", capture_output=True, text=True,
            env={**small_runs.THREADS, "PYTHONPATH": str(ROOT)})
        yield judged(case, done, place / "answer", f"round {number}, {length:,}", bound)


THEME = Theme("memory", "Memory, files and threads", 20, (
    Case(TRAINED, f"in 2,000 steps with a checkpoint every 7, memory grows by less than {100 * BOUND:g}% after the "
         "first fifth; the numbers of open files, threads and child processes do not grow"),
    Case(SCORED, "the same in 100 rounds"),
    Case(RESTARTED, "the same in 60 starts in one process, stopped by signals or by errors in their data"),
    Case(REFUSED, "if Python notices it, the run ends with a sentence and exit status 1; it never hangs; the newest "
         "checkpoint stays", "that the process survives if OpenMP, oneDNN or MXNet's own threads get no memory "
         "(SIGABRT, SIGSEGV)"),
), run_all)

if __name__ == "__main__":
    {"training": training, "evaluations": evaluations, "restarts": restarts}[sys.argv[1]](
        *sys.argv[2:4], int(sys.argv[4]))
