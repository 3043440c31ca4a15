"""Cells are carved only where the labeller's forces decay."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip.config.label import Label
from mlip.config.loop import Carve
from mlip.config.structures import StartingStructure
from mlip.config.walkers import Demand
from mlip.io.files import read_json
from mlip.loop.measure_locality import carve_twice, list_large_cells, measure_locality

SALT = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
CARVE = Carve(core=2.9, max_share=0.5, tolerance=0.05)


def measure(tmp_path: Path, calculator: str, parameters: dict, cells: list[tuple[int, Atoms]], **carve: float) -> dict:
    out = tmp_path / "locality.json"
    carving = CARVE.model_copy(update=carve)
    measure_locality(
        cells,
        Label(calculator=calculator, parameters=parameters, escalations=()),
        carving,
        cutoff=3.5,
        seed=3,
        store=tmp_path / "store",
        out=out,
    )
    return read_json(out)


def test_a_short_ranged_labeller_passes(tmp_path: Path) -> None:
    # Pair forces on the core, 2.9 Å wide, reach to 6.4 Å: no farther than what is kept as it is.
    parameters = {"epsilon": 0.05, "sigma": 2.5, "rc": 3.5, "smooth": True}
    found = measure(tmp_path, "ase.calculators.lj.LennardJones", parameters, [(0, SALT.repeat(4))])
    assert found["radius"] == pytest.approx(6.4)
    result = found["structures"]["0"]
    assert result["passed"], result
    assert result["difference"] < 1e-9
    assert result["rms_force"] > 0.01
    assert result["n_atoms"] == [216, 512]
    assert result["n_core"] >= 4


def test_charges_that_nothing_screens_are_refused_with_the_numbers(tmp_path: Path) -> None:
    cells = [(0, SALT.repeat(4))]
    result = measure(tmp_path, "tests.fake_calculators.BareCoulomb", {}, cells)["structures"]["0"]
    assert not result["passed"], result
    assert result["relative"] > 0.05
    assert f"{result['relative']:.1%} where select.carve.tolerance is 5.0%" in result["reason"]
    assert "cells of 216 and 512" in result["reason"]


def test_cells_that_cannot_be_carved_and_labels_that_fail_do_not_pass(tmp_path: Path) -> None:
    springs = {"behaviours": {"216": "raise ValueError no luck"}}
    cells = [(0, SALT.copy()), (2, SALT.repeat(4))]
    found = measure(tmp_path, "tests.fake_calculators.SpringCalculator", springs, cells)["structures"]
    assert not found["0"]["passed"]
    assert "cells of 8 atoms leave 100% of them" in found["0"]["reason"]
    assert not found["2"]["passed"]
    assert "a label of the test failed" in found["2"]["reason"]


def test_both_cells_hold_the_same_core() -> None:
    pair = carve_twice(SALT.repeat(4), CARVE, 6.4, seed=1, number=0)
    assert not isinstance(pair, str)
    small, large = (atoms[atoms.arrays["force_mask"]] for atoms in pair)
    assert small.numbers.tolist() == large.numbers.tolist()
    shift = (small.positions - large.positions) @ np.linalg.inv(pair[1].cell.array)
    assert np.allclose(shift, np.round(shift), atol=1e-9)


def test_the_largest_cell_that_would_be_labelled_whole_is_the_one_to_test() -> None:
    copper = StartingStructure(bulk={"name": "Cu", "crystalstructure": "fcc", "a": 3.61, "cubic": True})
    base = {"source_number": 0, "ensemble": "nvt", "is_pressed": False}
    demands = [Demand(repeat=(n, n, n), **base) for n in (1, 2, 3)]
    assert [len(cell) for _, cell in list_large_cells([copper, copper], demands, None)] == [4, 4]
    assert [len(cell) for _, cell in list_large_cells([copper, copper], demands, 50)] == [32, 4]
