"""Records of the ledger as scores: which may be compared, means and spreads."""
import dataclasses
import math
import statistics

import numpy as np

from engine.recipe import CIFAR_PAPER
from support import bits

from . import grid


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What the runs of one table share: the schedule, the data and the images that chose the best epoch."""

    data_name: str
    epochs: int
    data_sha256: str
    val_split: int

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

    def right(self):
        """For each test image the share of the runs whose last epoch had it right; None if a record does not know."""
        if any(record.right is None for record in self.records):
            return None
        return np.mean([bits.unpacked(record.right, self.images) for record in self.records], axis=0)


def by_protocol(records):
    """{protocol: {cell: Scores}} of the records that are runs of the grid.

    For each data name the best evidence comes first: whole training sets, then the longest schedule, then the most
    runs.
    """
    groups, facts = {}, {}
    for record in records:
        if record.cell is not None:
            protocol = Protocol(record.cell.data_name, record.epochs, record.result.data["sha256"],
                                record.experiment.val_split)
            facts[protocol] = record.result.data
            groups.setdefault(protocol, {}).setdefault(record.cell, []).append(record)

    def rank(protocol):
        data = facts[protocol]
        runs = sum(map(len, groups[protocol].values()))
        return (list(grid.TITLES).index(protocol.data_name), -data["train_images"], -protocol.epochs, -runs,
                not data["official"], protocol.data_sha256, protocol.val_split)
    return {protocol: {cell: Scores(runs) for cell, runs in groups[protocol].items()}
            for protocol in sorted(groups, key=rank)}
