"""The paper's questions (Section IV), answered from the runs of one protocol.

A difference between two nets is judged in one of two ways. With several seeds of both, the spread over the seeds says
whether one *method* is above the other. With one seed of one of them, only the two trained *networks* can be compared:
both answered the same test images, so the images that one of them alone had right decide (McNemar).
"""
import dataclasses
import math
from typing import Optional, Tuple

import numpy as np

from model.registry import CIFAR

from . import grid

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclasses.dataclass(frozen=True)
class Paired:
    """The same test images, answered by both sides.

    margin: twice the standard error of the difference. gained, lost: the images that the first or the second side alone
    had right; shares of seeds add up.
    """

    margin: float
    gained: float
    lost: float

    @classmethod
    def of(cls, first, second):
        """Of two Scores; None if one of them does not know which images were right."""
        ours, theirs = first.right(), second.right()
        if ours is None or theirs is None:
            return None
        steps = ours - theirs
        return cls(2 * float(np.std(steps)) / math.sqrt(len(steps)), float(steps.clip(0).sum()),
                   float((-steps).clip(0).sum()))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference of two means of last epochs.

    seeds: the fewer of both sides' runs. spread: twice the standard error over the seeds; a run's variance is at least
    the variance of drawing so many test images.
    """

    label: str
    difference: float
    seeds: int
    spread: float
    paired: Optional[Paired] = None

    @property
    def of_methods(self):
        """Whether it says something about the methods, not about two trained networks alone."""
        return self.seeds > 1

    @property
    def margin(self):
        """The margin that the verdict rests on."""
        return self.spread if self.of_methods or self.paired is None else self.paired.margin

    @property
    def verdict(self):
        """Whether the first is above the second; undecided if the difference is within the margin."""
        if abs(self.difference) <= self.margin:
            return OPEN
        return HOLDS if self.difference > 0 else FAILS

    def __str__(self):
        words = f"{self.label}: {self.difference:+.4f} ± {self.margin:.4f}"
        if self.of_methods:
            networks = f", these networks ± {self.paired.margin:.4f}" if self.paired else ""
            return f"{words} over {self.seeds} seeds{networks}"
        if self.paired is None:
            return f"{words} (not paired)"
        return f"{words} ({self.paired.gained:,.0f} images against {self.paired.lost:,.0f})"


def compare(label, first, second):
    """The Comparison of two Scores."""
    return Comparison(label, first.mean() - second.mean(), min(len(first.records), len(second.records)),
                      2 * math.hypot(first.error(), second.error()), Paired.of(first, second))


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to a claim: a verdict, its comparisons, and the comparisons without runs."""

    question: str
    claim: str
    verdict: str
    comparisons: Tuple[Comparison, ...]
    missing: Tuple[str, ...]

    def __str__(self):
        """The verdict, and what it is about."""
        about = "the methods" if all(each.of_methods for each in self.comparisons) else \
            "these two networks" if len(self.comparisons) == 1 else "these networks"
        return f"**{self.verdict}** between {about}" if self.comparisons else "not run"


def _answer(question, claim, scores, pairs, whole=False):
    """The Answer by the pairs that have runs; with `whole`, only if all of them have.

    pairs: [(label, cell, cell, may_tie)]. The first is to be above the second; if they may tie, not below it.
    """
    missing = tuple(label for label, first, second, _ in pairs if first not in scores or second not in scores)
    found, verdicts = [], set()
    for label, first, second, may_tie in () if whole and missing else pairs:
        if label not in missing:
            comparison = compare(label, scores[first], scores[second])
            found.append(comparison)
            verdicts.add(HOLDS if may_tie and comparison.difference >= 0 else comparison.verdict)
    verdict = FAILS if FAILS in verdicts else HOLDS if verdicts == {HOLDS} else OPEN
    return Answer(question, claim, verdict, tuple(found), missing)


def answers(protocol, scores):
    """The paper's questions Q1 to Q5, answered from the runs of one protocol. scores: {cell: Scores}."""
    data = protocol.data_name

    def above(question, unit, exhibits, depths):
        pairs = [(f"b = {b}", grid.cell(data, "atac", b), grid.cell(data, unit, b), False) for b in depths]
        return _answer(question, f"ATAC is above {CIFAR.parts[unit].label} ({exhibits})", scores, pairs)

    def reaches(question, claim, label, first, second):
        return _answer(question, claim, scores, [(label, grid.cell(data, *first), grid.cell(data, *second), True)])

    def grows(question, b):
        sites = grid.stage_counts(b)
        cells = [grid.cell(data, "atac", b, count) for count in sites]
        pairs = [("all sites over none", cells[-1], cells[0], False),
                 *((f"{count} over {before} sites", cell, previous, True)
                   for before, previous, count, cell in zip(sites, cells, sites[1:], cells[1:]))]
        return _answer(question, f"accuracy grows with every stage of ATAC, b = {b} (Figure 6)", scores, pairs, True)

    deep = (1, 2, 3, 4, 5)
    return [
        above("Q1", "seactivation", "Table III", (1, 2, 3, 4)),
        above("Q2", "nin", "Table III", (1, 2, 3, 4)),
        above("Q2", "localsenet", "Table III", (1, 2, 3, 4)),
        grows("Q3", 1),
        grows("Q3", 3),
        above("Q4", "relu", "Table III, Figure 7", deep),
        above("Q4", "selu", "Figure 7", deep),
        above("Q4", "swish", "Figure 7", deep),
        above("Q4", "xunit", "Figure 7", deep),
        above("Q4", "senet", "Figure 8", deep),
        above("Q4", "genet", "Figure 8", deep),
        reaches("Q4", "ATAC with b = 3 reaches ReLU with b = 5, at 65% of its parameters (Figure 7)",
                "ATAC b = 3 over ReLU b = 5", ("atac", 3), ("relu", 5)),
        reaches("Q5", "depth does no harm: ATAC with b = 5 reaches ATAC with b = 4 (Section IV-C2)",
                "b = 5 over b = 4", ("atac", 5), ("atac", 4)),
    ]


def conclusions(protocols):
    """{data name: [(Answer, protocol)]}: each claim by the first protocol that has runs for it, else protocol None.

    protocols: {protocol: {cell: Scores}} with the best evidence first (scores.by_protocol).
    """
    found = {}
    for protocol, scores in protocols.items():
        own = [(answer, protocol if answer.comparisons else None) for answer in answers(protocol, scores)]
        kept = found.setdefault(protocol.data_name, own)
        found[protocol.data_name] = [new if before[1] is None else before for before, new in zip(kept, own)]
    return found
