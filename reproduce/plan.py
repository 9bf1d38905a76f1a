"""What an exhibit has to train, and how long that would take by the ledger's runs."""
import dataclasses
import functools
import statistics
from pathlib import Path
from typing import Optional, Tuple

from backend import networks
from engine import checkpoint, runlog
from engine.data import cifar
from model.complexity import count
from support import system
from support.errors import InputError
from support.threads import usable_cores
from support.words import counted, duration

from . import grid, ledger


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run. gpus: their numbers, none for the CPU; jobs: trainings at a time; data_dir, mirror: as in
    train_cifar.py; workers: data threads per training; results: the ledger; work: the folder of the runs' folders."""

    gpus: Tuple[int, ...] = ()
    jobs: int = 1
    data_dir: Optional[str] = None
    mirror: Optional[str] = None
    workers: int = 0
    results: Path = ledger.RESULTS
    work: Path = grid.WORK


OFFICIAL = {"train_images": grid.WHOLE, "test_images": 10_000}  # for estimates if there is no data


def default_jobs(gpus, runs):
    """Runs at a time: one on each GPU; on the CPU one on each core, which together are faster than one on all cores
    (docs/PERFORMANCE.md), if there are so many."""
    return len(gpus) or max(1, min(usable_cores(), len(runs)))


def find_data(runs, options, download=True):
    """({data name: the facts about the data}, {reason: the data names without data}) of the runs' data.

    The facts are the Origin's provenance. With download, what is missing is fetched.
    """
    load, mirror = (cifar.load_or_download, [options.mirror]) if download else (cifar.load, [])
    found, missing = {}, {}
    for name, run in {run.data_name: run for run in runs}.items():
        try:
            found[name] = load(run.dataset, options.data_dir, run.label_mode, *mirror).provenance
        except InputError as error:
            missing.setdefault(str(error), []).append(name)
    return found, missing


def finished(run, data, results):
    """Whether the ledger has the run."""
    return (ledger.folder_of(grid.name(run, data["sha256"]), results) / ledger.RECORD).exists()


def progress_of(folder):
    """The finished epochs of a run's folder by its checkpoint; 0 without one."""
    last = folder / "last.params"
    try:
        return (checkpoint.read(last).state or {"epoch": 0})["epoch"] if last.exists() else 0
    except InputError:  # the training itself will say what is wrong
        return 0


@functools.lru_cache(maxsize=None)
def costs_of(run):
    """The counts of the net of an Experiment: total and trainable parameters, and multiply-adds."""
    return count(networks().get_model(run.model, **run.net))


def records_for_speed(records, on_gpu):
    """(records, their hardware in words): those of runs on this kind of hardware; if there are none, all."""
    here = {"gpus": runlog.gpu_names()} if on_gpu else {"gpus": [], "processor": system.processor()}
    same = [record for record in records
            if all(record.result.environment[name] == value for name, value in here.items())]
    if same:
        return same, "this kind of hardware"
    machines = [record.result.environment for record in records]
    others = sorted({", ".join(machine["gpus"]) or machine["processor"] for machine in machines})
    return records, f"OTHER hardware ({'; '.join(others)})"


def epoch_seconds(records, cell, data):
    """The estimated seconds of a cell's epoch on data with these "train_images" and "test_images".

    From the records' runs of the same net if there are any, else from all, in proportion to the multiply-adds. None
    without any record.
    """
    # An epoch of a smoke run is mostly start-up, so smoke runs only count if there are no others.
    records = [record for record in records if not record.smoke] or records
    net = cell.model, cell.arguments
    same = [record for record in records if (record.experiment.model, record.experiment.arguments) == net]
    rates = [record.result.seconds / record.epochs / _work(record.experiment, record.result.data)
             for record in same or records]
    return statistics.median_high(rates) * _work(cell, data) if rates else None


def _work(net, data):
    """How much a net's epoch computes: its multiply-adds; scoring an image takes a third of training on it."""
    return costs_of(net).macs * (data["train_images"] + data["test_images"] / 3)


def text(runs, options):
    """The text of --dry-run: every run with its state and an estimated time. Trains and downloads nothing."""
    records, hardware = records_for_speed(ledger.read(options.results), bool(options.gpus))
    known, missing = find_data(runs, options, download=False)
    lines, left, total = list(missing), 0, 0.0
    for run in runs:
        data, done, state = known.get(run.data_name), 0, "to run as soon as its data is there"
        if data is not None:
            if finished(run, data, options.results):
                lines.append(f"{grid.title(run)}: finished, in the ledger")
                continue
            done = progress_of(options.work / grid.name(run, data["sha256"]))
            state = f"to resume after {counted(done, 'epoch')}" if done else "to run"
        left += 1
        seconds = epoch_seconds(records, grid.cell_of(run), data or OFFICIAL)
        if seconds is not None:
            total += seconds * (run.recipe.epochs - done)
            state += f", about {duration(seconds * (run.recipe.epochs - done))}"
        lines.append(f"{grid.title(run)}: {state}")
    where = f"GPU {', '.join(map(str, options.gpus))}" if options.gpus else "the CPU"
    lines.append(f"{counted(len(runs), 'run')}: {len(runs) - left} finished, {left} to do, {options.jobs} at a time on "
                 f"{where}")
    if total:
        lines.append(f"about {duration(total / options.jobs)} by the ledger's runs on {hardware}"
                     + (" (if the jobs do not slow each other down)" if options.jobs > 1 else ""))
    elif left:
        lines.append("no estimate: the ledger has no run yet")
    return "\n".join(lines)
