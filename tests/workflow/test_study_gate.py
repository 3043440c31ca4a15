"""The wanted error of a diffusion coefficient sets the loop's force target, from configuration to convergence.

A Lennard-Jones potential stands in for DFT, dynamics is as short as leaves a diffusion coefficient, and every other
criterion of the loop is loose: what is tested is that the force target decides.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mlip.io.netcdf import read_netcdf
from mlip.studies.diffusion.study import FORCE_RMSE, FORCE_UNCERTAINTY

from .conftest import TINY, Workflow

LAX, STRICT = 0.3, 0.00003
DIFFUSION = {
    "temperature": 150.0,
    "volume": 0.3,
    "n_atoms": 32,
    "timestep": 8.0,
    "sample_every": 2,
    "melt_temperature": 400.0,
    "equilibration": 800.0,
    "n_blocks": 4,
    "block_length": 3200.0,
    "window": 800.0,
    "member_blocks": 0,
    "n_error_samples": 40,
    "n_frames": 8,
    # The target is then what the wanted error of D asks, not a share of the RMS force.
    "max_force_ratio": 0.9,
}


def configuration(relative_error: float) -> dict:
    tiny = yaml.safe_load(TINY.read_text())
    argon = {"bulk": {"name": "Ar", "crystalstructure": "fcc", "a": 5.26}, "repeat": [2, 2, 2]}
    return tiny | {
        "collect": {"test_fraction": 0.3},
        "structures": [argon],
        "prepare": {"n_structures": 12, "volume_range": [0.0, 0.4], "vacancies": False},
        "label": {
            "calculator": "mlip.calculators.lennard_jones.LennardJones",
            "parameters": {"sigma": 3.405, "epsilon": 0.01032, "rc": 6.0},
            "isolated_atoms": {"Ar": 0.0},
            "guards": {"min_distance_factor": 0.8},
            "n_shards": 1,
        },
        "train": tiny["train"] | {"n_steps": 300, "cutoff": 6.0, "hidden": [16]},
        "explore": {"walkers": [{"ensemble": "nvt", "temperatures": [150], "volumes": [0.3]}], "n_steps": 40},
        "assess": tiny["assess"] | {"studies": ["diffusion"]},
        "studies": {"diffusion": DIFFUSION | {"relative_error": relative_error}},
    }


def assessed(loop: Workflow) -> tuple[dict, dict, float]:
    """The second iteration's assessment, its criterion on forces, and the target that the study measured."""
    folder: Path = loop.results / "iter_01"
    assessment = json.loads((folder / "assess_potential" / "assessment.json").read_text())
    criterion = next(c for c in assessment["criteria"] if c["name"] == f"diffusion: {FORCE_RMSE}")
    data = read_netcdf(folder / "studies" / "diffusion" / "property.nc")
    return assessment, criterion, float(data.force_error_target.min())


@pytest.mark.slow
def test_wanted_error_of_diffusion_decides_whether_the_loop_goes_on(tmp_path: Path) -> None:
    loop = Workflow(tmp_path, configuration(LAX))
    loop.snakemake("--cores", "2")
    assessment, lax, target = assessed(loop)
    assert lax["target"] == pytest.approx(target)
    assert lax["value"] <= lax["target"]
    assert assessment["converged"], assessment["criteria"]
    assert not loop.plan()  # two iterations of at most three

    loop.write_config(configuration(STRICT))
    loop.snakemake("--cores", "2", "results/tiny/iter_01/assess_potential/assessment.json")
    assessment, strict, target = assessed(loop)
    # σ goes as the root of the error; potential and trajectory are the same, for nothing else was changed.
    assert strict["target"] == pytest.approx(target)
    assert target == pytest.approx(lax["target"] * (STRICT / LAX) ** 0.5, rel=1e-6)
    assert strict["value"] == lax["value"] > target
    failed = {c["name"] for c in assessment["criteria"] if not c["passed"]}
    assert failed <= {f"diffusion: {FORCE_RMSE}", f"diffusion: {FORCE_UNCERTAINTY}"}
    assert not assessment["converged"]
    assert {("02", "label_structures"), ("02", "train_committee"), ("02", "measure_study")} <= set(loop.plan())
