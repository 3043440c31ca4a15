"""How labels change from one structure to another, over how they should: slopes, robust against the few."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlip.training.work import CopyPairs, count_independent

NORMAL = 2.5
"""Slopes from 1/NORMAL to NORMAL are right: no unit is nearer to 1, and what they are taken from is crude."""
AGREEMENT = 0.8
"""Largest interquartile range of pair slopes, relative to the median, that counts as agreement."""


@dataclass(frozen=True)
class Slope:
    """Median ratio label / implied over pairs of structures, and its quartiles."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def agreed(self) -> bool:
        """Whether the middle half of the pairs tells one story."""
        return math.isfinite(self.value) and self.high - self.low < AGREEMENT * abs(self.value)

    @property
    def wrong(self) -> bool:
        """Agreed, and far from 1."""
        return self.agreed and not 1 / NORMAL < self.value < NORMAL


def pair_slope(implied: np.ndarray, labels: np.ndarray, groups: np.ndarray, least: int) -> Slope:
    """Theil-Sen slope of ``labels`` on ``implied`` [n] over pairs within a group.

    Nothing with fewer than ``least`` independent differences: of a group, one less than it has members.
    """
    if len(implied) - len(np.unique(groups)) < least:
        return Slope()
    dx, dy = [], []
    for group in np.unique(groups):
        members = np.nonzero(groups == group)[0][:400]
        i, j = np.triu_indices(len(members), 1)
        dx.append(implied[members[i]] - implied[members[j]])
        dy.append(labels[members[i]] - labels[members[j]])
    return _median_slope(np.concatenate(dx), np.concatenate(dy))


def work_slope(pairs: CopyPairs, groups: np.ndarray, least: int) -> Slope:
    """Slope of differences of labelled energies on the work of labelled forces and stresses, without any model.

    By the trapezoidal rule between copies of one structure (:mod:`mlip.training.work`).
    """
    enough = count_independent(pairs, groups) >= least
    return _median_slope(pairs.force + pairs.stress, pairs.rise) if enough else Slope()


def _median_slope(x: np.ndarray, y: np.ndarray) -> Slope:
    """Median of ``y / x`` and its quartiles, over the half with the larger ``x``."""
    wide = np.abs(x) >= max(float(np.median(np.abs(x))), 1e-9) if len(x) else np.zeros(0, bool)
    if not wide.any():
        return Slope()
    low, value, high = np.quantile(y[wide] / x[wide], (0.25, 0.5, 0.75))
    return Slope(float(value), float(low), float(high))
