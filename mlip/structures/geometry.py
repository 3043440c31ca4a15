"""Geometry of periodic structures."""

from __future__ import annotations

import math
import sys

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

MIN_HEIGHT, MAX_LENGTH = 0.5, 10_000.0
"""Å: shortest height of a periodic cell, below any interatomic distance, and largest length of cells and positions.

Beyond them a neighbour list fills the memory or its distances lose their digits; they stand for wrong units.
"""


COINCIDENT = 0.2
"""Distance over the sum of covalent radii below which two atoms are one that is there twice."""


def make_supercell(crystal: Atoms, n_atoms: int) -> Atoms:
    """``crystal`` repeated along its shortest vector until it has at least ``n_atoms``; a molecule as it is."""
    repeats = [1, 1, 1]
    lengths = crystal.cell.lengths()
    if not crystal.pbc.all():
        return crystal.copy()
    while len(crystal) * math.prod(repeats) < n_atoms:
        repeats[int(np.argmin(np.round(lengths * repeats, 6)))] += 1
    return crystal.repeat(repeats)


def geometry_fault(atoms: Atoms) -> str | None:
    """Why no neighbour list can be made of ``atoms``, with the remedy; None when it can.

    Says nothing of physics: what it lets pass may still be squeezed or apart.
    """
    if not (np.all(np.isfinite(atoms.positions)) and np.all(np.isfinite(atoms.cell.array))):
        return "positions or cell hold NaN or infinity; repair the file"
    largest = max(np.abs(atoms.positions).max(initial=0.0), np.abs(atoms.cell.array).max())
    if largest > MAX_LENGTH:
        return f"a position or cell of {largest:.4g} Å, more than {MAX_LENGTH:g}; lengths must be in Å"
    vectors = atoms.cell.array[atoms.pbc]
    if len(vectors) == 0:
        return None
    if np.linalg.matrix_rank(vectors, tol=1e-3) < len(vectors):
        return "periodic but its cell vectors are zero or linearly dependent; give a cell or set pbc=False"
    # Heights of the cell in the space of its periodic vectors: inverse lengths of the reciprocal ones.
    height = 1 / np.linalg.norm(np.linalg.pinv(vectors), axis=0).max()
    if height < MIN_HEIGHT:
        return f"periodic, and its cell is only {height:.3g} Å high; lengths must be in Å, not in nm"
    return None


LONE = 5.0
"""Å from its nearest image beyond which a single atom counts as isolated: hardly a crystal is so wide."""


def is_lone(atoms: Atoms, cutoff: float = LONE) -> bool:
    """Whether ``atoms`` is one atom, with no image of itself within ``cutoff`` (Å)."""
    return len(atoms) == 1 and not len(neighbor_list("i", atoms, cutoff))


def min_distance_ratio(atoms: Atoms, cutoff_ratio: float = 1.5) -> float:
    """Shortest interatomic distance over the sum of covalent radii, periodic images included.

    Returns ``inf`` when no pair is nearer than ``cutoff_ratio`` times its radii.
    """
    # vesin is 30 times faster, but brings torch with it: a second and 200 MB that label jobs can do without.
    if "torch" in sys.modules:
        from vesin import ase_neighbor_list as find
    else:
        find = neighbor_list
    radii = covalent_radii[atoms.numbers]
    i, j, distances = find("ijd", atoms, float(2 * radii.max() * cutoff_ratio))
    ratios = distances / (radii[i] + radii[j])
    return float(ratios.min()) if len(ratios) else float("inf")


def scale_volume(atoms: Atoms, relative_volume: float) -> Atoms:
    """A copy whose volume is larger by the fraction ``relative_volume``, fractional coordinates kept."""
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell.array * (1 + relative_volume) ** (1 / 3), scale_atoms=True)
    return scaled
