"""Short distances: a potential has to repel wherever atoms are pressed together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list

from mlip.structures.geometry import make_supercell

CLOSEST = 0.5
"""Å, where compression ends: no collision at a temperature of interest comes nearer."""
SPACING = 0.02
"""Å between the points of a compression curve; narrower holes cannot trap an atom for long."""
COMPRESSED_START = 0.97
"""Share of the equilibrium's distance at which uniform compression starts: the pressure surely is positive."""


@dataclass(frozen=True)
class Compression:
    """Energies along a path of decreasing distance.

    ``distances`` [n] Å, decreasing; ``energies`` [n] eV above the first; ``pushes`` [n], what
    drives the atoms apart: a force in eV/Å or a pressure in eV/Å³ (``push_unit``), NaN where
    the potential has none.
    """

    name: str
    distances: np.ndarray
    energies: np.ndarray
    pushes: np.ndarray
    push_unit: str

    @property
    def hole(self) -> float:
        """How far the energy falls anywhere on the way in, eV; infinite where it is not finite."""
        if not np.isfinite(self.energies).all():
            return math.inf
        return float((np.maximum.accumulate(self.energies) - self.energies).max())

    @property
    def weakest_push(self) -> float | None:
        """Smallest push on the way in; negative where atoms are drawn together; None without one."""
        if np.isnan(self.pushes).all():
            return None
        return float(self.pushes.min()) if np.isfinite(self.pushes).all() else -math.inf


def shortest_distances(structures: Sequence[Atoms]) -> dict[tuple[str, str], float]:
    """Shortest distance in Å of every pair of species that is near anywhere in ``structures``."""
    shortest: dict[tuple[str, str], float] = {}
    for atoms in structures:
        symbols = np.array(atoms.get_chemical_symbols())
        reach = {pair: 1.5 * _covalent_sum(*pair) for pair in _pairs(atoms)}
        i, j, distances = neighbor_list("ijd", atoms, max(reach.values()))
        for pair in reach:
            of_pair = distances[np.isin(symbols[i], pair[:1]) & np.isin(symbols[j], pair[1:])]
            if len(of_pair):
                shortest[pair] = min(shortest.get(pair, np.inf), float(of_pair.min()))
    return shortest


def compress_everything(
    crystal: Atoms, calculator: Any, shortest: Mapping[tuple[str, str], float]
) -> list[Compression]:
    """Dimers, single pairs in the crystal and the whole crystal, from known distances to ``CLOSEST``.

    Args:
        crystal: crystal (or molecule) at equilibrium, of any size.
        calculator: ASE calculator.
        shortest: shortest distance in the training data per sorted pair of species. Where it is
            longer than the sum of the covalent radii, or missing, that sum takes its place: a
            free dimer may well be shorter than the bonds of a crystal.
    """
    starts = {pair: min(shortest.get(pair, np.inf), _covalent_sum(*pair)) for pair in _pairs(crystal)}
    supercell = make_supercell(crystal, 48)
    curves: list[Compression | None] = [compress_dimer(pair, calculator, start) for pair, start in starts.items()]
    curves += [compress_pair(supercell, calculator, pair, start) for pair, start in starts.items()]
    return [curve for curve in [*curves, compress_uniformly(crystal, calculator)] if curve is not None]


def compress_dimer(pair: tuple[str, str], calculator: Any, start: float) -> Compression:
    """Two atoms alone, from ``start`` Å inwards."""
    structures = [Atoms("".join(pair), positions=[[0, 0, 0], [d, 0, 0]]) for d in _path(start)]
    return _measure(f"{'–'.join(pair)} dimer", structures, _path(start), calculator, (0, 1))


def compress_pair(crystal: Atoms, calculator: Any, pair: tuple[str, str], start: float) -> Compression | None:
    """The nearest two atoms of ``pair`` in ``crystal`` pushed together, their midpoint and all else at rest.

    None when the crystal holds no such two atoms other than images of each other.
    """
    symbols = np.array(crystal.get_chemical_symbols())
    first, others = int(np.flatnonzero(symbols == pair[0])[0]), np.flatnonzero(symbols == pair[1])
    others = others[others != first]
    if not len(others):
        return None
    vectors, lengths = find_mic(crystal.positions[others] - crystal.positions[first], crystal.cell, crystal.pbc)
    second, vector = int(others[lengths.argmin()]), vectors[lengths.argmin()]
    direction, distances = vector / np.linalg.norm(vector), _path(start)
    structures = []
    for distance in distances:
        atoms = crystal.copy()
        middle = crystal.positions[first] + vector / 2
        atoms.positions[first], atoms.positions[second] = (
            middle - direction * distance / 2, middle + direction * distance / 2,
        )  # fmt: skip
        structures.append(atoms)
    return _measure(f"{'–'.join(pair)} pair in the crystal", structures, distances, calculator, (first, second))


def compress_uniformly(crystal: Atoms, calculator: Any) -> Compression | None:
    """All of ``crystal`` scaled down, from near equilibrium until its shortest distance is ``CLOSEST``.

    None for a single atom.
    """
    nearest = _nearest(crystal)
    if nearest is None:
        return None
    distances = _path(COMPRESSED_START * nearest)
    structures = []
    for distance in distances:
        atoms = crystal.copy()
        atoms.set_cell(atoms.cell.array * distance / nearest)
        atoms.positions *= distance / nearest
        structures.append(atoms)
    return _measure("uniform compression", structures, distances, calculator, None)


def _nearest(atoms: Atoms) -> float | None:
    """Shortest distance in Å, periodic images included; None without one below 50 Å."""
    cutoff = 2.0
    while cutoff < 50.0:
        distances = neighbor_list("d", atoms, cutoff)
        if len(distances):
            return float(distances.min())
        cutoff *= 1.5
    return None


def _measure(
    name: str, structures: Sequence[Atoms], distances: np.ndarray, calculator: Any, pair: tuple[int, int] | None
) -> Compression:
    energies, pushes = [], []
    for atoms in structures:
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        if pair is not None:
            i, j = pair
            outward = find_mic(atoms.positions[j] - atoms.positions[i], atoms.cell, atoms.pbc)[0]
            forces = atoms.get_forces(apply_constraint=False)
            pushes.append((forces[j] - forces[i]) @ outward / np.linalg.norm(outward) / 2)
        else:
            pushes.append(-atoms.get_stress()[:3].mean() if atoms.pbc.all() else np.nan)
    values = np.array(energies)
    return Compression(name, distances, values - values[0], np.array(pushes), "eV/Å" if pair else "eV/Å³")


def _path(start: float) -> np.ndarray:
    return np.linspace(start, CLOSEST, max(2, math.ceil((start - CLOSEST) / SPACING) + 1))


def _pairs(atoms: Atoms) -> list[tuple[str, str]]:
    return list(combinations_with_replacement(sorted(set(atoms.get_chemical_symbols())), 2))


def _covalent_sum(first: str, second: str) -> float:
    return float(covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]])
