"""The pools, records and tables of the benchmark of selection."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

FOLDER = Path(__file__).parents[1] / "benchmarks/selection"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the benchmark by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_the_mixture_is_the_gradient_of_its_energy(script: Any) -> None:
    pools, rng = script("pools"), np.random.default_rng(1)
    atoms = pools.mixture(rng, 1.0)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    atoms.calc = pools.Mixture()
    np.testing.assert_allclose(
        atoms.get_forces()[:2], calculate_numerical_forces(atoms, 1e-4, iatoms=[0, 1]), atol=1e-6
    )
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, 1e-5), atol=1e-7)


@pytest.mark.slow
def test_the_short_form_runs_every_rule_and_resumes(script: Any, tmp_path: Path) -> None:
    benchmark, curves = script("pool_benchmark"), script("curves")
    benchmark.run_all(tmp_path, benchmark.SHORT, ["silicon"], benchmark.RULES[:2], 0.0)
    assert not [*tmp_path.rglob("*.json")]  # no time, no run
    original, benchmark.SEEDS = benchmark.SEEDS, range(1)
    try:
        benchmark.run_all(tmp_path, benchmark.SHORT, ["silicon"], benchmark.RULES, 600.0)
        files = sorted(tmp_path.glob("runs/silicon/*.json"))
        kept = {path: path.stat().st_mtime_ns for path in files}
        benchmark.run_all(tmp_path, benchmark.SHORT, ["silicon"], benchmark.RULES, 600.0)
    finally:
        benchmark.SEEDS = original
    assert kept == {path: path.stat().st_mtime_ns for path in files}
    records = [json.loads(path.read_text()) for path in files]
    assert {r["rule"] for r in records} == {*benchmark.RULES}
    assert {r["curve"][0]["macro"] for r in records} == {records[0]["curve"][0]["macro"]}  # paired
    assert all(len({*r["kinds"]}) >= 1 and r["curve"][-1]["labels"] == 8 for r in records)
    assert curves.tabulate(records).count("\n") == len(benchmark.RULES) + 1


def make_record(rule: str, errors: list[float], seed: int = 0) -> dict[str, Any]:
    curve = [
        {"labels": 8 * k, "atoms": 80 * k, "macro": e, "errors": {"a": {"rmse": e, "rms": 1.0}}, "select_seconds": 1.0}
        for k, e in enumerate(errors)
    ]
    return {"case": "c", "rule": rule, "seed": seed, "curve": curve, "longer": {"macro": errors[-1]}}


def test_labels_to_a_target_are_interpolated_and_compared(script: Any) -> None:
    curves = script("curves")
    random = make_record("random", [1.0, 0.8, 0.6, 0.5, 0.4])
    fast = make_record("fast", [1.0, 0.4, 0.3])
    never = make_record("never", [1.0, 0.9])
    assert curves.labels_to(random["curve"], 0.7) == pytest.approx(12.0)
    assert curves.labels_to(never["curve"], 0.7) == np.inf
    assert curves.ratios([random, fast, never], "fast") == [pytest.approx(32 / 8)]
    assert curves.ratios([random, fast, never], "never") == [0.0]
    assert curves.ratios([random], "random") == [1.0]
    assert curves.at_equal_labels([random, fast], "fast") == [pytest.approx(0.6 / 0.3)]
    assert curves.band([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert "| c | fast | 1 | 4.00 (4.00, 4.00) |" in curves.tabulate([random, fast])


@pytest.mark.slow
def test_the_short_form_of_the_ladder_climbs_from_the_crystal(script: Any, tmp_path: Path) -> None:
    benchmark = script("climb_ladder")
    explore = {"n_steps": 40, "sample_every": 5}
    record = benchmark.climb("silicon", 0, tmp_path, n_iterations=3, relative_rmse=0.5, explore=explore)
    assert record["iterations"] == 3
    assert (record["broken"], record["failed"]) == (0, 0)
    rungs = [entry["walked"]["rung"] for entry in record["ladder"]]
    assert rungs[0] == 0
    assert rungs == sorted(rungs)
    assert rungs[-1] > 0, "walkers have climbed"
    assert not record["converged"]
    assert "structures below the top of their ladder" in record["unmet"]
    assert "| silicon | 0 | no |" in benchmark.tabulate([record])
