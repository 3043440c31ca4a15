"""Diffusion in an infinite system from that in a periodic cube.

The hydrodynamic interaction of an atom with its images slows it down by ξ kT/(6πηL) (B. Dünweg and
K. Kremer, J. Chem. Phys. 99, 6983 (1993); I.-C. Yeh and G. Hummer, J. Phys. Chem. B 108, 15873 (2004)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

XI_CUBIC = 2.837297
"""ξ of a cube: the Madelung constant of a simple cubic lattice of charges in a uniform background."""

MPA_S = 1e-3 * units.Pascal * 1e15
"""eV·fs/Å³ in one mPa·s."""


@dataclass(frozen=True)
class Correction:
    """What to add to a diffusion coefficient, Å²/fs, its error, and where the viscosity is from.

    ``viscosity`` and ``viscosity_error`` are in mPa·s; ``value`` is None where there is no
    correction, and ``source`` says why.
    """

    value: float | None
    error: float
    viscosity: float | None
    viscosity_error: float
    source: str


def is_cubic(atoms: Atoms) -> bool:
    """Whether the cell is a cube, periodic in all directions."""
    lengths, angles = atoms.cell.lengths(), atoms.cell.angles()
    return bool(atoms.pbc.all() and np.ptp(lengths) < 1e-6 * lengths.max() and np.allclose(angles, 90, atol=1e-6))


def correct_size(atoms: Atoms, kt: float, viscosity: float, error: float, source: str) -> Correction:
    """The correction ξ kT/(6πηL) for the cell of ``atoms``.

    Args:
        atoms: the simulated system.
        kt: temperature, eV.
        viscosity: η, mPa·s.
        error: of η, mPa·s.
        source: where η is from.
    """
    if not is_cubic(atoms):
        return Correction(None, 0.0, viscosity, error, "none: the cell is no cube")
    if not viscosity > 0:
        return Correction(None, 0.0, viscosity, error, f"none: the viscosity is not positive ({source})")
    value = XI_CUBIC * kt / (6 * math.pi * viscosity * MPA_S * float(atoms.cell.lengths()[0]))
    return Correction(value, value * error / viscosity, viscosity, error, source)
