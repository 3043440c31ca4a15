"""Teachers, training sets and closer pairs for the tests and the benchmark of behaviour at short range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.structures.neighbors import find_pairs

LEAST_RATIO = 0.82
"""Distance of the closest pairs that are tested, over the shortest one that is trained."""


@dataclass(frozen=True)
class Teacher:
    """A potential that labels a crystal.

    Attributes:
        make: its calculator.
        crystal: the ideal one.
        shortest: nearest distance of the training structures, Å.
        stdev: least and largest standard deviation of their displacements, Å.
        mixed: second element, for half of the sites.
    """

    make: Callable[[], Calculator]
    crystal: Atoms
    shortest: float
    stdev: tuple[float, float]
    mixed: str | None = None

    def rattled(self, rng: np.random.Generator, low: float, high: float, stdev: tuple[float, float]) -> Atoms:
        """A rattled crystal whose nearest distance is between ``low`` and ``high`` Å, labelled."""
        while True:
            atoms = self.crystal.copy()
            if self.mixed:
                atoms.symbols[rng.permutation(len(atoms))[: len(atoms) // 2]] = self.mixed
            atoms.positions += rng.normal(0.0, rng.uniform(*stdev), atoms.positions.shape)
            if low <= nearest(atoms) <= high:
                return self.label(atoms)

    def label(self, atoms: Atoms) -> Atoms:
        """``atoms`` with energy, forces and stress."""
        atoms.calc = self.make()
        atoms.get_forces(), atoms.get_stress()
        keys = ("energy", "forces", "stress")
        atoms.calc = SinglePointCalculator(atoms, **{key: atoms.calc.results[key] for key in keys})
        return atoms

    def training_set(self, n: int, seed: int) -> list[Atoms]:
        """``n`` rattled crystals, a quarter of them with pairs nearer than 1.08 times the shortest distance."""
        rng = np.random.default_rng(seed)
        hot = (0.8 * self.stdev[1], self.stdev[1])
        near = [self.rattled(rng, self.shortest, 1.08 * self.shortest, hot) for _ in range(n // 4)]
        return near + [self.rattled(rng, self.shortest, np.inf, self.stdev) for _ in range(n - n // 4)]

    def nearer_set(self, n: int, seed: int) -> list[Atoms]:
        """``n`` rattled crystals with pairs nearer than any of the training set."""
        rng = np.random.default_rng([seed, 1])
        hot = (self.stdev[1], 1.3 * self.stdev[1])
        return [self.rattled(rng, LEAST_RATIO * self.shortest, 0.99 * self.shortest, hot) for _ in range(n)]

    def scan(self, pair: tuple[str, str], distances: np.ndarray) -> list[Atoms]:
        """The crystal with two nearest neighbours, made a ``pair``, pushed together to ``distances`` (Å)."""
        found = find_pairs(self.crystal, 1.05 * nearest(self.crystal))
        one, other = int(found.centers[0]), int(found.neighbors[0])
        structures = []
        for distance in distances:
            atoms = self.crystal.copy()
            if self.mixed:
                atoms.symbols[1::2] = self.mixed
            atoms.symbols[[one, other]] = pair
            step = found.vectors[0] * (1 - distance / found.distances[0]) / 2
            atoms.positions[one] += step
            atoms.positions[other] -= step
            atoms.info["pair"] = (one, other)
            structures.append(self.label(atoms))
        return structures


def nearest(atoms: Atoms) -> float:
    """Shortest distance, Å."""
    return float(find_pairs(atoms, 5.0).distances.min())


def push(atoms: Atoms, forces: np.ndarray) -> float:
    """Force (eV/Å) that drives the pair of a scan apart, from ``forces`` [n_atoms, 3]."""
    one, other = (int(k) for k in atoms.info["pair"])
    found = find_pairs(atoms, 5.0)
    chosen = np.flatnonzero((found.centers == one) & (found.neighbors == other))
    vector = found.vectors[chosen[found.distances[chosen].argmin()]]
    return float((forces[other] - forces[one]) @ vector / np.linalg.norm(vector) / 2)


def lennard_jones() -> Calculator:
    """Argon, within 8 Å."""
    return LennardJones(epsilon=0.0104, sigma=3.40, rc=8.0, smooth=True)


TEACHERS = {
    "EMT Ni-Cu": Teacher(EMT, bulk("Ni", "fcc", a=3.58, cubic=True).repeat(2), 1.70, (0.05, 0.33), mixed="Cu"),
    "Lennard-Jones": Teacher(lennard_jones, bulk("Ar", "fcc", a=5.26, cubic=True).repeat(2), 2.85, (0.05, 0.33)),
}

SILICON = Path(__file__).parents[2] / "data/silicon_close_pairs.extxyz"
"""Labels of the demo's loop (GPAW, plane waves of 250 eV, PBE) and, by the same settings, of the perfect crystal with
one pair pushed together; ``split`` says what each is for."""
