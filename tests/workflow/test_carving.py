"""A loop that explores supercells and labels what is new in them in carved cells."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlip.io.extxyz import read_structures
from mlip.io.files import read_json, read_table
from tests.workflow.conftest import TINY, Workflow

CARVE = {"core": 1.0, "learn": "core", "tolerance": 0.1}


def config(**carve: float) -> dict:
    values = yaml.safe_load(TINY.read_text())
    values["structures"] = [{"bulk": {"name": "Cu", "crystalstructure": "fcc", "a": 3.61, "cubic": True}}]
    values["train"]["cutoff"] = 3.0
    values["explore"] |= {"n_steps": 20, "walkers": [{"repeat": [4, 4, 4], "temperatures": [600], "start": "ideal"}]}
    values["select"] |= {"max_atoms": 256, "carve": CARVE | carve}
    return values | {"max_iterations": 2, "min_iterations": 2}


def test_whether_forces_decay_is_measured_only_where_cells_are_carved(tmp_path: Path) -> None:
    carving, plain = config(), config()
    plain["select"].pop("carve")
    names = [{rule for _, rule in Workflow(tmp_path, values).plan()} for values in (carving, plain)]
    assert "measure_locality" in names[0]
    assert names[0] - {"measure_locality"} == names[1]


@pytest.mark.slow
def test_supercells_teach_through_carved_cells(tmp_path: Path) -> None:
    loop = Workflow(tmp_path, config())
    loop.snakemake("--cores", "2")
    locality = read_json(loop.results / "iter_00/measure_locality/locality.json")
    assert locality["structures"]["0"]["passed"], locality
    assert locality["structures"]["0"]["n_atoms"] == [108, 256]
    candidates = read_structures(loop.results / "iter_00/select_candidates/candidates.extxyz")
    taught = [a for a in candidates if a.info["reason"] == "uncertain"]
    assert taught
    assert all("force_mask" in a.arrays and len(a) == 108 for a in taught)
    assert [len(a) for a in candidates if a.info["reason"] == "audit"] == [256, 256]
    decisions = read_table(loop.results / "iter_00/select_candidates/decisions.csv")
    reasons = decisions.reason[decisions.decision == "uncertain"]
    assert reasons.str.contains("108 of 256 atoms, carved around atom").all()
    train = read_structures(loop.results / "iter_01/collect_dataset/train.extxyz")
    carved = [a for a in train if "force_mask" in a.arrays]
    assert {a.info["structure_id"] for a in carved} == {a.info["structure_id"] for a in taught}
    assert all(set(a.calc.results) == {"energy", "forces"} and a.arrays["force_mask"].any() for a in carved)
    trained = read_json(loop.results / "iter_01/train_committee/training.json")
    assert trained["n_train"] == len(train)
    assert trained["train_errors"]["n_structures"] == len(train) - len(carved)
    assert read_json(loop.results / "iter_01/assess_potential/assessment.json")["fresh"]["n_structures"] == len(
        candidates
    )
    assert (loop.results / "report.html").exists()
    shown = [sys.executable, "-m", "mlip", "status", str(loop.config_file)]
    assert subprocess.run(shown, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert loop.plan() == []


@pytest.mark.slow
def test_where_forces_do_not_decay_whole_cells_are_labelled(tmp_path: Path) -> None:
    loop = Workflow(tmp_path, config(tolerance=0.0))
    target = f"results/{loop.config['system']}/iter_00/select_candidates/candidates.extxyz"
    loop.snakemake("--cores", "2", target)
    found = read_json(loop.results / "iter_00/measure_locality/locality.json")["structures"]["0"]
    assert not found["passed"]
    assert found["relative"] > 0
    assert {len(a) for a in read_structures(loop.folder / target)} == {256}
