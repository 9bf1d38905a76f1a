"""Small trainings for themes that end them early: their data, what they must come to, what they may leave behind."""
import functools
import json
import os
import re
import shutil
import subprocess
import sys

from . import ROOT

import tiny  # isort: skip - found by this package
from engine import checkpoint, folders, run  # isort: skip
from support.errors import InputError  # isort: skip

PART = re.compile(r"\.\d+\.part$")
FILES = {"args.json", "best.params", "history.png", "last.params", "metrics.jsonl", "result.json", "train.log", ".lock"}
# Of result.json: not of the run alone.
CLOCK = ("seconds", "train_images_per_second", "environment", "command", "resumed")
THREADS = {**os.environ, "OMP_NUM_THREADS": "1"}


class Setting:
    """One training, told apart by its flags; `expected` is what a process that nobody disturbs makes of it."""

    def __init__(self, folder, epochs, test=40, flags=()):
        self.folder, self.epochs = folder, epochs
        data = folder / "data"
        if not data.exists():
            tiny.cifar10(data, 64, test)
        self.flags = ["--gpus", "", *tiny.TINY_NET, "--num-epochs", str(epochs), "--batch-size", "8", "--no-tune",
                      "--lr-decay-epoch", str(max(1, epochs // 2)), "--data-dir", str(data), *flags]

    def command(self, *more):
        """The flags of a start, the first as well as every later one."""
        return [*self.flags, "--save-dir", "run", "--resume", *more]

    @functools.cached_property
    def expected(self):
        """What the run comes to: made once, by a process that is started as users start it."""
        place = self.folder / "undisturbed"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        done = subprocess.run([sys.executable, str(ROOT / "train_cifar.py"), *self.command()], cwd=place, env=THREADS,
                              capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return outcome_of(place / "run")


def outcome_of(folder):
    """All of a finished run that is promised to the bit, by file."""
    result = json.loads((folder / "result.json").read_text())
    return {"last.params": tiny.state_of(folder / "last.params"), "best.params": tiny.state_of(folder / "best.params"),
            "metrics.jsonl": tiny.metrics_of(folder),
            "result.json": {name: value for name, value in result.items() if name not in CLOCK}}


def difference(folder, expected):
    """The first file of a finished run that is not as expected, or None."""
    try:
        found = outcome_of(folder)
    except (OSError, InputError) as error:
        return f"{error}"
    return next((name for name in expected if found[name] != expected[name]), None)


def position(folder):
    """(epoch, step) of the checkpoint that --resume would go on from; None where there is none. InputError: damaged."""
    if not (folder / run.LAST).exists():
        return None
    path = folders.checkpoint_to_resume(folder)
    state = checkpoint.read(path).state
    return state["epoch"], state["step"]


def wrong_in(folder, before=None):
    """What is wrong with the folder of a run that was ended somehow, or None. before: its position at the last look."""
    if not folder.exists():
        return None if before is None else "the folder is gone"
    names = os.listdir(folder)
    parts = [PART.sub("", name) for name in names if PART.search(name)]
    strangers = [name for name in (*names, *parts) if not PART.search(name) and name not in FILES
                 and not re.fullmatch(r"epoch-\d{4}\.params", name)]
    if strangers:
        return f"strange files: {', '.join(strangers)}"
    if len(parts) > len(set(parts)):
        return f"{len(parts)} temporary files of {', '.join(sorted(set(parts)))} are left"
    try:
        now = position(folder)
        for name in names:
            if name.endswith(".params"):
                checkpoint.read(folder / name)
    except InputError as error:
        return str(error)
    if before is not None and (now is None or now < before):
        return f"the newest checkpoint went back from {before} to {now}"
    return None


def parts_in(folder):
    return [name for name in os.listdir(folder) if PART.search(name)] if folder.exists() else []


def last_line(text):
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
