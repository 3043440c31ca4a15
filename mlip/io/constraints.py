"""Which coordinates of a structure may move: constraints as a table that files can carry."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixScaled

AXES_TOLERANCE = 1e-6


class ConstraintError(ValueError):
    """A constraint that is no set of coordinates; the message names it and the remedy."""


def movable_mask(atoms: Atoms) -> np.ndarray | None:
    """True where a coordinate may move, [n_atoms, 3]; None without constraints.

    Raises:
        ConstraintError: for other constraints than fixed atoms and fixed coordinates.
    """
    if not atoms.constraints:
        return None
    movable = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            movable[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            movable[constraint.index] &= ~np.asarray(constraint.mask, dtype=bool)
        elif isinstance(constraint, FixScaled):
            movable[constraint.index] &= ~_cartesian(atoms, np.asarray(constraint.mask, dtype=bool))
        else:
            raise ConstraintError(
                f"constraint {type(constraint).__name__} cannot be kept; fix atoms or their coordinates, or remove it"
            )
    return movable


def set_movable(atoms: Atoms, movable: np.ndarray | None) -> None:
    """Give ``atoms`` the constraints that :func:`movable_mask` tells of."""
    atoms.set_constraint()
    if movable is None:
        return
    movable = np.asarray(movable, dtype=bool)
    fixed = ~movable.any(1)
    masks = sorted({tuple(row) for row in (~movable[~fixed]).tolist() if any(row)})
    constraints = [FixCartesian(np.flatnonzero((~movable == mask).all(1)), mask) for mask in masks]
    if fixed.any():
        constraints.insert(0, FixAtoms(np.flatnonzero(fixed)))
    atoms.set_constraint(constraints)


def _cartesian(atoms: Atoms, mask: np.ndarray) -> np.ndarray:
    """Cartesian directions [3] that fixing the scaled coordinates ``mask`` [3] fixes.

    Displacements that keep a scaled coordinate are normal to a reciprocal vector.
    """
    if mask.all() or not mask.any():
        return mask
    normal = atoms.cell.reciprocal()[mask]
    projector = np.linalg.pinv(normal) @ normal
    diagonal = np.diag(projector).round()
    if np.abs(projector - np.diag(diagonal)).max() > AXES_TOLERANCE:
        raise ConstraintError(
            "selective dynamics fixes a coordinate along a cell vector that is not along x, y or z; fix the atom whole"
            " or turn the cell"
        )
    return diagonal.astype(bool)
