"""The pools, records and tables of the benchmark of selection."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from mlip.config.system import Config
from mlip.dynamics.replicas import Trace
from mlip.structures.starting import load_starting_structure

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
    record = benchmark.climb("silicon", 0, tmp_path, n_iterations=3, explore=explore)
    assert record["iterations"] == 3
    assert (record["broken"], record["failed"]) == (0, 0)
    rungs = [entry["walked"]["rung"] for entry in record["ladder"]]
    assert rungs[0] == 0
    assert rungs == sorted(rungs)
    assert rungs[-1] > 0, "walkers have climbed"
    assert not record["converged"]
    assert "structures below the top of their ladder" in record["unmet"]
    assert "| silicon | 0 | no | no |" in benchmark.tabulate([record])
    top = record["ladder"][-1] | {"done": True, "seen": {"n_molten": 4}}
    molten = record | {"ladder": [top], "unmet": ["relative error of the bulk modulus"]}
    assert "| silicon | 0 | yes | no |" in benchmark.tabulate([molten])
    for name in ("audit force RMSE over RMS force, upper bound", "force RMSE over RMS force"):
        assert "| silicon | 0 | no | no |" in benchmark.tabulate([molten | {"unmet": [name]}])


def test_labels_are_compared_with_any_rule(script: Any) -> None:
    curves = script("curves")
    slow = make_record("slow", [1.0, 0.8, 0.6, 0.5, 0.4])
    fast = make_record("fast", [1.0, 0.3, 0.2])
    # To 1.1 times the worse last error, .44: the slow one after 28.8 labels.
    mine = 8 * (1.0 - 0.44) / 0.7
    assert curves.saved([slow, fast], "fast", "slow") == [pytest.approx(28.8 / mine)]
    assert curves.saved([slow, fast], "slow", "fast") == [pytest.approx(mine / 28.8)]
    # To .22 the slow one never comes: 32 labels at least.
    assert curves.needed([slow, fast], "fast", "slow") == [pytest.approx(32 / (8 + 8 * 0.08 / 0.1))]
    flat = make_record("flat", [0.4, 0.4])
    assert curves.saved([flat, flat | {"rule": "same"}], "flat", "same") == [1.0]
    assert "| – |" in curves.tabulate([slow | {"longer": None}, slow | {"rule": "random"}])


def test_bars_tell_what_was_met_and_what_was_not_measured(script: Any, tmp_path: Path) -> None:
    build = script("build_selection")
    records = [
        make_record(rule, errors, seed) | {"case": "silicon"}
        for seed in range(3)
        for rule, errors in (("random", [1.0, 0.8, 0.7, 0.6, 0.5, 0.4]), ("log-determinant", [1.0, 0.3]))
    ]
    for record in records:
        for point in record["curve"]:
            point["errors"]["a"] |= {"expected": 2.0 * point["macro"], "system": 0.0}
    rows = {bar.what: bar for bar in build.list_bars(records, tmp_path)}
    saved = rows["labels saved against random, redundant pools"]
    assert saved.met
    assert "n = 3" in saved.row()
    assert rows["label cost saved by choice of cells"].row().endswith("not measured |")
    calibration = rows["error over expected error of systems, pools"]
    assert not calibration.met  # half of what was expected
    assert "0.50 to 0.50" in calibration.row()
    text = build.build_markdown(tmp_path, records, ["picture.png"])
    assert "images/picture.png" in text
    assert "| silicon | log-determinant | 3 |" in text


def test_tables_go_between_the_markers_of_the_page(script: Any, tmp_path: Path) -> None:
    build, page = script("build_selection"), tmp_path / "selection.md"
    page.write_text(f"before\n{build.BEGIN}\nold\n{build.END}\nafter\n")
    build.update_docs("new", page)
    assert page.read_text() == f"before\n{build.BEGIN}\n\nnew\n{build.END}\nafter\n"
    page.write_text("a page without\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        build.update_docs("new", page)
    assert build.BEGIN in (Path(__file__).parents[2] / "docs/selection.md").read_text(encoding="utf-8")


def test_the_molecule_is_an_enol_and_is_tested_on_what_the_pool_lacks(script: Any) -> None:
    pools = script("pools")
    pytest.importorskip("tblite")
    relaxed, rng = pools.enol(), np.random.default_rng(0)
    assert relaxed.get_distance(1, 7) < 1.2 < 1.5 < relaxed.get_distance(0, 7)  # bonded to one oxygen, near the other
    turned = pools.turned(rng)
    bonds = [(2, 0), (4, 1), (1, 7), (4, 6), (3, 8)]
    assert all(abs(turned.get_distance(*b) - relaxed.get_distance(*b)) < 0.3 for b in bonds)
    assert turned.get_distance(0, 1) > relaxed.get_distance(0, 1) - 0.3
    kinds = pools.CASES["acetylacetone"].kinds
    assert [kind.share for kind in kinds if kind.temperature == 0] == [0, 0]


def test_a_replica_fails_where_atoms_collapse_or_it_explodes(script: Any) -> None:
    failures = script("md_failures")
    near, far = (Atoms("Si2", positions=[[0, 0, 0], [0, 0, d]]) for d in (0.5, 2.4))
    assert failures.life(Trace(times=[2.0, 4.0], frames=[far, far])) == (4.0, 0)
    assert failures.life(Trace(times=[2.0, 4.0], frames=[far, near])) == (4.0, 1)
    assert failures.life(Trace(times=[2.0], frames=[far], stable=False)) == (2.0, 1)


@pytest.mark.parametrize("scheme", ["log-determinant", "trust-levels", "random"])
def test_loops_are_configurations_that_hold(script: Any, scheme: str, tmp_path: Path) -> None:
    loops = script("loops")
    described = loops.describe_loop("a", 0, scheme, 3, loops.Plan(), (0.1, 0.2))
    config = Config.model_validate(described)
    assert len(load_starting_structure(config.structures[0])) == 32
    select = config.select
    assert (select.min_uncertainty, select.max_uncertainty) == (
        (0.1, 0.2) if scheme == "trust-levels" else (None, None)
    )
    for iteration, decisions in enumerate((["left", "uncertain", "audit"], ["uncertain"])):
        path = tmp_path / f"iter_{iteration:02d}/select_candidates/decisions.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(["decision", *decisions, ""]))
    assert [loops.count_labels(tmp_path, k) for k in range(3)] == [0, 2, 3]


@pytest.mark.slow
def test_informed_rules_have_quotas_where_there_are_several_systems(script: Any, tmp_path: Path) -> None:
    benchmark = script("pool_benchmark")
    run = benchmark.Run(tmp_path, "five-systems", 0, benchmark.SHORT)
    assert len({a.info["source"] for a in run.data["pool"]}) == 5
    record = run.follow("log-determinant")
    assert [p["labels"] for p in record["curve"]] == [0, 4, 8]
    assert len({*record["kinds"][:4]}) > 1  # no system may have the whole batch


@pytest.mark.slow
def test_the_short_form_of_loops_is_paired_and_resumes(script: Any, tmp_path: Path) -> None:
    loops = script("loops")
    place = loops.Place(tmp_path)
    loops.run_all(place, loops.SHORT, [0], ["log-determinant", "random"], 600.0)
    files = sorted(tmp_path.glob("runs/loops/*.json"))
    kept = {path: path.stat().st_mtime_ns for path in files}
    loops.run_all(place, loops.SHORT, [0], ["log-determinant", "random"], 600.0)
    assert kept == {path: path.stat().st_mtime_ns for path in files}
    first, second = (json.loads(path.read_text())["curve"] for path in files)
    assert first[0]["macro"] == second[0]["macro"]
    assert [p["labels"] for p in first] == [p["labels"] for p in second] == [0, 2]


@pytest.mark.slow
def test_the_share_of_scoring_and_selecting_is_that_of_the_steps(script: Any, tmp_path: Path) -> None:
    found = script("measure_share").measure_share(tmp_path, n_walkers=1, n_steps=20, n_training=4, train_steps=2)
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert (tmp_path / "decisions.csv").read_text().count("\n") == 3  # a head and two frames
