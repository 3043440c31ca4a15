"""Labels of two settings in one set are told from labels of one, whatever the set is made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.train import Train
from mlip.training.data import TrainingDataError
from mlip.training.label_check import check_labels
from mlip.training.mixed_settings import list_runs

TOTAL = -3.5
"""eV/atom, added to EMT's energies, which count from the elements: those of DFT are far from zero."""


def label(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy() + TOTAL * len(atoms), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results, stress=atoms.get_stress())
    return atoms


def rattle(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    strain = np.eye(3) * rng.uniform(0.97, 1.04) + rng.normal(0, 0.02, (3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.normal(0, 0.12 * rng.uniform(0.3, 1), atoms.positions.shape)
    return label(atoms)


def metal(n: int) -> list[Atoms]:
    rng = np.random.default_rng(0)
    return [rattle(bulk("Cu", cubic=True) * (2, 1, 1), rng) for _ in range(n)]


def alloy(n: int) -> list[Atoms]:
    """Nearly every one of a composition of its own."""
    rng, found = np.random.default_rng(1), []
    for k in range(n):
        atoms = bulk("Cu", cubic=True) * ((2, 1, 1) if k % 2 else (1, 2, 2))
        atoms.symbols[:] = np.where(rng.random(len(atoms)) < rng.uniform(), "Au", "Cu")
        atoms.set_cell(atoms.cell * (1 + 0.12 * float(np.mean(atoms.numbers == 79))), scale_atoms=True)
        found.append(rattle(atoms, rng))
    return found


def broad(n: int) -> list[Atoms]:
    """Crystals, surfaces and dimers in turn."""
    rng, found = np.random.default_rng(2), []
    slab = fcc111("Cu", (2, 2, 3), vacuum=7, periodic=True)
    for k in range(n):
        if k % 3 == 0:
            found.append(rattle(bulk("Cu", cubic=True) * (2, 1, 1), rng))
        elif k % 3 == 1:
            atoms = slab.copy()
            atoms.positions += rng.normal(0, 0.1 * rng.uniform(0.3, 1), atoms.positions.shape)
            found.append(label(atoms))
        else:
            found.append(label(Atoms("Cu2", [[0, 0, 0], [rng.uniform(1.9, 4), 0, 0]], cell=[12] * 3, pbc=True)))
    return found


SETS: dict[str, Callable[[int], list[Atoms]]] = {"metal": metal, "alloy": alloy, "broad": broad}


def spoil(structures: list[Atoms], half: np.ndarray, *, shift: float = 0, energy: float = 1, forces: float = 1) -> None:
    for atoms, hit in zip(structures, half, strict=True):
        if hit:
            results = atoms.calc.results
            results["energy"] = energy * results["energy"] + shift * len(atoms)
            results["forces"] = forces * results["forces"]


def halves(order: str, n: int) -> np.ndarray:
    return np.arange(n) >= n // 2 if order == "in turn" else np.random.default_rng(3).permutation(n) >= n // 2


@pytest.mark.parametrize("name", SETS)
def test_labels_of_one_kind_are_left_in_peace(name: str) -> None:
    assert not [text for text in check_labels(SETS[name](60), Train()) if "mixed" in text]


@pytest.mark.parametrize("order", ["in turn", "at random"])
@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("metal", {"shift": 0.5}, r"30 of 60 structures \(.*differ by [+-]0\.5\d* eV/atom"),
        ("metal", {"energy": 0.8}, r"energies of 30 of 60 .* or units \(a factor of (0\.8|1\.2)"),
        ("metal", {"energy": 1 / 27.2114}, "energies of 30 of 60"),
        ("metal", {"forces": 0.8}, r"forces of 30 of 60 structures .* are (0\.8|1\.2)\d* times"),
        ("alloy", {"shift": 0.5}, r"30 of 60 structures \(.*differ by [+-](0\.5|0\.49)\d* eV/atom"),
    ],
)
def test_halves_of_different_settings_are_found(name: str, order: str, change: dict[str, float], told: str) -> None:
    structures = SETS[name](60)
    spoil(structures, halves(order, 60), **change)
    with pytest.raises(TrainingDataError, match=told) as error:
        check_labels(structures, Train())
    assert "label them again" in str(error.value)


def test_following_structures_are_told_as_a_range() -> None:
    assert list_runs([0, 1, 2, 5, 7, 8]) == [(0, 2), (5, 5), (7, 8)]
    structures = metal(60)
    spoil(structures, halves("in turn", 60), shift=0.5)
    with pytest.raises(TrainingDataError, match=r"\(train\[30\] to \[59\]; Cu8\) differ by \+0\.5 eV/atom"):
        check_labels(structures, Train())


@pytest.mark.parametrize("factor", [0.4, 0.529])
def test_every_other_structure_in_another_unit_of_force_is_found(factor: float) -> None:
    """Then no structure foretells the next one's forces, and the model was taken to know nothing."""
    structures = metal(40)
    spoil(structures, np.arange(40) % 2 == 1, forces=factor)
    with pytest.raises(TrainingDataError, match=rf"forces of 20 of 40 .* are {factor:g}\d* times"):
        check_labels(structures, Train())


def test_crystals_at_rest_among_others_are_no_other_setting() -> None:
    """Their forces are rounding errors on both sides, whose ratio is as tight as it means nothing (seen in copper)."""
    moved = metal(40)
    still = [label(bulk("Cu", cubic=True, a=a)) for a in np.linspace(3.5, 3.7, 10)]
    for atoms in still:  # as where the model's own rounding errors are all of one sign
        atoms.calc.results["forces"] = 1e-9 * moved[0].calc.results["forces"][:4]
    assert not [text for text in check_labels([*still, *moved], Train()) if "mixed" in text]
    spoil(moved, np.arange(40) % 2 == 1, forces=0.5)
    with pytest.raises(TrainingDataError, match="forces of 20 of 50 structures"):
        check_labels([*still, *moved], Train())


def test_one_labeller_is_told_of_but_not_accused_of_two_settings() -> None:
    """Settings that are known to be the same cannot differ: whatever else it is, it does not stop a loop."""
    structures = metal(40)
    spoil(structures, np.arange(40) % 2 == 1, forces=0.8)
    for atoms in structures:
        atoms.info["label_settings"] = "70a715de3c587023"
    assert [text for text in check_labels(structures, Train()) if "forces of 20 of 40" in text]
    for atoms in structures[1::2]:
        atoms.info["label_settings"] = "another"
    with pytest.raises(TrainingDataError, match="forces of 20 of 40"):
        check_labels(structures, Train())
