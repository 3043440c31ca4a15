"""A loop that explores supercells and labels what is new in them in carved cells."""

from pathlib import Path

import pytest
import yaml

from mlip.io.extxyz import read_structures
from mlip.io.files import read_table
from tests.workflow.conftest import TINY, Workflow


def config() -> dict:
    values = yaml.safe_load(TINY.read_text())
    values["structures"] = [{"bulk": {"name": "Cu", "crystalstructure": "fcc", "a": 3.61, "cubic": True}}]
    values["train"]["cutoff"] = 3.0
    values["explore"] |= {"n_steps": 20, "walkers": [{"repeat": [4, 4, 4], "temperatures": [600], "start": "ideal"}]}
    values["select"] |= {"max_atoms": 256, "carve": {"core": 1.0}}
    return values | {"max_iterations": 2, "min_iterations": 2}


@pytest.mark.slow
def test_supercells_teach_through_carved_cells(tmp_path: Path) -> None:
    loop = Workflow(tmp_path, config())
    train = "iter_01/collect_dataset/train.extxyz"
    loop.snakemake("--cores", "2", f"results/{loop.config['system']}/{train}")
    candidates = read_structures(loop.results / "iter_00/select_candidates/candidates.extxyz")
    taught = [a for a in candidates if a.info["reason"] == "uncertain"]
    assert taught
    assert all(len(a) == 108 for a in taught)
    assert [len(a) for a in candidates if a.info["reason"] == "audit"] == [256, 256]
    decisions = read_table(loop.results / "iter_00/select_candidates/decisions.csv")
    reasons = decisions.reason[decisions.decision == "uncertain"]
    assert reasons.str.contains("108 of 256 atoms, carved around atom").all()
    learnt = read_structures(loop.results / train)
    assert {a.info["structure_id"] for a in taught} <= {a.info["structure_id"] for a in learnt}
    assert all(set(a.calc.results) == {"energy", "forces", "stress"} for a in learnt if len(a) == 108)
