"""How labels change from one structure to another, over how they should: slopes, robust against the few."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.geometry import wrap_positions
from scipy.stats import spearmanr

from mlip.structures.labelled import has_label, labelled_energy, labelled_forces, labelled_stress

NORMAL = 2.5
"""Slopes from 1/NORMAL to NORMAL are right: no unit is nearer to 1, and what they are taken from is crude."""
AGREEMENT = 0.8
"""Largest interquartile range of pair slopes, relative to the median, that counts as agreement."""
FAR, MAX_STRAIN = 1.0, 0.2
"""Å that an atom has moved, and strain, from which the work between two structures is not their mean force's."""
MOST_MEMBERS = 30
"""Structures of a group between which work is taken."""
LEAST_WORK = 1e-3
"""eV/atom by which energies and work must spread: less may be the noise of a label."""


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


def work_slope(structures: Sequence[Atoms], groups: np.ndarray, least: int) -> Slope:
    """Slope of differences of labelled energies on the work of labelled forces and stresses, without any model.

    Between two copies of one structure that differ by displacements ``u`` of the atoms, in coordinates that move
    with the cell, and by a strain ``e``, the trapezoidal rule gives

        E_2 - E_1 = -(F_1 + F_2)/2 · u + (V_1 s_1 + V_2 s_2)/2 : e,

    wrong in the third order. Pairs are of one group, with the same atoms in the same order, near each other.
    """
    works, independent = _works(structures, groups)
    return _ratio([(rise, force + stress) for rise, force, stress in works]) if independent >= least else Slope()


def stress_slope(structures: Sequence[Atoms], groups: np.ndarray, least: int) -> Slope:
    """Slope on the work of the stresses of what the work of the forces leaves of energy differences; no model either.

    Of pairs as for :func:`work_slope`, those of different cells; the half that the stresses work most in decides, and
    where the third order or the forces' share drowns them, the ratios do not agree.
    """
    works, independent = _works(structures, groups)
    strained = [(rise - force, stress) for rise, force, stress in works if stress]
    return _ratio(strained) if independent >= least else Slope()


def work_correlation(structures: Sequence[Atoms], groups: np.ndarray, least: int) -> float:
    """Rank correlation of energy differences with the work of forces and stresses, of pairs as for :func:`work_slope`.

    Of labels that belong together it is near 1, near -1 with a wrong sign, and a factor leaves it as it is; NaN where
    fewer than ``least`` pairs are independent, or where all of it is less than ``LEAST_WORK``.
    """
    works, independent = _works(structures, groups)
    table = np.array([(rise, force + stress) for rise, force, stress in works], dtype=float).reshape(-1, 2)
    if independent < least or (table.std(axis=0) < LEAST_WORK).any():
        return math.nan
    # Of ranks (Spearman): one energy that is far off must not hide that the others belong to their forces.
    return float(spearmanr(table[:, 0], table[:, 1]).statistic)


def _works(structures: Sequence[Atoms], groups: np.ndarray) -> tuple[list[tuple[float, float, float]], int]:
    """Energy difference, work of forces and of stresses (eV/atom) of each pair; how many of them are independent."""
    works, independent = [], 0
    for group in np.unique(groups):
        members = [structures[k] for k in np.nonzero(groups == group)[0][:MOST_MEMBERS]]
        pairs = [(a, b, w) for a, b in itertools.combinations(members, 2) if (w := _work(a, b)) is not None]
        independent += max(0, len({id(atoms) for a, b, _ in pairs for atoms in (a, b)}) - 1)
        for a, b, (force, stress) in pairs:
            rise = (labelled_energy(b) - labelled_energy(a)) / len(a)
            works.append((rise, force / len(a), stress / len(a)))
    return works, independent


def _ratio(pairs: Sequence[tuple[float, float]]) -> Slope:
    """Slope of the first on the second of each pair."""
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return _median_slope(table[:, 1], table[:, 0])


def _median_slope(x: np.ndarray, y: np.ndarray) -> Slope:
    """Median of ``y / x`` and its quartiles, over the half with the larger ``x``."""
    wide = np.abs(x) >= max(float(np.median(np.abs(x))), 1e-9) if len(x) else np.zeros(0, bool)
    if not wide.any():
        return Slope()
    low, value, high = np.quantile(y[wide] / x[wide], (0.25, 0.5, 0.75))
    return Slope(float(value), float(low), float(high))


def _work(a: Atoms, b: Atoms) -> tuple[float, float] | None:
    """Work of forces and of stresses from ``a`` to ``b``, eV; None where the trapezoidal rule does not know it."""
    if len(a) != len(b) or (a.numbers != b.numbers).any() or (a.pbc != b.pbc).any():
        return None
    cells = [Cell(atoms.cell.array * atoms.pbc[:, None]).complete().array for atoms in (a, b)]
    mean = 0.5 * (cells[0] + cells[1])
    gradient = np.linalg.solve(mean, cells[1] - cells[0])
    strain = 0.5 * (gradient + gradient.T)
    fractions = np.linalg.solve(cells[1].T, b.positions.T).T - np.linalg.solve(cells[0].T, a.positions.T).T
    moved = wrap_positions(fractions @ mean, mean, pbc=a.pbc, center=(0, 0, 0))
    moved -= moved.mean(axis=0)  # forces do no work on a shift of all
    if np.abs(moved).max() > FAR or np.abs(strain).max() > MAX_STRAIN:
        return None
    work = -0.5 * float(np.sum((labelled_forces(a) + labelled_forces(b)) * moved))
    if np.abs(strain).max() < 1e-6:
        return work, 0.0
    if not (a.pbc.all() and has_label(a, "stress") and has_label(b, "stress")):
        return None
    virial = sum(atoms.get_volume() * labelled_stress(atoms, voigt=False) for atoms in (a, b))
    return work, 0.5 * float(np.sum(virial * strain))
