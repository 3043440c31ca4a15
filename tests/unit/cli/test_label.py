"""`mlip label` and `mlip doctor --label`: labels by hand, through the store, and what they tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from typer.testing import CliRunner, Result

from mlip.cli.app import app
from mlip.config.system import parse_config
from mlip.doctor.labels import check_labels, plan_batches

SMALL_BASIS = "fake_calculators.SmallBasisCalculator"
KEYS = {
    "structure_id", "formula", "n_atoms", "status", "reason", "energy", "forces", "max_force", "rms_force", "stress",
    "pressure_gpa", "settings_id", "key", "cached", "wall_seconds", "core_seconds", "peak_mb", "attempts", "warnings",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.setenv("MLIP_LABEL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "140")


def configure(folder: Path, extra: str = "", **parameters: float) -> Path:
    path = folder / "copper.yaml"
    path.write_text(
        "system: copper\nmax_iterations: 3\nstructures: [{bulk: {name: Cu, a: 3.6}}]\n"
        f"label: {{calculator: {SMALL_BASIS}, parameters: {json.dumps(parameters)}}}\n{extra}"
    )
    return path


def mlip(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def crystals(folder: Path) -> Path:
    good = bulk("Cu", cubic=True)
    good.rattle(0.05, seed=2)
    close = bulk("Cu", cubic=True)
    close.set_cell(0.5 * close.cell, scale_atoms=True)
    write(folder / "some.extxyz", [good, close, good])
    return folder / "some.extxyz"


def test_one_rattled_copy_of_the_first_structure(tmp_path):
    result = mlip("label", configure(tmp_path), "--json", "--check")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    (label,) = answer["labels"]
    assert set(label) >= KEYS
    assert (label["formula"], label["status"], label["cached"]) == ("Cu4", "ok", False)
    assert 20 < label["peak_mb"] < 2000
    assert label["max_force"] == pytest.approx(np.linalg.norm(label["forces"], axis=1).max())
    assert answer["forces"]["agrees"]
    again = json.loads(mlip("label", tmp_path / "copper.yaml", "--json").stdout)["labels"][0]
    assert again["cached"]
    assert again["energy"] == label["energy"]


def test_structures_of_a_file(tmp_path):
    config, some = configure(tmp_path), crystals(tmp_path)
    result = mlip("label", config, some, "--json")
    assert result.exit_code == 1
    labels = json.loads(result.stdout)["labels"]
    assert [label["status"] for label in labels] == ["ok", "rejected", "ok"]
    assert labels[1]["energy"] is None
    assert "too close" in labels[1]["reason"]
    assert [label["cached"] for label in labels] == [False, False, True]
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.05, seed=2)
    crystal.calc = EMT()
    assert labels[0]["energy"] == pytest.approx(crystal.get_potential_energy(), abs=1e-6)
    table = mlip("label", config, some)
    assert "some-001: atoms too close" in table.stdout
    assert labels[0]["settings_id"] in table.stdout
    first = mlip("label", config, some, "--limit", 1)
    assert first.exit_code == 0
    assert "some-001" not in first.stdout


def test_forces_that_are_no_slopes_are_told(tmp_path):
    result = mlip("label", configure(tmp_path, force_error=1.3), "--check")
    assert result.exit_code == 1
    assert "forces DISAGREE with energies" in result.stdout


@pytest.mark.parametrize("name", ["missing.extxyz", "no structure.txt"])
def test_a_file_without_structures_is_one_message(tmp_path, name):
    (tmp_path / "no structure.txt").write_text("nothing\n")
    result = mlip("label", configure(tmp_path), tmp_path / name)
    assert result.exit_code == 1
    assert f"{name}: no structures can be read" in result.output
    assert "Traceback" not in result.output


def test_the_doctor_compares_and_estimates(tmp_path):
    checks = {check.name: check for check in check_labels(configure(tmp_path, "budget: {labels: 30}\n"))}
    assert [checks[name].status for name in ("label", "forces", "stress", "cost")] == ["ok", "ok", "ok", "info"]
    assert "budget.labels ends it at 30" in checks["cost"].detail
    assert "GPa apart" in checks["stress"].detail


def test_the_doctor_finds_what_disagrees(tmp_path):
    config = configure(tmp_path, "budget: {core_hours: 1.0e-9}\n", pulay=4.0, force_error=1.3)
    checks = {check.name: check for check in check_labels(config)}
    assert [checks[name].status for name in ("label", "forces", "stress", "cost")] == ["ok", "fail", "fail", "warn"]
    assert all(checks[name].remedy for name in ("forces", "stress", "cost"))


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (SMALL_BASIS, "no.such.Calculator", "import"),
        ("parameters", "guards: {max_force: 0.001}, parameters", "rejected"),
    ],
)
def test_the_doctor_stops_at_a_label_that_fails(tmp_path, old, new, word):
    config = configure(tmp_path)
    config.write_text(config.read_text().replace(old, new))
    (check,) = check_labels(config)
    assert check.status == "fail"
    assert word in check.detail
    assert check.remedy


def test_labels_that_a_loop_may_ask_for():
    config = parse_config(
        {
            "system": "cu",
            "max_iterations": 3,
            "structures": [{"bulk": {"name": "Cu"}}, {"bulk": {"name": "Au"}}],
            "prepare": {"n_structures": 10},
            "select": {"n_structures": 6},
            "label": {"isolated_atoms": "compute", "n_shards": 4},
            "overrides": [{"from_iteration": 2, "select": {"n_structures": 8}}],
        }
    )
    assert plan_batches(config) == [(7 + 2, 1), (10, 4), (6, 4), (8, 4)]


def test_label_of_the_doctor_needs_a_configuration():
    result = mlip("doctor", "--label")
    assert result.exit_code == 1
    assert "mlip doctor --label CONFIG" in result.output
