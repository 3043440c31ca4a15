"""The wanted error of a diffusion coefficient sets the loop's force target, from configuration to assessment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mlip.trajectory import read_netcdf

from .conftest import TINY, Workflow

DIFFUSION = {
    "temperature": 150.0,
    "volume": 0.3,
    "n_atoms": 32,
    "timestep": 8.0,
    "sample_every": 2,
    "melt_temperature": 400.0,
    "equilibration": 800.0,
    "n_blocks": 4,
    "block_length": 1600.0,
    "member_blocks": 0,
    "n_error_samples": 40,
    "n_frames": 8,
}
FORCES = "diffusion: force RMSE on unseen labels, as D demands (eV/Å)"


def configuration(relative_error: float) -> dict:
    tiny = yaml.safe_load(TINY.read_text())
    argon = {"bulk": {"name": "Ar", "crystalstructure": "fcc", "a": 5.26}, "repeat": [2, 2, 2]}
    return tiny | {
        "max_iterations": 1,
        "min_iterations": 1,
        "structures": [argon],
        "prepare": {"n_structures": 12, "volume_range": [0.0, 0.4], "vacancies": False},
        "label": {
            "calculator": "mlip.lennard_jones.LennardJones",
            "parameters": {"sigma": 3.405, "epsilon": 0.01032, "rc": 6.0},
            "isolated_atoms": {"Ar": 0.0},
            "guards": {"min_distance_factor": 0.8},
        },
        "train": tiny["train"] | {"n_steps": 300, "cutoff": 6.0, "hidden": [16]},
        "explore": {"walkers": [{"ensemble": "nvt", "temperatures": [150], "volumes": [0.3]}], "n_steps": 40},
        "assess": tiny["assess"] | {"studies": ["diffusion"]},
        "studies": {"diffusion": DIFFUSION | {"relative_error": relative_error}},
    }


def force_criterion(loop: Workflow) -> tuple[dict, dict, float]:
    """The assessment, its criterion on forces, and the target that the study measured."""
    folder: Path = loop.results / "iter_00"
    assessment = json.loads((folder / "assess_potential" / "assessment.json").read_text())
    criterion = next(c for c in assessment["criteria"] if c["name"] == FORCES)
    data = read_netcdf(folder / "studies" / "diffusion" / "property.nc")
    return assessment, criterion, float(data.force_error_target.min())


@pytest.mark.slow
def test_wanted_error_of_diffusion_is_the_loop_s_force_target(tmp_path: Path) -> None:
    loop = Workflow(tmp_path, configuration(0.05))
    loop.snakemake("--cores", "2")
    assessment, strict, target = force_criterion(loop)
    assert strict["target"] == pytest.approx(target)
    assert strict["passed"] == (strict["value"] <= target)
    assert not assessment["converged"]
    loop.write_config(configuration(0.0125))
    loop.snakemake("--cores", "2")
    _, stricter, target = force_criterion(loop)
    assert stricter["target"] == pytest.approx(target)
    # sigma goes as the root of the error; the same trajectory, for nothing else was changed.
    assert stricter["target"] == pytest.approx(strict["target"] / 2, rel=1e-6)
    assert stricter["value"] == strict["value"]
