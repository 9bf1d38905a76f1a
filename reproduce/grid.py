"""The paper's experiments as data: the net, data and recipe of every row of its tables and figures.

A cell is the Experiment that trains one net as the paper did, with seed 0. An exhibit (a table or figure) is a list of
entries, each with a cell. Cells that several exhibits share are equal, so they are trained once. A run of a cell may
have another seed, and other epochs, which scale the schedule in proportion.
"""
import dataclasses
import json
from typing import Tuple

from engine.experiment import Experiment
from engine.recipe import CIFAR_PAPER
from model.registry import CIFAR, IMAGENET, MODELS, complete_arguments
from support import ROOT
from support.errors import InputError
from support.words import counted

WORK = ROOT / "runs" / "grid"  # the runs' folders
PAPER = json.loads((ROOT / "results" / "paper.json").read_text(encoding="utf-8"))
TITLES = {"cifar10": "CIFAR-10",
          "cifar100-coarse": "CIFAR-100, 20 superclasses (coarse labels)",
          "cifar100-fine": "CIFAR-100, 100 classes (fine labels)"}  # of the data, by Experiment.data_name
CIFAR10, COARSE, FINE = TITLES


def cell(data_name, unit, blocks, sites=None):
    """The cell of a unit or module ("relu": the host itself) on the data of TITLES.

    sites: how many of the last of the 6b+1 sites have the unit, None for all. With none it is the host's cell.
    """
    dataset, _, label_mode = data_name.partition("-")
    net = {"blocks": blocks, "classes": 10 if dataset == "cifar10" else 100}  # the authors' length for both label modes
    if sites not in (None, 0, 6 * blocks + 1):
        net["replaced_sites"] = sites
    model = CIFAR.model("relu" if sites == 0 else unit)
    return Experiment(model, complete_arguments(model, net), dataset, CIFAR_PAPER, label_mode or None)


def run(cell, epochs, seed):
    """The Experiment of a cell's run."""
    return dataclasses.replace(cell, recipe=cell.recipe.scaled(epochs), seed=seed)


def unit(experiment):
    """The short name of its unit or module: ``atac``; ``relu`` for the host itself."""
    return MODELS[experiment.model].part.name


def key(experiment):
    """The name of its cell in file names and logs: ``cifar10-b1-atac``."""
    sites = experiment.net.get("replaced_sites")
    part = f"-replaced_sites{sites}" if sites else ""
    return f"{experiment.data_name}-b{experiment.blocks}-{unit(experiment)}{part}"


def title(experiment):
    """A run's name for messages: ``cifar10-b1-atac, 20 epochs, seed 0``."""
    return f"{key(experiment)}, {counted(experiment.recipe.epochs, 'epoch')}, seed {experiment.seed}"


def name(experiment, data_sha256):
    """A run's name in runs/ and results/, which differs between data: ``cifar10-b1-atac_e20_s0_2ec32175``."""
    return f"{key(experiment)}_e{experiment.recipe.epochs}_s{experiment.seed}_{data_sha256[:8]}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of an exhibit. extra: not in the paper's exhibit, so only trained on request."""

    row: str
    cell: Experiment
    extra: bool = False
    tags: Tuple[str, ...] = ()

    @property
    def words(self):
        """The words by which `select` finds the entry."""
        data = self.cell.data_name
        return {data, *data.split("-"), unit(self.cell), f"b{self.cell.blocks}", *self.tags}


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A table or figure of the paper about CIFAR."""

    name: str
    title: str
    entries: Tuple[Entry, ...]


WHOLE = 50_000  # training images of CIFAR-10 and CIFAR-100


def _everywhere(units, blocks, extras=(), rows=None):
    """Entries of units for every b and data; the paper has no number on the fine labels. rows: other row labels."""
    return tuple(Entry((rows or {}).get(part, CIFAR.parts[part].label), cell(data, part, b),
                       part in extras or data == FINE)
                 for data in TITLES for part in (*units, *extras) for b in blocks)


def stage_counts(blocks):
    """The numbers of sites that the authors' act_layers 0 to 4 replace: none, head, + stage 3, + stage 2, all."""
    return 0, 1, 2 * blocks + 1, 4 * blocks + 1, 6 * blocks + 1


def _gradual(blocks):
    return tuple(Entry(f"{count} of {6 * b + 1} sites", cell(data, "atac", b, count), data == FINE,
                       (f"k{count}", "layerwise", *(["stagewise"] if count in stage_counts(b) else [])))
                 for data in TITLES for b in blocks for count in range(6 * b + 2))


TABLE3 = Exhibit("table3", "Table III: activation, micro-modules and locality", _everywhere(
    ("relu", "seactivation", "nin", "localsenet", "atac"), (1, 2, 3, 4)))
# The paper names no b: its "range from 0.125 to 0.150" fits b = 1 only (docs/FIDELITY.md); b = 3 is its ResNet-20.
FIG6 = Exhibit("fig6", "Figure 6: gradual replacement of ReLU by ATAC from the last layer", _gradual((1, 3)))
FIG7 = Exhibit("fig7", "Figure 7: activation units", _everywhere(
    ("relu", "selu", "swish", "xunit", "atac"), (1, 2, 3, 4, 5), extras=("gelu", "prelu")))  # these two: footnote 2
FIG8 = Exhibit("fig8", "Figure 8: networks with attention", _everywhere(
    ("relu", "senet", "genet", "atac"), (1, 2, 3, 4, 5), rows={"relu": "ResNet", "atac": "ATAC-ResNet"}))
EXHIBITS = {exhibit.name: exhibit for exhibit in (TABLE3, FIG6, FIG7, FIG8)}
CELLS = dict.fromkeys(entry.cell for exhibit in EXHIBITS.values() for entry in exhibit.entries)  # a set, in order


def cell_of(experiment):
    """The cell of an experiment, which may have any epochs, seed and held-out images. None for another net, recipe,
    global batch or start."""
    found = dataclasses.replace(experiment, recipe=CIFAR_PAPER, seed=0, val_split=0, first_epoch=0)
    own = dataclasses.replace(run(found, experiment.recipe.epochs, experiment.seed), val_split=experiment.val_split)
    return found if found in CELLS and own == experiment else None


# Table III's accuracies by cell. The paper's CIFAR-100 column is about the superclasses.
PUBLISHED = {entry.cell: PAPER["table3"][entry.cell.dataset][entry.row][
    PAPER["table3"]["blocks"].index(entry.cell.blocks)] for entry in TABLE3.entries if entry.cell.data_name != FINE}
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
