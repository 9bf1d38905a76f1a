"""The gates of a net: the names of their sites, and their statistics over many images.

Gates are arrays (N, C, H, W); SEActivation's and SENet's are (N, C, 1, 1).
"""
import re
from typing import NamedTuple, Tuple

import numpy as np

BINS = 200  # of the gates' values from 0 to 1


def site(path):
    """A unit's short name by its structural name: ``s1b2.act1`` for stage 1, block 2; ``head`` for the last one."""
    found = re.fullmatch(r"(features\.|layer)(\d+)\.(\d+)\.(\w+)", path)
    if found:
        stage = int(found[2]) - (found[1] == "features.")
        return f"s{stage}b{int(found[3]) + 1}.{found[4]}"
    return "head" if re.fullmatch(r"features\.\d+", path) else path


def liveliest(gates):
    """The channel whose gates (C, H, W) differ most between positions."""
    return int(gates.reshape(len(gates), -1).std(axis=1).argmax())


class Summary(NamedTuple):
    """The distribution of one unit's gates over images.

    mean, and quantiles at LEVELS. channels, images, positions : the parts of the variance between the channels' means,
    between an image's mean and its channel's, and between a position and its image's mean; they add up to the variance.
    """

    site: str
    mean: float
    quantiles: Tuple[float, ...]
    channels: float
    images: float
    positions: float


LEVELS = (.05, .25, .5, .75, .95)


class Statistics:
    """Sums over the gates of one unit."""

    def __init__(self):
        self.count, self.bins = 0, np.zeros(BINS, np.int64)
        self.means = self.squares = self.all_squares = 0.

    def add(self, gates):
        """Add the gates of some images, (N, C, H, W)."""
        gates = gates.astype(np.float64)
        means = gates.mean(axis=(2, 3))
        self.count += len(gates)
        self.bins += np.histogram(gates, BINS, (0, 1))[0]
        self.means = self.means + means.sum(axis=0)
        self.squares = self.squares + np.square(means).sum(axis=0)
        self.all_squares = self.all_squares + np.square(gates).mean(axis=(2, 3)).sum(axis=0)

    def summary(self, name):
        """The Summary of the unit at a site."""
        means, squares, all_squares = (sums / self.count for sums in (self.means, self.squares, self.all_squares))
        below = np.cumsum(self.bins) / self.bins.sum()
        quantiles = tuple(float(np.interp(level, np.r_[0, below], np.linspace(0, 1, BINS + 1))) for level in LEVELS)
        return Summary(name, float(means.mean()), quantiles, float(means.var()),
                       float((squares - np.square(means)).mean()), float((all_squares - squares).mean()))


def summaries(parts):
    """The Summary of every unit, in order. parts: {path: gates} of some images at a time."""
    found = {}
    for gates in parts:
        for path, values in gates.items():
            found.setdefault(path, Statistics()).add(values)
    return [statistics.summary(site(path)) for path, statistics in found.items()]
