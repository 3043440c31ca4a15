"""This package's potential for the speed measurement."""

from __future__ import annotations

from pathlib import Path

from ase.calculators.calculator import Calculator

from mlip.potential import load_potential
from mlip.potential.calculator import MLIPCalculator


def load_calculator(folder: Path, device: str) -> Calculator:
    """ASE calculator in single precision; a committee with every member's forces and its uncertainty."""
    potential = load_potential(folder, device, "single")
    return MLIPCalculator(potential, uncertainty=potential.n_members > 1)
