"""Themes of faults, their rounds and the tally of their outcomes."""
import contextlib
import dataclasses
import datetime
import importlib
import json
import time
from pathlib import Path
from typing import Callable, NamedTuple

from engine import runlog
from support import json_files
from support.errors import InputError
from support.files import content

from . import ROOT

RESULTS = ROOT / "results" / "faults"
FAULT = "FAULT"  # the outcome that must not be
MODULES = ("files", "untrusted", "downloads", "training", "command_lines", "killed", "signals", "disk", "at_once",
           "memory", "workers")  # each has a THEME


class Round(NamedTuple):
    """One fault: its case, its outcome in a word or two, and a detail that explains it."""

    case: str
    outcome: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table: a fault, what is promised about it and what is not."""

    name: str
    promised: str
    not_promised: str = ""


@dataclasses.dataclass(frozen=True)
class Theme:
    """Faults of one kind. run(rounds, seed, folder) yields that many Rounds; `rounds`: the number in a full run."""

    name: str
    title: str
    rounds: int
    cases: tuple
    run: Callable


def themes():
    """Every theme by its name, in the order of the report."""
    found = [importlib.import_module(f"{__package__}.{module}").THEME for module in MODULES]
    return {theme.name: theme for theme in found}


def command_of(name, rounds, seed):
    """The command that repeats a theme's rounds."""
    return f"python -m tests.faults --only {name} --rounds {rounds} --seed {seed}"


def tally(theme, rounds, seed, folder, told=lambda round_: None):
    """Run a theme. Returns its record: outcomes and seconds by case, and the faults with their details."""
    cases = {case.name: {"rounds": 0, "outcomes": {}, "seconds": 0.0} for case in theme.cases}
    faults = []
    began = mark = time.perf_counter()
    with contextlib.closing(theme.run(rounds, seed, Path(folder))) as results:
        for result in results:
            now = time.perf_counter()
            case = cases[result.case]
            case["rounds"] += 1
            case["outcomes"][result.outcome] = case["outcomes"].get(result.outcome, 0) + 1
            case["seconds"] += now - mark
            mark = now
            if result.outcome == FAULT:
                faults.append(f"{result.case}: {result.detail}")
            told(result)
    for case in cases.values():
        case["seconds"] = round(case["seconds"], 2)
        case["outcomes"] = dict(sorted(case["outcomes"].items()))
    return {"rounds": sum(case["rounds"] for case in cases.values()), "seed": seed, "asked": rounds,
            "seconds": round(time.perf_counter() - began, 1), "date": datetime.date.today().isoformat(),
            "revision": runlog.git_revision(), "cases": cases, "faults": faults}


def as_text(name, record):
    """A record as lines for a terminal."""
    width = max(map(len, record["cases"]))
    lines = [f"{name}: {record['rounds']:,} rounds in {record['seconds']:.0f} s, {len(record['faults'])} faults"]
    lines += [f"  {case.ljust(width)}  {row['rounds']:6,}  {row['seconds']:7.1f} s  {outcomes_text(row['outcomes'])}"
              for case, row in record["cases"].items()]
    return "\n".join([*lines, *(f"  {FAULT} {fault}" for fault in record["faults"])])


def outcomes_text(outcomes):
    """Outcomes and their counts on one line."""
    return ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items()) or "-"


def read_records(path):
    """{theme: record} of a file, empty if there is none; InputError for another file."""
    try:
        stored = json.loads(content(path))["themes"]
        if not isinstance(stored, dict):
            raise TypeError
        return stored
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} holds no records of faults; give another file with --json") from error


def all_records(folder=RESULTS):
    """{theme: record} of all files in a folder; InputError if two have the same theme."""
    records = {}
    for path in sorted(Path(folder).glob("*.json")):
        for name, record in read_records(path).items():
            if name in records:
                raise InputError(f"{path} and another file in its folder both have the theme {name}; remove one")
            records[name] = record
    return records


def keep(path, records):
    """Merge records into a file."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; give another file with --json") from error
    json_files.write(path, {"themes": {**read_records(path), **records}})
