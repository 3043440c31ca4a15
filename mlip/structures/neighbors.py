"""Neighbour pairs under full, partial and no periodicity."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from vesin import NeighborList

COINCIDENCE = 1e-6
"""Distance (Å) below which two atoms have no direction from one to the other."""


MAX_CELL = 1e6
"""Å: largest component of a cell vector. Beyond, the search for pairs ends the program by a division by zero."""


@dataclass(frozen=True)
class Pairs:
    """Directed pairs i -> j within a cutoff, each pair listed in both directions.

    ``vectors`` [n_pairs, 3] points from atom ``centers`` [n_pairs] to the periodic image of
    atom ``neighbors`` [n_pairs]; ``distances`` [n_pairs] are its lengths. All in Å.
    """

    centers: np.ndarray
    neighbors: np.ndarray
    vectors: np.ndarray
    distances: np.ndarray


@lru_cache(maxsize=64)
def _finder(cutoff: float, thread: int) -> NeighborList:
    """A list for one thread alone: it writes into memory of its own at every call."""
    return NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)


def find_pairs(atoms: Atoms, cutoff: float) -> Pairs:
    """All pairs of ``atoms`` closer than ``cutoff`` (Å), periodic images included.

    Raises:
        ValueError: for positions or cells that are not finite, for a periodic direction
            without extent, and for two atoms at one place.
    """
    positions = np.ascontiguousarray(atoms.positions, dtype=np.float64)
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise ValueError("positions or cell contain NaN or infinity; the structure or the run that made it is broken")
    if np.abs(cell).max() > MAX_CELL:
        raise ValueError(f"a cell of {np.abs(cell).max():.3g} Å; the structure or the run that made it is broken")
    if atoms.pbc.any():
        box = np.asarray(complete_cell(cell))
        if abs(np.linalg.det(box)) < 1e-10 or (np.linalg.norm(cell, axis=1) < 1e-10)[atoms.pbc].any():
            raise ValueError(f"a periodic direction has no extent: pbc={atoms.pbc.tolist()}, cell={cell.tolist()}")
    else:
        box = np.eye(3)
    i, j, vectors, distances = _finder(float(cutoff), threading.get_ident()).compute(
        points=positions, box=box, periodic=atoms.pbc.tolist(), quantities="ijDd"
    )
    if len(distances) and distances.min() < COINCIDENCE:
        k = int(distances.argmin())
        raise ValueError(f"atoms {i[k]} and {j[k]} (counted from 0) are at one place, {distances[k]:.1e} Å apart")
    return Pairs(i.astype(np.int64), j.astype(np.int64), vectors, distances)
