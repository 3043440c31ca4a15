"""Whether a structure has molten, and at what temperature it may."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.neighborlist import neighbor_list

SHELL = 1.3
"""Neighbours are nearer than this times the nearest one's distance: the second shell of fcc is at 1.41."""
LEFT = 1.5
"""Distance over its start from which a neighbour has left; vibrations of a crystal that melts reach 1.3."""
MOLTEN = 0.3
"""Share of neighbours that have left, from which matter has molten."""
LINDEMANN = 0.1
"""RMS displacement over the distance of neighbours at which crystals melt; F. A. Lindemann, Phys. Z. 11, 609 (1910)."""
NUDGE = 0.02
"""Å: displacements by which stiffness is measured."""


def neighbours_left(ideal: Atoms, atoms: Atoms) -> float:
    """Share of the first neighbours in ``ideal`` that have left, a cage correlation with memory.

    E. Rabani, J. D. Gezelter and B. J. Berne, J. Chem. Phys. 107, 6867 (1997). Pairs of an atom with its own images,
    which cannot leave, do not count; 0 where there are no others.

    Args:
        ideal: Where every atom has its place.
        atoms: The same atoms later, not wrapped into the cell.
    """
    nearest = _nearest_distances(ideal)
    i, j, distances, shifts = neighbor_list("ijdS", ideal, SHELL * float(nearest.max()))
    kept = (distances < SHELL * np.maximum(nearest[i], nearest[j])) & (i != j)
    if not kept.any():
        return 0.0
    i, j, distances, shifts = i[kept], j[kept], distances[kept], shifts[kept]
    now = np.linalg.norm(atoms.positions[j] + shifts @ atoms.cell.array - atoms.positions[i], axis=1)
    return float(np.mean(now > LEFT * distances))


def is_molten(left: float, kind: str) -> bool:
    """Whether a melt is where that share of neighbours has ``left``; a molecule (``kind``) ends with its first bond."""
    return left > 0 if kind == "molecule" else left >= MOLTEN


def estimate_melting(atoms: Atoms, rng: np.random.Generator, n_samples: int = 8) -> float:
    """Temperature (K) at which Lindemann's rule has ``atoms`` melt; NaN where nothing holds them.

    Each atom as an oscillator of the mean stiffness k = -<F·u> / <u²> over random displacements u, which is a third of
    the trace of the force constants per atom; at T its mean squared displacement is 3 kB T / k. For EMT Cu, Al, Au,
    Lennard-Jones Ar and Stillinger-Weber Si that is 1.4, 1.1, 1.0, 2.0 and 2.4 times the melting temperature: enough
    to know where to begin, and where to end at the latest.

    Args:
        atoms: The ideal structure, with a calculator; left as it is.
        rng: Draws displacements.
        n_samples: How many.
    """
    moved, work, squares = atoms.copy(), 0.0, 0.0
    moved.set_constraint()
    moved.calc = atoms.calc
    at_rest = moved.get_forces(apply_constraint=False)
    for _ in range(n_samples):
        shift = rng.normal(0, NUDGE, (len(atoms), 3))
        moved.set_positions(atoms.positions + shift)
        work -= float(np.sum((moved.get_forces(apply_constraint=False) - at_rest) * shift))
        squares += float(np.sum(shift**2))
    distance = float(np.median(_nearest_distances(atoms)))
    stiffness = work / squares
    return (LINDEMANN * distance) ** 2 * stiffness / (3 * units.kB) if stiffness > 0 else float("nan")


def _nearest_distances(atoms: Atoms) -> np.ndarray:
    """Distance of each atom's nearest neighbour, [n_atoms] Å; lone atoms have the largest found."""
    reach, nearest = 4.0, np.full(len(atoms), np.inf)
    while not np.isfinite(nearest).all() and reach < 20:
        i, distances = neighbor_list("id", atoms, reach)
        np.minimum.at(nearest, i, distances)
        reach *= 1.5
    finite = nearest[np.isfinite(nearest)]
    return np.where(np.isfinite(nearest), nearest, finite.max() if len(finite) else 4.0)
