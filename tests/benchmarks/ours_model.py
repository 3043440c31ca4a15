"""This package's potential for the speed measurement."""

from __future__ import annotations

from pathlib import Path

from ase.calculators.calculator import Calculator

from mlip.calculator import load_calculator as load


def load_calculator(folder: Path, device: str) -> Calculator:
    """ASE calculator of a trained potential."""
    return load(folder, device)
