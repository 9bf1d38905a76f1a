"""Records of the ledger as scores: which may be compared, means and spreads, and the paper's questions."""
import dataclasses
import math
import statistics
from typing import Tuple

from engine.recipe import CIFAR_PAPER
from model.registry import CIFAR

from . import grid

HOLDS, FAILS, OPEN = "holds", "does not hold", "not enough runs"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What the runs of one table share: the schedule, the data and the images that chose the best epoch."""

    task: grid.Task
    epochs: int
    data_sha256: str
    val_split: int

    @classmethod
    def of(cls, record, cell):
        return cls(cell.task, record.epochs, record.result.data["sha256"], record.experiment.val_split)

    @property
    def short(self):
        return self.epochs < CIFAR_PAPER.epochs


class Scores:
    """The runs of one cell under one protocol, one per seed. Accuracies are shares of the test images, 0 to 1."""

    def __init__(self, records):
        self.records = sorted(records, key=lambda record: record.experiment.seed)
        self.images = records[0].result.last.images

    def values(self, which):
        """The accuracies of the 'last' or the 'best' epochs."""
        return [getattr(record.result, which).accuracy for record in self.records]

    def mean(self, which="last"):
        return statistics.fmean(self.values(which))

    def spread(self, which="last"):
        """Standard deviation over the seeds; None for a single one."""
        values = self.values(which)
        return statistics.stdev(values) if len(values) > 1 else None

    def error(self):
        """Standard error of the last epochs' mean.

        A run's variance is at least the variance of drawing so many test images. One seed, or two with equal scores,
        would hide that variance.
        """
        mean = self.mean()
        return math.sqrt(max(mean * (1 - mean) / self.images, (self.spread() or 0) ** 2) / len(self.records))


def by_protocol(records):
    """{protocol: {cell: Scores}} of the records that are runs of the grid; for each task the best protocol first."""
    groups = {}
    facts = {}
    for record in records:
        cell = record.cell
        if cell is None:
            continue
        protocol = Protocol.of(record, cell)
        facts[protocol] = record.result.data
        groups.setdefault(protocol, {}).setdefault(cell, []).append(record)

    def rank(protocol):
        data = facts[protocol]
        return (grid.TASKS.index(protocol.task), -data["train_images"], not data["official"], -protocol.epochs,
                protocol.data_sha256, protocol.val_split)
    return {protocol: {cell: Scores(runs) for cell, runs in groups[protocol].items()}
            for protocol in sorted(groups, key=rank)}


# ---- The paper's questions


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference of two means of last epochs, and twice its standard error."""

    label: str
    difference: float
    margin: float

    @property
    def verdict(self):
        """Whether the first is above the second; open if the difference is within the margin."""
        if abs(self.difference) <= self.margin:
            return OPEN
        return HOLDS if self.difference > 0 else FAILS

    def __str__(self):
        return f"{self.label}: {self.difference:+.4f} (margin {self.margin:.4f})"


def compare(label, first, second):
    return Comparison(label, first.mean() - second.mean(), 2 * math.hypot(first.error(), second.error()))


@dataclasses.dataclass(frozen=True)
class Answer:
    """The ledger's answer to a claim: a verdict, its comparisons, and the comparisons without runs."""

    question: str
    claim: str
    verdict: str
    comparisons: Tuple[Comparison, ...]
    missing: Tuple[str, ...]


def _cell(task, unit, blocks):
    return grid.Cell(task, CIFAR.model(unit), blocks)


def _above(question, claim, scores, pairs):
    """The claim that one net is above another, for each (label, cell, cell) that has runs."""
    found = [compare(label, scores[first], scores[second]) for label, first, second in pairs
             if first in scores and second in scores]
    missing = tuple(label for label, first, second in pairs if first not in scores or second not in scores)
    verdicts = {comparison.verdict for comparison in found}
    verdict = FAILS if FAILS in verdicts else HOLDS if verdicts == {HOLDS} else OPEN
    return Answer(question, claim, verdict, tuple(found), missing)


def _reaches(question, claim, scores, label, first, second):
    """The claim that one net is as good as another: open if it is below, but within the margin."""
    if first not in scores or second not in scores:
        return Answer(question, claim, OPEN, (), (label,))
    comparison = compare(label, scores[first], scores[second])
    verdict = HOLDS if comparison.difference >= 0 else comparison.verdict
    return Answer(question, claim, verdict, (comparison,), ())


def _grows(question, claim, scores, task, blocks):
    """Figure 6 by stages: all sites replaced is above none replaced, and no stage is below the one before it."""
    counts = grid.stage_counts(blocks)
    cells = [grid.replaced(task, blocks, count) for count in counts]
    missing = tuple(f"{count} sites" for count, cell in zip(counts, cells) if cell not in scores)
    if missing:
        return Answer(question, claim, OPEN, (), missing)
    steps = [compare(f"{count} over {before} sites", scores[cell], scores[previous])
             for before, previous, count, cell in zip(counts, cells, counts[1:], cells[1:])]
    whole = compare("all sites over none", scores[cells[-1]], scores[cells[0]])
    fell = any(step.verdict == FAILS for step in steps)
    return Answer(question, claim, FAILS if fell else whole.verdict, (*steps, whole), ())


def answers(protocol, scores):
    """The paper's questions Q1 to Q5 (Section IV), answered from the runs of one protocol. scores: {cell: Scores}."""
    task = protocol.task

    def above(question, unit, exhibits, depths):
        pairs = [(f"b = {b}", _cell(task, "atac", b), _cell(task, unit, b)) for b in depths]
        return _above(question, f"ATAC is above {CIFAR.parts[unit].label} ({exhibits})", scores, pairs)

    deep = (1, 2, 3, 4, 5)
    return [
        above("Q1", "seactivation", "Table III", (1, 2, 3, 4)),
        above("Q2", "nin", "Table III", (1, 2, 3, 4)),
        above("Q2", "localsenet", "Table III", (1, 2, 3, 4)),
        *(_grows("Q3", f"accuracy grows with every stage of ATAC, b = {b} (Figure 6)", scores, task, b)
          for b in (1, 3)),
        above("Q4", "relu", "Table III, Figure 7", deep),
        above("Q4", "selu", "Figure 7", deep),
        above("Q4", "swish", "Figure 7", deep),
        above("Q4", "xunit", "Figure 7", deep),
        above("Q4", "senet", "Figure 8", deep),
        above("Q4", "genet", "Figure 8", deep),
        _reaches("Q4", "ATAC with b = 3 reaches ReLU with b = 5, at 65% of its parameters (Figure 7)", scores,
                 "ATAC b = 3 over ReLU b = 5", _cell(task, "atac", 3), _cell(task, "relu", 5)),
        _reaches("Q5", "depth does no harm: ATAC with b = 5 reaches ATAC with b = 4 (Section IV-C2)", scores,
                 "b = 5 over b = 4", _cell(task, "atac", 5), _cell(task, "atac", 4)),
    ]
