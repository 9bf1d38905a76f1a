"""The folders of runs under runs/: a new one, the newest one, and the meaning of a user's path."""
import contextlib
import itertools
import logging
import os
from pathlib import Path

from support.errors import InputError
from support.files import expanded

from . import checkpoint, runlog

log = logging.getLogger(__name__)

LAST, BEST, METRICS, HISTORY = "last.params", "best.params", "metrics.jsonl", "history.png"
LOCK = ".lock"  # while the run lasts


def new_directory(wanted, name, resumed=False):
    """A folder for a new run: `wanted`, or runs/`name`, with a number after it if that is taken.

    Raises InputError if `wanted` holds a run already. Nothing is overwritten, except that `resumed` (--resume was
    given) allows the files of a run that ended before its first checkpoint.
    """
    try:
        if wanted is None:
            return _make_numbered(name)
        directory = expanded(wanted)
        # An empty metrics.jsonl comes from a run that was killed before it saved anything.
        taken = [file for file in (LAST, BEST, METRICS)
                 if (directory / file).exists() and (directory / file).stat().st_size]
        if taken and not (resumed and LAST not in taken and _in_first_epoch(directory)):
            advice = "resume it with --resume, or" if LAST in taken else \
                f"its {LAST} is gone: resume another of its checkpoints with --resume FILE, or"
            raise InputError(f"{directory} holds a run already: {advice} give another --save-dir")
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{wanted or 'runs'} cannot be made: {error.strerror}; give another --save-dir") from error
    if not os.access(directory, os.W_OK):
        raise InputError(f"{directory} cannot be written to; give another --save-dir")
    return directory


def _in_first_epoch(directory):
    """Whether the run in a folder without last.params ended within or right after its first epoch."""
    epochs = len(runlog.read_metrics(directory / METRICS)) if (directory / METRICS).exists() else 0
    return epochs == 1 or epochs == 0 and not (directory / BEST).exists()


def _make_numbered(name):
    for directory in _numbered(name):
        with contextlib.suppress(FileExistsError):  # two runs may start at once
            directory.mkdir(parents=True)
            return directory


def _numbered(name):
    yield Path("runs") / name
    yield from (Path("runs") / f"{name}-{number}" for number in itertools.count(2))


def newest_directory(name):
    """The newest of the numbered folders of runs/`name` that has a checkpoint to resume, or None."""
    newest = None
    for path in _numbered(name):
        if not path.exists():
            return newest
        if (path / LAST).exists():
            newest = path


def refuse_rewinding(path, state):
    """Raise InputError if the folder of a checkpoint has a sound last.params that is further on.

    To resume the earlier one would mix two runs: the folder's metrics and best.params belong to the later one.
    """
    last = path.parent / LAST
    if path.name == LAST or not last.exists():
        return
    try:
        newest = checkpoint.read(last).state
    except InputError:  # damaged: the earlier one is all that is left
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
    """The parameter file that a flag means: path itself, or best.params if path is a run's folder (which is logged)."""
    folder = expanded(path)
    if not folder.is_dir():
        return path
    if not (folder / BEST).is_file():
        raise InputError(f"{path} is a folder without {BEST}; name a run's folder or a parameter file")
    log.info("%s is a folder: taking its %s, the weights of the epoch that scored best", path, BEST)
    return str(folder / BEST)
