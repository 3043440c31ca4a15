"""The crystal whose constants are measured, at the equilibrium of whoever is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from mlip.properties.equilibrium import at_equilibrium
from mlip.properties.symmetry import PropertyError, find_symmetry

MAX_STEPS = 300
CUBIC = range(195, 231)  # space groups


def find_equilibrium(
    structure: Atoms, calculator: Any, references: Sequence[Atoms] = (), *, by_energy: bool = False, fmax: float = 1e-5
) -> Atoms:
    """``structure`` relaxed, cell and atoms, with its symmetry.

    Args:
        structure: periodic in three directions.
        calculator: any ASE calculator.
        references: the crystal at several volumes; their geometry alone is used.
        by_energy: take a cubic crystal's volume from the energies of ``references``: plane waves' stress
            has a basis-set error that energies at fixed cut-off share less of.
        fmax: force, and stress times volume per atom, at which relaxation ends, eV/Å.

    Raises:
        PropertyError: when there is no equilibrium.
    """
    crystal = structure.copy()
    crystal.info = {}
    cubic = find_symmetry(structure).number in CUBIC
    scan = by_energy and cubic and bool(references)
    if scan:
        crystal = at_equilibrium(references, [_energy(atoms, calculator) for atoms in references])
    crystal.calc = calculator
    if not scan and not BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=fmax, steps=MAX_STEPS):
        raise PropertyError(
            f"{structure.get_chemical_formula()}: cell and atoms did not relax to {fmax} eV/Å in {MAX_STEPS} "
            "steps: the crystal is unstable for this calculator, or its forces are too noisy; raise fmax"
        )
    crystal.calc = None
    return crystal


def _energy(atoms: Atoms, calculator: Any) -> float:
    copy = atoms.copy()
    copy.calc = calculator
    return float(copy.get_potential_energy())
