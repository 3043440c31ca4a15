"""Labels of many structures are judged by a sample, whose size is bounded."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.train import Train
from mlip.training import label_check
from mlip.training.data import TrainingDataError


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
