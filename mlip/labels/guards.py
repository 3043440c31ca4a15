"""Sanity checks of structures before DFT and of labels before they become data."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from mlip.config.label import Guards
from mlip.labels.codes.registry import find_code
from mlip.structures.geometry import geometry_fault, min_distance_ratio

MIN_VOLUME = 0.1  # Å³/atom, far below any solid


def check_structure(atoms: Atoms, guards: Guards) -> str | None:
    """Why ``atoms`` must not go to DFT, or None when nothing speaks against it."""
    if len(atoms) == 0:
        return "the structure has no atoms"
    fault = geometry_fault(atoms)
    if fault:
        return fault
    if atoms.pbc.all() and atoms.get_volume() < MIN_VOLUME * len(atoms):
        return f"the cell has {atoms.get_volume():.3g} Å³, less than {MIN_VOLUME} Å³/atom"
    ratio = min_distance_ratio(atoms)
    if ratio < guards.min_distance_factor:
        return (
            f"atoms too close: shortest distance is {ratio:.3f} of the sum of covalent radii,"
            f" label.guards.min_distance_factor is {guards.min_distance_factor:g}"
        )
    return None


def check_results(results: dict[str, Any], n_atoms: int, guards: Guards) -> str | None:
    """Why ``results`` (energy eV, forces [n_atoms, 3] eV/Å, stress [6] eV/Å³ or None) are no data, or None."""
    forces = np.asarray(results["forces"], dtype=float)
    if not np.isfinite(results["energy"]):
        return "the energy is not finite"
    if forces.shape != (n_atoms, 3):
        return f"forces have shape {forces.shape}, expected ({n_atoms}, 3)"
    if not np.isfinite(forces).all():
        return "forces are not finite"
    if results.get("stress") is not None:
        stress = np.asarray(results["stress"], dtype=float)
        if stress.shape != (6,) or not np.isfinite(stress).all():
            return "the stress is not six finite numbers"
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest > guards.max_force:
        return f"largest force {largest:.3g} eV/Å exceeds label.guards.max_force ({guards.max_force:g})"
    drift = float(np.linalg.norm(forces.sum(axis=0))) / n_atoms
    if drift > guards.max_force_sum:
        return (
            f"forces sum to {drift:.3g} eV/Å per atom, label.guards.max_force_sum is {guards.max_force_sum:g};"
            " the cutoff or grid is too coarse, raise it"
        )
    return None


def find_traps(atoms: Atoms, calculator: str, parameters: dict[str, Any]) -> list[str]:
    """Settings that DFT codes accept silently and that often give wrong labels."""
    return find_code(calculator).traps(atoms, parameters)
