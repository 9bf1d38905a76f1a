"""The runs of a grid under way, one line each. Reads their small files and takes no lock, so that no run notices."""
import shutil
import statistics
import sys
import time
from pathlib import Path

from engine import runlog
from engine.folders import LOCK, METRICS
from support import json_files, lock
from support.errors import InputError
from support.json_files import SOME
from support.words import counted, duration

PERIOD = 3.0  # seconds between two looks
RECENT = 5  # epochs whose median time foretells the rest
ORDER = ("running", "paused", "stopped", "finished", "damaged")
HEAD = ("state", "epoch", "accuracy", "best", "images/s", "left", "run")


def row_of(folder):
    """The line of a run, texts as HEAD names them; the accuracies are on the images scored after each epoch."""
    try:
        records = runlog.read_metrics(folder / METRICS) if (folder / METRICS).exists() else []
        epochs = _epochs(folder / "args.json")
    except InputError:
        return ("damaged", "0/?", *"----", folder.name)
    done = records[-1]["epoch"] + 1 if records else 0
    owner = lock.holder(folder / LOCK)
    state = "finished" if done and done == epochs else "stopped" if owner is None else \
        "paused" if _paused(owner) else "running"
    accuracy = best = speed = left = "-"
    if records:
        accuracy, best = (f"{record['val_accuracy']:.4f}" for record in (
            records[-1], max(records, key=lambda record: record["val_accuracy"])))
        speed = f"{records[-1]['train_images_per_second']:,.0f}"
        if epochs and state != "finished":
            left = duration((epochs - done) * statistics.median_high(record["seconds"] for record in records[-RECENT:]))
    return state, f"{done}/{epochs or '?'}", accuracy, best, speed, left, folder.name


def _epochs(path):
    """The epochs of a run by its args.json, of any version; None if there is none yet."""
    if not path.exists():
        return None
    recipe = {"recipe": {"epochs": SOME}}
    settings = json_files.read(path, ({"experiment": recipe}, recipe), "restore it")
    return settings.get("experiment", settings)["recipe"]["epochs"]  # the first versions had no Experiment


def _paused(process):
    """Whether a process is stopped by SIGSTOP or Ctrl-Z; False where the system does not say."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def lines_of(folder):
    """The table of all runs in a folder, those under way first, and their sums. Raises InputError for no folder."""
    try:
        places = [place for place in folder.iterdir() if (place / "args.json").exists() or (place / METRICS).exists()]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; name the folder of the runs with --runs") \
            from error
    runs = sorted(map(row_of, places), key=lambda row: (ORDER.index(row[0]), row[-1]))
    widths = [max(map(len, column)) for column in zip(HEAD, *runs)]
    lines = ["  ".join([row[0].ljust(widths[0]), *(word.rjust(width) for word, width in zip(row[1:-1], widths[1:])),
                        row[-1]]) for row in (HEAD, *runs)]
    states = [row[0] for row in runs]
    counts = [f"{states.count(state)} {state}" for state in ORDER if state in states]
    if not runs:
        return [f"no run in {folder} yet"]
    return [*lines, f"{counted(len(runs), 'run')} in {folder}: {', '.join(counts)}"]


def watch(folder, once=False):
    """Print the table: again every PERIOD seconds on a terminal, until Ctrl-C; else, or with `once`, one time."""
    if once or not sys.stdout.isatty():
        print("\n".join(lines_of(folder)))
        return
    while True:
        columns, rows = shutil.get_terminal_size()
        lines = lines_of(folder)
        if len(lines) > rows - 1:
            lines = [*lines[:rows - 3], f"... {len(lines) - rows + 2} more", lines[-1]]
        # From the top left corner, over what is there.
        sys.stdout.write("\x1b[H\x1b[J" + "".join(f"{line[:columns]}\n" for line in lines))
        sys.stdout.flush()
        time.sleep(PERIOD)
