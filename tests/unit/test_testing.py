"""The laws of :mod:`mlip.testing` hold any potential, and say what is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from mlip.potential.interface import Potential, Prediction, summarise
from mlip.potential.uncertainty import Calibration, Spread
from mlip.structures.neighbors import find_pairs
from mlip.testing import LAWS, Case, LawBroken, broken_laws, expect_close


class PairPotential(Potential):
    """Pairs repel as a power of one minus distance over cutoff, each element with a charge of its own.

    ``twist`` of the forces, ``drift`` of the energy along x (eV/Å) and ``power`` break laws.
    """

    def __init__(self, twist: float = 1.0, drift: float = 0.0, power: int = 4) -> None:
        self.species, self.cutoff, self.n_members, self.calibration = ("Ar", "Ne"), 6.0, 2, Calibration()
        self.twist, self.drift, self.power = twist, drift, power

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> list[Prediction]:
        return [self._predict(atoms) for atoms in structures]

    def _predict(self, atoms: Atoms) -> Prediction:
        pairs = find_pairs(atoms, self.cutoff)
        charges = np.where(atoms.numbers == 10, 1.0, 1.7)
        strength = 8.0 * charges[pairs.centers] * charges[pairs.neighbors]
        rest = 1.0 - pairs.distances / self.cutoff
        slopes = -self.power * strength * rest ** (self.power - 1) / self.cutoff
        pulls = (slopes / pairs.distances)[:, None] * pairs.vectors
        forces = np.zeros((2, len(atoms), 3))
        np.add.at(forces, (slice(None), pairs.centers), self.twist * pulls)
        energy = 0.5 * (strength * rest**self.power).sum() + self.drift * atoms.positions[:, 0].sum()
        energies = np.array([energy, energy])
        strain = 0.5 * np.einsum("px,py->xy", pulls, pairs.vectors)
        return summarise(atoms, self.calibration, energies, forces, strain, Spread.of_members(energies, forces))

    def member(self, index: int) -> Potential:
        return self

    def describe(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError


CASE = Case(PairPotential(), {"Ne": 0.0, "Ar": 0.0}, n_layers=0, elements=("Ne", "Ar"), scale=1.1)


def test_a_potential_of_another_kind_and_of_other_elements_obeys_every_law() -> None:
    assert broken_laws(CASE) == {}


@pytest.mark.parametrize(
    ("mistake", "broken"),
    [
        ({"twist": 1.01}, {"forces_are_gradients"}),
        ({"drift": 0.02}, {"forces_are_gradients", "translation_and_wrapping", "rotation", "extensivity"}),
        ({"power": 2}, {"second_derivatives"}),
    ],
)
def test_each_mistake_breaks_its_laws(mistake: dict[str, float], broken: set[str]) -> None:
    case = replace(CASE, potential=PairPotential(**mistake))
    assert broken <= set(broken_laws(case))


def test_a_broken_law_tells_numbers_and_tolerance() -> None:
    case = replace(CASE, potential=PairPotential(twist=1.01))
    with pytest.raises(LawBroken, match=r"force x \(eV/Å\) on atom 0 .* apart .* tolerance 0\.000101"):
        LAWS["forces_are_gradients"](case)


def test_what_is_not_a_number_or_has_another_shape_is_no_agreement() -> None:
    with pytest.raises(LawBroken, match="x: nan where 1"):
        expect_close("x", [np.nan], [1.0], atol=1.0)
    with pytest.raises(LawBroken, match="shape"):
        expect_close("x", np.zeros((2, 3)), np.zeros(3), atol=1.0)
