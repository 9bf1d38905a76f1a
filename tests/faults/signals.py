"""Signals at random instants, once and twice, terminals and readers that go away, and preemption while a net is scored.

As in tests.faults.killed, one training is ended and gone on with until it has ended by itself, and is then held to the
run that nobody disturbed.
"""
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

from . import ROOT, small_runs, starter
from .suite import FAULT, Case, Round, Theme

ONCE, TWICE, TERMINAL, UNREAD, END, BEGINNING = (
    "SIGTERM, SIGINT or SIGHUP, once", "the same, twice", "a terminal that is closed",
    "an output that nobody reads any more", "a training, stopped again and again, at its end",
    "Ctrl-C while the command starts")
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE = 20.0  # seconds for a training that was told to stop
LEAVE = 3.0  # seconds in which the second signal has to end a process, on a machine that is busy
SENTENCE = re.compile(r"stopped by (SIG[A-Z]+) (before epoch \d+|in epoch \d+ after step \d+ of \d+); everything is "
                      r"saved in run/last\.params: to resume, give the same command with --resume run")
KINDS = (ONCE, ONCE, ONCE, TWICE, TERMINAL, UNREAD)


class Training:
    """One training after the other, each stopped until it has ended; `test`: images that it scores after an epoch."""

    def __init__(self, name, folder, seed, epochs, test, seconds):
        self.name, self.seed, self.chain = name, seed, 0
        self.setting = small_runs.Setting(folder / name, epochs, test)
        self.place = folder / name / "stopped"
        self.seconds = seconds
        self.begin()

    def begin(self):
        self.chain += 1
        interval = random.Random(f"{self.seed}/{self.name}/{self.chain}").choice((0, 0, 3))
        self.more, self.stops, self.before = ("--save-interval", str(interval)), 0, None
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)

    def round(self, number, kind):
        rng = random.Random(f"{self.seed}/{self.name}/{number}")
        sent, wait, pause = rng.choice(NUMBERS), rng.uniform(.1, .9) * self.seconds, rng.choice((0, .001, .02, .1))
        said = f"{self.name}, round {number} (chain {self.chain}, {sent.name} after {wait:.2f} s)"
        output, hold = self.place / f"output-{number}", None
        began = time.monotonic()
        if kind == TERMINAL:
            hold = Reader(*os.openpty())
            child = self.start(tty=os.ttyname(hold.other))
            sent = signal.SIGHUP
        elif kind == UNREAD:
            os.mkfifo(output)
            hold = Reader(os.open(output, os.O_RDONLY | os.O_NONBLOCK))
            child = self.start(output=output)
        else:
            child = self.start(output=output)
        while not child.ended() and time.monotonic() < began + wait:
            time.sleep(.002)
        late = None
        if hold is not None:
            hold.close()
        elif kind is not None:
            child.signal(sent)
            if kind == TWICE:
                time.sleep(pause)
                child.signal(rng.choice((sent, signal.SIGTERM)))
                late = time.monotonic() + LEAVE
                child.wait(4 * LEAVE)
                late = time.monotonic() > late
        status = child.wait()
        if status == 0 and not self.stops:
            self.seconds = min(self.seconds, time.monotonic() - began)
        text = hold.text if hold is not None else output.read_text(errors="replace") if output.exists() else ""
        return self.judged(kind or ONCE, status, sent, text, late, said)

    def start(self, **how):
        return starter.shared().start("train_cifar:main", *self.setting.command(*self.more), folder=self.place, **how)

    def judged(self, kind, status, sent, text, late, said):
        wrong = small_runs.wrong_in(self.place / "run", self.before)
        last, under_way = small_runs.last_line(text), "[Epoch " in text
        if "Traceback" in text or "Exception ignored" in text:
            wrong = f"a traceback: {last}"
        elif late:
            wrong = f"it had not ended {LEAVE:g} s after the second signal"
        elif status is None:
            wrong = "it does not end"
        elif status == 0:
            return self.ended(kind, said, wrong)
        elif kind == UNREAD:
            wrong = f"it ended with {status}: {last}"
        elif kind == TERMINAL:
            outcome = "saved and left" if status == 128 + sent else "ended before it trained"
            if status not in (128 + sent, -sent) or (status == -sent and self.trained_on(text)):
                wrong = f"it ended with {status} and did not save"
        elif kind == TWICE:
            outcome = "left at once" if status < 0 else "had saved and left already"
            if status not in [value for number in NUMBERS for value in (-number, 128 + number)]:
                wrong = f"it ended with {status}: {last}"
        elif status == 128 + sent and SENTENCE.fullmatch(last):
            found = SENTENCE.fullmatch(last)
            outcome = f"saved and left {'before' if found[2].startswith('before') else 'in'} an epoch"
            if found[1] != sent.name:
                wrong = f"{last!r} after {sent.name}"
            position = small_runs.position(self.place / "run")
            if position is None or str(position[0]) != found[2].split()[2]:
                wrong = f"it says {found[2]}, but the checkpoint is at {position}"
        elif status in (-sent, 128 + sent) and not (under_way and self.trained_on(text)):
            outcome = "ended before it trained"
        else:
            wrong = f"it ended with {status}: {last}"
        if wrong:
            self.begin()
            return Round(kind, FAULT, f"{said}: {wrong}")
        self.stops += 1
        self.before = small_runs.position(self.place / "run")
        return Round(kind, outcome, said)

    def trained_on(self, text):
        """Whether the process had scored an epoch that was not the last: then it was to save when it was told."""
        done = [int(number) for number in re.findall(r"^\[Epoch (\d+)\] train=", text, re.MULTILINE)]
        return bool(done) and done[-1] < self.setting.epochs - 1

    def ended(self, kind, said, wrong):
        wrong = wrong or small_runs.difference(self.place / "run", self.setting.expected)
        stops = self.stops
        self.begin()
        if wrong:
            return Round(END, FAULT, f"{said}: after {stops} stops the run came to something else: {wrong}")
        if not stops or kind == UNREAD:
            return Round(kind, "went on to the end, the same to the bit", said)
        return Round(END, "the same to the bit", f"{said}: {stops} stops")


class Reader:
    """Reads a terminal's or pipe's end until it is closed; `text`: what came."""

    def __init__(self, descriptor, other=None):
        self.descriptor, self.other, self.text, self.closing = descriptor, other, "", threading.Event()
        os.set_blocking(descriptor, False)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        while not self.closing.wait(.005):
            try:
                self.text += os.read(self.descriptor, 1 << 16).decode(errors="replace").replace("\r\n", "\n")
            except BlockingIOError:
                continue
            except OSError:
                break

    def close(self):
        self.closing.set()
        self.thread.join()
        os.close(self.descriptor)
        if self.other is not None:
            os.close(self.other)


def beginning(number, seed, setting):
    """Ctrl-C to the command itself, as users start it, most often before it trains."""
    rng = random.Random(f"{seed}/beginning/{number}")
    wait, place = rng.uniform(.1, 3), setting.folder / "beginning"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with open(place / "output", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train_cifar.py"), *setting.flags, "--num-epochs", "1000"], cwd=place,
            env=small_runs.THREADS, stdout=output, stderr=output,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background job ignores it
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
    text = (place / "output").read_text(errors="replace")
    said = f"round {number}, after {wait:.2f} s"
    if status == -signal.SIGINT and "Traceback" in text and "in run_script" not in text:
        return Round(BEGINNING, "ended while Python loaded the script", said)
    if status not in (130, -signal.SIGINT) or "Traceback" in text or "Exception ignored" in text:
        return Round(BEGINNING, FAULT, f"{said}: status {status}, {text[-300:]!r}")
    return Round(BEGINNING, "saved and left" if "everything is saved" in text else "ended before it trained", said)


def run(rounds, seed, folder, epochs=5, test=1500, seconds=4.0):
    """seconds: of a whole training, at first; the instants lie within what it has turned out to take."""
    short = Training("training", folder, seed, epochs, 40, seconds)
    scored = Training("scoring", folder, seed, epochs, test, seconds)
    for number in range(rounds):
        if number % 10 == 9:
            yield beginning(number, seed, short.setting)
            continue
        kind = KINDS[number // 2 % len(KINDS)]
        training = scored if number % 2 else short
        result = training.round(number, kind)
        yield result
    for training in (short, scored):
        for number in range(epochs):
            if training.stops:
                yield training.round(f"last-{number}", None)


THEME = Theme("signals", "Signals, terminals and preemption", 300, (
    Case(ONCE, "the current step or scoring ends, everything is saved, and a sentence says how to resume; the exit "
         "status is 128 plus the signal's number", "that a start is saved before it trains: it just ends"),
    Case(TWICE, f"the second one ends the process at once (here: within {LEAVE:g} s); what was saved before is whole"),
    Case(TERMINAL, "the kernel's SIGHUP counts as one signal: everything is saved, the exit status is 129"),
    Case(UNREAD, "the training continues; train.log has the output"),
    Case(END, "the same bits as an undisturbed run; an interrupted scoring is in the metrics once"),
    Case(BEGINNING, "it ends without a traceback", "Python's own output before it has loaded the script, some tenths "
         "of a second"),
), run)
