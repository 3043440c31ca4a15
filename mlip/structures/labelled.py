"""Labels that structures carry, as potentials learn and are judged by them: whole, and of one kind.

ASE's own accessors answer for a relaxation or MD. They set the forces of fixed atoms to zero, and give
the energy extrapolated to zero smearing where there is one; neither is what a potential has to learn.

Of a carved cell (:mod:`mlip.structures.carving`) the column ``force_mask`` says which atoms' forces are to be learnt;
its energy, which is of no structure that anybody asked for, is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

FORCE_MASK = "force_mask"
"""Column [n_atoms] bool of a carved cell: whether an atom's force is to be learnt."""


def is_carved(atoms: Atoms) -> bool:
    """Whether only some of the forces of ``atoms`` count, and neither energy nor stress."""
    return FORCE_MASK in atoms.arrays


def force_mask(atoms: Atoms) -> np.ndarray:
    """Which atoms' forces count, [n_atoms] bool; all of them in a structure that is whole."""
    if not is_carved(atoms):
        return np.ones(len(atoms), bool)
    return np.asarray(atoms.arrays[FORCE_MASK], bool)


def without_carved(structures: Sequence[Atoms]) -> list[Atoms]:
    """The structures all of whose labels count."""
    return [atoms for atoms in structures if not is_carved(atoms)]


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
        source: float(np.mean([np.mean(labelled_forces(atoms)[force_mask(atoms)] ** 2) for atoms in own]))
        for source, own in split_by_source(structures).items()
    }


def _results(atoms: Atoms) -> dict[str, Any]:
    return getattr(atoms.calc, "results", None) or {}
