"""Vibrations of the ends and of the saddle, and the rate that follows from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms, units
from scipy.linalg import null_space

from mlip.io.constraints import movable_mask
from mlip.structures.kinds import dissect
from mlip.studies.neb.path import Evaluate

STEP = 0.01
"""Å: displacement of the central differences."""
TERAHERTZ = 1e-12 * units.second
"""ASE's unit of frequency in THz."""


def vibrate(atoms: Atoms, evaluate: Evaluate) -> np.ndarray:
    """Frequencies (THz), ascending, imaginary ones negative, of the coordinates that may move, by central differences.

    Motions of the whole are left out: where nothing is fixed, translations, and of finite matter rotations.
    """
    free = _free(atoms)
    coordinates = np.flatnonzero(free)
    displaced = []
    for coordinate in coordinates:
        for sign in (1, -1):
            copy = atoms.copy()
            copy.set_constraint()
            copy.positions.ravel()[coordinate] += sign * STEP
            displaced.append(copy)
    forces = np.array([result[1].ravel()[free] for result in evaluate(displaced)])
    hessian = (forces[1::2] - forces[::2]) / (2 * STEP)
    masses = np.repeat(atoms.get_masses(), 3)[free]
    weighted = (hessian + hessian.T) / 2 / np.sqrt(masses[:, None] * masses)
    basis = _internal(atoms, free, masses)
    squares = np.linalg.eigvalsh(basis.T @ weighted @ basis)
    return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)) / (2 * np.pi) * TERAHERTZ)


def _free(atoms: Atoms) -> np.ndarray:
    movable = movable_mask(atoms)
    return np.ones(3 * len(atoms), bool) if movable is None else movable.ravel()


def _internal(atoms: Atoms, free: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Mass-weighted unit vectors [n_free, n] across the motions of the whole."""
    if not free.all():
        return np.eye(len(masses))
    whole = [np.tile(axis, len(atoms)) for axis in np.eye(3)]
    if dissect(atoms).kind == "molecule":
        centred = atoms.positions - atoms.get_center_of_mass()
        whole += [np.cross(axis, centred).ravel() for axis in np.eye(3)]
    rows = np.array(whole) * np.sqrt(masses)
    return np.asarray(null_space(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12), rcond=1e-3))


def log_prefactor(end: np.ndarray, saddle: np.ndarray) -> float:
    """ln of the attempt frequency (1/s): Vineyard's product of an end's frequencies over the saddle's real ones.

    Both in THz, as :func:`vibrate` has them. NaN where the end is no minimum or the saddle has not one imaginary mode.
    G. H. Vineyard, J. Phys. Chem. Solids 3, 121 (1957).
    """
    if (end <= 0).any() or n_imaginary(saddle) != 1 or len(end) != len(saddle):
        return float("nan")
    return float(np.log(end).sum() - np.log(saddle[1:]).sum() + np.log(1e12))


def n_imaginary(frequencies: np.ndarray) -> int:
    """How many of them are."""
    return int((frequencies < 0).sum())


def log_rates(barrier: float, log_attempts: float, temperatures: Sequence[float]) -> np.ndarray:
    """ln k (k in 1/s) of harmonic transition-state theory over a barrier (eV), [n_temperatures]."""
    return log_attempts - barrier / (units.kB * np.asarray(temperatures, float))


def log_rate_std(barrier_std: float, temperatures: Sequence[float]) -> np.ndarray:
    """Standard deviation of ln k, [n_temperatures], for one of the barrier (eV): Var ln k = β² σ_E²."""
    return barrier_std / (units.kB * np.asarray(temperatures, float))
