"""Labels of many structures are judged by a sample, whose size is bounded."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.train import Train
from mlip.training import label_check
from mlip.training.data import TrainingDataError
from mlip.training.sanity import check_placeholders


def test_a_sample_of_many_structures_is_judged_and_told_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, structures, judged = np.random.default_rng(0), [], []
    for _ in range(60):  # harmonic about the lattice, with forces of the wrong sign
        atoms = bulk("Cu", cubic=True)
        moves = rng.normal(0.0, 0.08, (4, 3))
        moves -= moves.mean(axis=0)
        atoms.positions += moves
        atoms.calc = SinglePointCalculator(atoms, energy=1.5 * float((moves**2).sum()), forces=3.0 * moves)
        structures.append(atoms)
    check = label_check.check_consistency

    def count(chosen: list[object], *rest: object) -> list[str]:
        judged.append(len(chosen))
        return check(chosen, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(label_check, "check_consistency", count)
    monkeypatch.setattr(label_check, "MOST_ATOMS", 120)
    with pytest.raises(TrainingDataError, match="wrong sign"):
        label_check.check_labels(structures, Train())
    assert judged == [29], "4 atoms each: those before the limit is reached"
    monkeypatch.setattr(label_check, "MOST_ATOMS", 240)
    with pytest.raises(TrainingDataError, match="wrong sign"):
        label_check.check_labels(structures, Train())
    assert judged == [29, 60]


def with_labels(atoms: Atoms, **changed: object) -> Atoms:
    copy = Atoms("Cu4", positions=atoms.positions, cell=atoms.cell, pbc=True)
    copy.calc = SinglePointCalculator(copy, **(atoms.calc.results | changed))
    return copy


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"energy": -1.0}, "exactly the same energy and different forces"),
        ({"forces": np.zeros((4, 3))}, "forces of exactly zero though nothing holds their atoms"),
        ({"stress": np.zeros(6)}, "a stress of exactly zero"),
    ],
)
def test_labels_that_were_filled_in_are_refused(alloys, changed, words):
    """Exports of data without forces or stresses often write zeros."""
    assert not check_placeholders(alloys, "train")
    filled = [with_labels(atoms, **changed) for atoms in alloys]
    (found,) = check_placeholders(filled, "train")
    assert words in found
    assert not check_placeholders([*filled[:4], *alloys[4:]], "train"), "four may be meant"


@pytest.mark.parametrize("element", ["Cu", "Ti", "Si"])
def test_crystals_whose_forces_vanish_by_symmetry_are_taken(element):
    """Of an equation of state all forces are zero, and at one volume the stress; copies turned have one energy."""
    crystals = []
    for scale in np.linspace(0.9, 1.1, 11):
        atoms = bulk(element) * (2, 2, 2)
        atoms.set_cell(scale * atoms.cell.array, scale_atoms=True)
        stress = (scale - 1.0) * np.ones(6)
        crystals.append(atoms)
        labels = {"energy": (scale - 1) ** 2, "forces": np.zeros((len(atoms), 3)), "stress": stress}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    assert not check_placeholders(crystals, "train")
    assert not check_placeholders([crystals[5]] * 10, "train")
