"""What codes accept silently of metals and magnets: settings with which the labels are another material's."""

from __future__ import annotations

from typing import Any

MAGNETIC = frozenset({"Cr", "Mn", "Fe", "Co", "Ni"})
"""Elements whose metals or common compounds have moments."""
NO_METALS = frozenset(
    ("H", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar", "Ge", "As", "Se", "Br", "Kr", "Sb", "Te")
    + ("I", "Xe", "At", "Rn")
)
"""Nonmetals and metalloids."""


def find_missing_moments(atoms: Any, has_spin: bool) -> list[str]:
    """That ``atoms`` of a magnetic element are treated without spin; nothing where ``has_spin``."""
    magnetic = sorted(MAGNETIC & set(atoms.get_chemical_symbols()))
    if not magnetic or has_spin:
        return []
    return [f"{', '.join(magnetic)} without initial magnetic moments: the result is non-magnetic"]


def find_fixed_occupations(atoms: Any, setting: str, remedy: str) -> list[str]:
    """That ``setting`` fixes the occupations of a metal, and ``remedy`` smears them; nothing for what has a gap."""
    return [f"{setting}: the occupations of a metal are fixed; set {remedy}"] if is_metal(atoms) else []


def is_metal(atoms: Any) -> bool:
    """Whether ``atoms`` are periodic, all of metallic elements, and no isolated atom."""
    from mlip.structures.geometry import is_lone

    if not atoms.pbc.any() or set(atoms.get_chemical_symbols()) & NO_METALS:
        return False
    return not is_lone(atoms)
