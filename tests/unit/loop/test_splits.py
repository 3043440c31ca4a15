"""Isolated atoms and sole carriers of an element train, however a validation set is drawn."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip.cli.app import _hold_out
from mlip.config.loop import Collect
from mlip.structures.roles import fill_empty_valid, hold_out, split_new, split_of


def data() -> list[Atoms]:
    lone = [Atoms(symbol, cell=[20] * 3, pbc=True) for symbol in ("Cu", "Au")]
    alloys = [bulk("CuAu", "cesiumchloride", a=3.0 + 0.01 * k) for k in range(18)]
    rare = bulk("CuPt", "cesiumchloride", a=3.1)
    found = [*lone, *alloys, rare]
    for k, atoms in enumerate(found):
        atoms.info["label_key"] = f"key {k}"
    return found


@pytest.mark.parametrize("seed", range(12))
def test_held_out_data_leave_every_element_and_every_isolated_atom(seed):
    structures = data()
    train, held = _hold_out(structures, 0.2, seed)
    assert len(held) == 4
    assert len(train) == 17
    assert [a for a in train if len(a) == 1] == structures[:2]
    assert structures[-1] in train


def test_structures_that_may_be_held_out_are_drawn_as_ever():
    structures = data()[2:-1]
    assert hold_out(structures, [3, 1, 4, 0], 3) == [3, 1, 4]
    cells = [bulk("Cu", a=3.5 + 0.01 * k) for k in range(4)]  # one atom each, and not lone
    assert hold_out(cells, [2, 0, 1, 3], 2) == [2, 0]


def test_the_loop_trains_on_isolated_atoms_and_on_what_brings_an_element():
    settings = Collect(valid_fraction=0.45, test_fraction=0.45)
    structures = data()
    splits = split_new(structures, [], settings)
    assert splits[:2] == ["train", "train"]
    assert splits[-1] == "train"
    carriers = [
        split for split, atoms in zip(splits, structures, strict=True) if len(atoms) > 1 and "Au" in atoms.symbols
    ]
    assert "train" in carriers
    assert {"valid", "test"} <= set(carriers)
    known = [bulk("CuAu", "cesiumchloride", a=3.0)]
    assert split_new(structures[2:-1], known, settings) == [split_of(atoms, settings) for atoms in structures[2:-1]]


def test_an_empty_validation_set_is_filled_with_what_training_can_spare():
    structures = data()
    splits = {"train": [structures[2], structures[3], structures[0], structures[-1]], "valid": [], "test": []}
    fill_empty_valid(splits)
    assert splits["valid"] == [structures[3]]
    assert np.array_equal([len(a) for a in splits["train"]], [2, 1, 2])
