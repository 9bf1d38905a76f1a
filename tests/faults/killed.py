"""SIGKILL at random instants: of trainings that save every few steps, of what fills the ledger, of downloads.

One training is killed, gone on with and killed again until it ends. Half of the instants are random; the other half are
random within a save, which the temporary file in the run's folder gives away.
"""
import hashlib
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

from . import small_runs, starter
from .suite import FAULT, Case, Round, Theme

import http_files  # isort: skip - found by this package
from engine.data import download  # isort: skip
from reproduce import ledger  # isort: skip
from support.errors import InputError  # isort: skip

TRAINING, END, LEDGER, DOWNLOAD = ("a training, killed", "a training, killed again and again, at its end",
                                   "the ledger, killed while runs are added", "a download, killed")
SAVE = .02  # seconds within which a kill that aims at a save comes
RUNS = 12  # that go into a ledger
CONTENT = 6_000_000  # bytes of a download
TRANSFER = .06  # seconds from the request within which it is killed; a whole one takes about half of them


class Training:
    """One training after the other, each killed until it has ended."""

    def __init__(self, folder, seed, epochs=4):
        self.folder, self.seed, self.epochs, self.chain = folder, seed, epochs, 0
        self.settings, self.seconds = {}, 3.0
        self.begin()

    def begin(self):
        rng = random.Random(f"{self.seed}/killed/chain/{self.chain}")
        held, interval, period = rng.choice((0, 16)), rng.choice((0, 1, 1, 2, 3)), rng.choice((0, 0, 2))
        flags = ("--val-split", str(held)) if held else ()
        if held not in self.settings:
            self.settings[held] = small_runs.Setting(self.folder / f"held-{held}", self.epochs, flags=flags)
        self.setting, self.kills, self.before = self.settings[held], 0, None
        self.more = ("--save-interval", str(interval), "--save-period", str(period))
        self.place = self.folder / "killed"
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.output = self.place / "output"

    def round(self, number, kill=True):
        """Go on, until a kill or the end; the Round."""
        rng = random.Random(f"{self.seed}/killed/{number}")
        folder, aimed = self.place / "run", rng.random() < .5
        wait = rng.uniform(0, self.seconds)
        said = f"round {number} (chain {self.chain}, {' '.join(self.more)}, after {wait:.2f} s" + \
            (", aimed)" if aimed else ")")
        old = set(small_runs.parts_in(folder))
        began = time.monotonic()
        child = starter.shared().start("train_cifar:main", *self.setting.command(*self.more), folder=self.place,
                                       output=self.output)
        if not kill:
            child.wait()
        while not child.ended() and time.monotonic() < began + wait:
            time.sleep(.002)
        if aimed:
            while not child.ended() and not set(small_runs.parts_in(folder)) - old:
                time.sleep(.001)
            time.sleep(rng.uniform(0, SAVE))
        child.kill()
        if child.status == 0:
            return self.ended(said, began)
        if child.status != -9:
            text = small_runs.last_line(self.output.read_text())
            self.next_chain()
            return Round(TRAINING, FAULT, f"{said}: it ended with {child.status}: {text}")
        self.kills += 1
        wrong = small_runs.wrong_in(folder, self.before)
        if wrong:
            self.next_chain()
            return Round(TRAINING, FAULT, f"{said}: {wrong}")
        self.before = small_runs.position(folder)
        outcome = "within a save" if set(small_runs.parts_in(folder)) - old else \
            "before a checkpoint" if self.before is None else "elsewhere"
        return Round(TRAINING, outcome, said)

    def ended(self, said, began):
        if not self.kills:
            self.seconds = min(self.seconds, time.monotonic() - began)
        wrong = small_runs.wrong_in(self.place / "run", self.before) or \
            small_runs.difference(self.place / "run", self.setting.expected)
        kills = self.kills
        self.next_chain()
        if wrong:
            return Round(END, FAULT, f"{said}: after {kills} kills the run came to something else: {wrong}")
        return Round(END, "the same to the bit", f"{said}: {kills} kills")

    def next_chain(self):
        self.chain += 1
        self.begin()


class Ledger:
    """A ledger that runs are added to, killed until all are in."""

    def __init__(self, folder, seed, run):
        self.folder, self.seed = folder / "ledger", seed
        for number in range(RUNS):
            copy_of_run(run, self.folder / f"run-{number}", number)
        self.seconds, self.expected = 1.0, None
        began = time.monotonic()
        self.results = self.folder / "whole"
        self.add().wait()
        self.seconds, self.expected = time.monotonic() - began, files_in(self.results)
        self.results = self.folder / "results"

    def add(self):
        return starter.shared().start(f"{__package__}.killed:add_all", [str(self.folder / f"run-{number}")
                                                                       for number in range(RUNS)],
                                      str(self.results), output=self.folder / "output")

    def round(self, number):
        rng = random.Random(f"{self.seed}/ledger/{number}")
        said = f"round {number}"
        child = self.add()
        time.sleep(rng.uniform(0, self.seconds))
        child.kill()
        try:
            records = ledger.read(self.results)
        except InputError as error:
            return self.fault(f"{said}: {error}")
        for record in records:
            place = ledger.folder_of(record.id, self.results)
            for name in ledger.EVIDENCE:
                if ledger.sha256(place / name) != record.files[name]:
                    return self.fault(f"{said}: {place / name} is not what the record says")
            if len(list(place.glob("*.part"))) > 1:
                return self.fault(f"{said}: {len(list(place.glob('*.part')))} temporary files in {place}")
        if child.status == -9:
            return Round(LEDGER, "killed, sound", f"{said}: {len(records)} records")
        if child.status != 0:
            return self.fault(f"{said}: it ended with {child.status}: "
                              f"{small_runs.last_line((self.folder / 'output').read_text())}")
        found = files_in(self.results)
        shutil.rmtree(self.results)
        if found != self.expected:
            odd = sorted(name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name))
            return Round(LEDGER, FAULT, f"{said}: another ledger in the end: {odd[:3]}")
        return Round(LEDGER, "all in, the same to the byte", said)

    def fault(self, text):
        shutil.rmtree(self.results, ignore_errors=True)
        return Round(LEDGER, FAULT, text)


class Download:
    """A download, killed until the file is there."""

    def __init__(self, folder, seed):
        self.folder, self.seed = folder / "download", seed
        self.folder.mkdir(parents=True)
        self.content = random.Random(f"{seed}/content").getrandbits(8 * CONTENT).to_bytes(CONTENT, "little")
        self.digest = hashlib.sha256(self.content).hexdigest()
        self.path = self.folder / "file"

    def round(self, number):
        rng = random.Random(f"{self.seed}/download/{number}")
        said = f"round {number}"
        with http_files.serve(self.content) as site:
            child = starter.shared().start(f"{__package__}.killed:fetch", site.url, str(self.path), self.digest,
                                           output=self.folder / "output")
            while not child.ended() and not site.requests:
                time.sleep(.001)
            time.sleep(rng.uniform(0, TRANSFER))
            child.kill()
        names = {path.name for path in self.folder.iterdir()} - {"output"}
        strangers = names - {"file", "file.part", "file.lock", "file.part.lock"}
        wrong = strangers and f"strange files: {', '.join(sorted(strangers))}"
        if "file" in names and self.path.read_bytes() != self.content:
            wrong = "other bytes are in place"
        if "file.part" in names:
            part = (self.folder / "file.part").read_bytes()
            if part != self.content[:len(part)]:
                wrong = "the part is not the beginning of the file"
        if child.status not in (0, -9) or (child.status == 0 and "file" not in names):
            wrong = f"it ended with {child.status}: {small_runs.last_line((self.folder / 'output').read_text())}"
        outcome = "killed before it began" if not names else "killed, a part is left"
        if "file" in names:
            outcome = "fetched, the right bytes"
            if child.status == 0 and "file.part" in names:
                wrong = "the part is left beside the file"
        if wrong or "file" in names:
            for name in names:
                (self.folder / name).unlink()
        return Round(DOWNLOAD, FAULT, f"{said}: {wrong}") if wrong else Round(DOWNLOAD, outcome, said)


def copy_of_run(run, place, seed):
    """The folder of a finished run with another seed in its name; `run` is one of CIFAR-10."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path in run.iterdir():
        if path.is_file():
            shutil.copyfile(path, place / path.name)
    result = json.loads((run / "result.json").read_text())
    result["experiment"]["seed"] = seed
    (place / "result.json").write_text(json.dumps(result))


def add_all(folders, results):
    """In a process of its own: put finished runs into a ledger."""
    try:
        for folder in folders:
            ledger.add(Path(folder), Path(results))
    except InputError as error:
        sys.exit(f"add: {error}")


def fetch(url, path, digest):
    """In a process of its own: a download."""
    os.environ["no_proxy"] = "127.0.0.1"
    try:
        download.fetch(url, path, sha256=digest, progress=False, pause=.01)
    except InputError as error:
        sys.exit(f"fetch: {error}")


def files_in(folder):
    """{path: content} of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(rounds, seed, folder, epochs=4):
    training = Training(folder, seed, epochs)
    yield training.round("whole", kill=False)  # how long one takes; and a fork comes to what a process comes to
    run_folder = next(iter(training.settings.values())).folder / "undisturbed" / "run"
    fillers = [Ledger(folder, seed, run_folder), Download(folder, seed)]
    for number in range(rounds):
        kind = number % 3
        if kind:
            yield fillers[kind - 1].round(number)
            continue
        result = training.round(number)
        while result.case == END:  # no kill came of it
            yield result
            result = training.round(f"{number}, again")
        yield result
    while training.kills:
        yield training.round("last", kill=False)


THEME = Theme("killed", "Killed (SIGKILL)", 600, (
    Case(TRAINING, "the folder always holds one newest checkpoint that loads, never an older one than before, and at "
         "most one temporary file for each file, which the next save removes", "the steps since the newest checkpoint "
         "(`--save-interval`), which are trained again"),
    Case(END, "the same command with `--resume` gives the weights, optimizer, metrics and result of an undisturbed "
         "run, to the bit", "the seconds and speeds in the metrics"),
    Case(LEDGER, "every record is whole and has its evidence; adding the runs again makes the same ledger"),
    Case(DOWNLOAD, "no file is in place before it is whole and right; the part is continued"),
), run)
