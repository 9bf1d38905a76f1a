"""The paper's experiments as data: the net, data and recipe of every row of its tables and figures.

A cell is one thing to train. An exhibit (a table or figure) is a list of entries, each with a cell. Cells that several
exhibits share are equal objects with one key, so they are trained once.
"""
import dataclasses
import json
from typing import Any, Optional, Tuple

from engine.experiment import Experiment
from engine.recipe import CIFAR_PAPER, Recipe
from model.registry import CIFAR, IMAGENET, MODELS, complete_arguments
from support import ROOT
from support.errors import InputError
from support.words import counted

WORK = ROOT / "runs" / "grid"  # the runs' folders
PAPER = json.loads((ROOT / "results" / "paper.json").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set with one kind of labels, the output length that the authors trained on it, and its title."""

    dataset: str
    label_mode: Optional[str]
    classes: int
    title: str

    @property
    def name(self):
        return self.dataset + (f"-{self.label_mode}" if self.label_mode else "")


TASKS = CIFAR10, COARSE, FINE = (
    Task("cifar10", None, 10, "CIFAR-10"),
    Task("cifar100", "coarse", 100, "CIFAR-100, 20 superclasses (coarse labels)"),
    Task("cifar100", "fine", 100, "CIFAR-100, 100 classes (fine labels)"))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One net, trained from scratch on one task. arguments: the net's, without blocks and classes, as pairs."""

    task: Task
    model: str
    blocks: int
    arguments: Tuple[Tuple[str, Any], ...] = ()
    recipe: Recipe = CIFAR_PAPER

    @property
    def unit(self):
        """The short name of its unit or module: ``atac``; ``relu`` for the host itself."""
        return MODELS[self.model].part.name

    @property
    def key(self):
        """The cell's name in file names and logs: ``cifar10-b1-atac``."""
        settings = "".join(f"-{name}{value}" for name, value in self.arguments)
        return f"{self.task.name}-b{self.blocks}-{self.unit}{settings}"

    @property
    def net(self):
        """Keyword arguments of get_model."""
        return {"blocks": self.blocks, "classes": self.task.classes, **dict(self.arguments)}

    @property
    def experiment(self):
        """The Experiment of the cell's training in the paper, with seed 0."""
        return Experiment(self.model, complete_arguments(self.model, self.net), self.task.dataset, self.recipe,
                          self.task.label_mode)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of a cell. Other epochs than the paper's scale the schedule in proportion."""

    cell: Cell
    epochs: int
    seed: int

    @property
    def experiment(self):
        """Its Experiment."""
        paper = self.cell.experiment
        return dataclasses.replace(paper, recipe=paper.recipe.scaled(self.epochs), seed=self.seed)

    @property
    def title(self):
        """For messages: ``cifar10-b1-atac, 20 epochs, seed 0``."""
        return f"{self.cell.key}, {counted(self.epochs, 'epoch')}, seed {self.seed}"

    def name(self, data_sha256):
        """The run's name in runs/ and results/, which differs between data: ``cifar10-b1-atac_e20_s0_2ec32175``."""
        return f"{self.cell.key}_e{self.epochs}_s{self.seed}_{data_sha256[:8]}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of an exhibit. extra: not in the paper's exhibit, so only trained on request."""

    row: str
    cell: Cell
    extra: bool = False
    tags: Tuple[str, ...] = ()

    @property
    def words(self):
        """The words by which `select` finds the entry."""
        task = self.cell.task
        return {task.dataset, task.name, self.cell.unit, f"b{self.cell.blocks}", *self.tags,
                *([task.label_mode] if task.label_mode else [])}


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A table or figure of the paper about CIFAR."""

    name: str
    title: str
    entries: Tuple[Entry, ...]


WHOLE = 50_000  # training images of CIFAR-10 and CIFAR-100


def _everywhere(units, blocks, extras=(), rows=None):
    """Entries of units for every b and task; the paper has no number on the fine labels. rows: other row labels."""
    return tuple(Entry((rows or {}).get(unit, CIFAR.parts[unit].label), Cell(task, CIFAR.model(unit), b),
                       unit in extras or task is FINE)
                 for task in TASKS for unit in (*units, *extras) for b in blocks)


def stage_counts(blocks):
    """The numbers of sites that the authors' act_layers 0 to 4 replace: none, head, + stage 3, + stage 2, all."""
    return 0, 1, 2 * blocks + 1, 4 * blocks + 1, 6 * blocks + 1


def replaced(task, blocks, count):
    """The cell with ATAC at the last `count` of the 6b+1 sites; the ReLU cell for none, the ATAC cell for all."""
    if count == 0:
        return Cell(task, CIFAR.model("relu"), blocks)
    part = () if count == 6 * blocks + 1 else (("replaced_sites", count),)
    return Cell(task, CIFAR.model("atac"), blocks, part)


def _gradual(blocks):
    return tuple(Entry(f"{count} of {6 * b + 1} sites", replaced(task, b, count), task is FINE,
                       (f"k{count}", "layerwise", *(["stagewise"] if count in stage_counts(b) else [])))
                 for task in TASKS for b in blocks for count in range(6 * b + 2))


TABLE3 = Exhibit("table3", "Table III: activation, micro-modules and locality", _everywhere(
    ("relu", "seactivation", "nin", "localsenet", "atac"), (1, 2, 3, 4)))
# The paper names no b: its "range from 0.125 to 0.150" fits b = 1 only (docs/FIDELITY.md); b = 3 is its ResNet-20.
FIG6 = Exhibit("fig6", "Figure 6: gradual replacement of ReLU by ATAC from the last layer", _gradual((1, 3)))
FIG7 = Exhibit("fig7", "Figure 7: activation units", _everywhere(
    ("relu", "selu", "swish", "xunit", "atac"), (1, 2, 3, 4, 5), extras=("gelu", "prelu")))  # these two: footnote 2
FIG8 = Exhibit("fig8", "Figure 8: networks with attention", _everywhere(
    ("relu", "senet", "genet", "atac"), (1, 2, 3, 4, 5), rows={"relu": "ResNet", "atac": "ATAC-ResNet"}))
EXHIBITS = {exhibit.name: exhibit for exhibit in (TABLE3, FIG6, FIG7, FIG8)}
CELLS = tuple(dict.fromkeys(entry.cell for exhibit in EXHIBITS.values() for entry in exhibit.entries))

_CELLS = {cell.experiment: cell for cell in CELLS}


def cell_of(experiment):
    """The cell of an experiment, which may have any epochs, seed and held-out images. None for another net, recipe,
    global batch or start."""
    cell = _CELLS.get(dataclasses.replace(experiment, recipe=CIFAR_PAPER, seed=0, val_split=0, first_epoch=0))
    known = cell and Run(cell, experiment.recipe.epochs, experiment.seed).experiment
    return cell if cell and dataclasses.replace(known, val_split=experiment.val_split) == experiment else None


# Table III's accuracies by cell. The paper's CIFAR-100 column is about the superclasses.
PUBLISHED = {entry.cell: PAPER["table3"][entry.cell.task.dataset][entry.row][
    PAPER["table3"]["blocks"].index(entry.cell.blocks)] for entry in TABLE3.entries if entry.cell.task is not FINE}
# Table IV's rows: {label: (name in get_model without the host's version, published numbers by column name)}
TABLE4 = {part.label: (IMAGENET.model(name).rpartition("_")[0], dict(
    zip(PAPER["table4"]["columns"], PAPER["table4"][part.label]))) for name, part in IMAGENET.parts.items()}


def select(exhibit, only=(), extras=False):
    """The entries of an exhibit that the filters in `only` name.

    A filter is words with '/' between them, such as cifar10/atac/b1; an entry must have them all. Several filters add
    up. extras: also the entries that the paper's exhibit does not show. Raises InputError for a word that no entry has,
    and if no entry is left.
    """
    known = set().union(*(entry.words for entry in exhibit.entries))
    wanted = [set(text.lower().split("/")) - {""} for text in only]
    for word in sorted(set().union(*wanted)) if wanted else ():
        if word not in known:
            raise InputError(f"--only: {exhibit.name} has no {word!r}; the words are {', '.join(sorted(known))}")
    found = [entry for entry in exhibit.entries if not wanted or any(words <= entry.words for words in wanted)]
    chosen = [entry for entry in found if extras or not entry.extra]
    if not chosen:
        raise InputError(f"--only {','.join(only)} leaves nothing of {exhibit.name}"
                         + (": these are extras, add --extras" if found else ""))
    return chosen
