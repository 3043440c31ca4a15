"""Labels that structures carry, as potentials learn and are judged by them: whole, and of one kind.

ASE's own accessors answer for a relaxation or MD. They set the forces of fixed atoms to zero, and give
the energy extrapolated to zero smearing where there is one; neither is what a potential has to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms


def has_label(atoms: Atoms, name: str) -> bool:
    """Whether ``atoms`` carries ``name``; a free energy is an energy, too."""
    results = _results(atoms)
    return name in results or (name == "energy" and "free_energy" in results)


def labelled_energy(atoms: Atoms) -> float:
    """The energy (eV) that forces and stress are derivatives of: the free energy, where the label has one."""
    return atoms.get_potential_energy(force_consistent="free_energy" in _results(atoms), apply_constraint=False)


def labelled_forces(atoms: Atoms) -> np.ndarray:
    """Forces [n_atoms, 3] (eV/Å) on all atoms, constrained ones included."""
    return atoms.get_forces(apply_constraint=False)


def labelled_stress(atoms: Atoms, *, voigt: bool = True) -> np.ndarray:
    """Stress (eV/Å³), [6] in ASE's order or [3, 3], whatever symmetry a relaxation would keep."""
    return atoms.get_stress(voigt=voigt, apply_constraint=False)


def split_by_source(structures: Sequence[Atoms]) -> dict[int, list[Atoms]]:
    """``structures`` by the number of the starting structure that they come of, 0 where they do not say."""
    found: dict[int, list[Atoms]] = {}
    for atoms in structures:
        found.setdefault(int(atoms.info.get("source", 0)), []).append(atoms)
    return found


def mean_squared_forces(structures: Sequence[Atoms]) -> dict[int, float]:
    """Mean squared force component of each starting structure's labels, (eV/Å)²; structures count alike."""
    return {
        source: float(np.mean([np.mean(labelled_forces(atoms) ** 2) for atoms in own]))
        for source, own in split_by_source(structures).items()
    }


def _results(atoms: Atoms) -> dict[str, Any]:
    return getattr(atoms.calc, "results", None) or {}
