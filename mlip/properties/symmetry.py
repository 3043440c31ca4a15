"""Symmetry of a crystal and its conventional cell."""

from __future__ import annotations

import warnings
from typing import Any

from ase import Atoms

SYMMETRY_PRECISION = 1e-3  # Å


class PropertyError(ValueError):
    """A property that cannot be computed from what was given; the message says why."""


def lattice_constant(structure: Atoms, v0: float) -> float:
    """Lattice constant in Å of ``structure`` when its cell has the volume ``v0`` (Å³).

    It is the cube root of the volume of the conventional cell that the symmetry of
    ``structure`` gives (spglib, 1 mÅ): the lattice constant ``a`` of cubic crystals, for
    primitive cells and supercells alike. For other crystals it is a mean length, comparable
    only between potentials of the same crystal.
    """
    if not v0 > 0:
        raise PropertyError(f"the volume must be positive, got {v0} Å³")
    n_conventional = len(find_symmetry(structure).std_types)
    return float((v0 * n_conventional / len(structure)) ** (1 / 3))


def _require_periodic(structure: Atoms) -> None:
    if not structure.pbc.all():
        raise PropertyError(
            f"{structure.get_chemical_formula()}: needs a crystal periodic in three directions, pbc is {structure.pbc}"
        )


def find_symmetry(structure: Atoms) -> Any:
    """spglib's symmetry data set of ``structure``.

    Raises:
        PropertyError: for structures that are not periodic in three directions, and where none is found.
    """
    import spglib

    _require_periodic(structure)
    cell = (structure.cell.array, structure.get_scaled_positions(), structure.numbers)
    with warnings.catch_warnings():  # it announces that a later version will raise instead of returning None
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = spglib.get_symmetry_dataset(cell, symprec=SYMMETRY_PRECISION)
    if dataset is None:
        raise PropertyError(f"{structure.get_chemical_formula()}: no symmetry found; check for overlapping atoms")
    return dataset
