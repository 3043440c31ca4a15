"""Real GPAW labels through the workflow: two shards of a primitive silicon cell, and a failing one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlip.io.extxyz import read_structures
from tests.workflow.conftest import Workflow

pytestmark = pytest.mark.gpaw
pytest.importorskip("gpaw", reason="GPAW is not installed")

SILICON = {
    "system": "si2",
    "seed": 3,
    "max_iterations": 1,
    "min_iterations": 1,
    "structures": [{"bulk": {"name": "Si", "crystalstructure": "diamond", "a": 5.43, "cubic": False}}],
    "prepare": {"n_structures": 4, "vacancies": False},
    "label": {
        "parameters": {"mode": {"name": "pw", "ecut": 200}, "xc": "PBE", "kpts": {"size": [2, 2, 2], "gamma": True}},
        "n_shards": 1,
    },
}
SHARD = "results/si2/iter_00/label_structures/shard_000"


def test_labels_are_real_and_kept(workflow: Workflow) -> None:
    workflow.write_config(SILICON)
    workflow.snakemake("--cores", "1", f"{SHARD}.extxyz")
    structures = read_structures(workflow.folder / f"{SHARD}.extxyz")
    records = json.loads((workflow.folder / f"{SHARD}.json").read_text())["records"]
    assert [r["status"] for r in records] == ["ok"] * 4
    assert all(r["core_seconds"] > 0.5 for r in records)
    # Cohesive energies of silicon in PBE, on GPAW's scale of spin-paired atoms, lie near -5 eV.
    assert all(-6.5 < a.get_potential_energy() / 2 < -2 for a in structures)
    assert all(np.abs(a.get_forces().sum(axis=0)).max() < 0.05 for a in structures)
    assert all(a.get_stress().shape == (6,) for a in structures)
    assert len({a.info["label_settings"] for a in structures}) == 1
    workflow.snakemake("--cores", "1", "--forceall", f"{SHARD}.extxyz")
    again = json.loads((workflow.folder / f"{SHARD}.json").read_text())["records"]
    assert all(r["cached"] for r in again)


def test_scf_that_never_converges_is_reported_and_stops_the_loop(workflow: Workflow) -> None:
    label = SILICON["label"] | {"escalations": [{"maxiter": 3}]}
    label["parameters"] = label["parameters"] | {"maxiter": 2}
    workflow.write_config(SILICON | {"label": label})
    done = workflow.snakemake("--cores", "1", "results/si2/iter_00/collect_dataset/dataset.json", check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "all 4 labels of this iteration failed" in text
    assert "unconverged" in text
    records = json.loads((workflow.folder / f"{SHARD}.json").read_text())["records"]
    assert [r["attempts"] for r in records] == [2] * 4


def test_missing_paw_setup_is_a_configuration_error(workflow: Workflow) -> None:
    source = {"bulk": {"name": "U", "crystalstructure": "fcc", "a": 4.9}}
    workflow.write_config(SILICON | {"structures": [source], "prepare": {"n_structures": 4}})
    done = workflow.snakemake("--cores", "1", "--retries", "0", f"{SHARD}.json", check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "PAW" in text
    assert "U" in text
