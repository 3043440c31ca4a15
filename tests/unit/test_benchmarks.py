"""The benchmark's tables hold what the records of runs hold, and its workflow can be planned."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "tests/benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the benchmark by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def make_run(variant: str, seed: int, seconds: float, force: float, **more: Any) -> dict[str, Any]:
    errors = {"energy_mae": force / 20, "energy_rmse": force / 15, "force_mae": force, "force_rmse": 1.5 * force}
    return {
        "kind": "training",
        "package": "ours" if variant.startswith("ours") else variant,
        "variant": variant,
        "dataset": "Si",
        "seed": seed,
        "budget": round(seconds),
        "device": "cpu",
        "settings": {},
        "cpu_seconds": seconds,
        "data_seconds": 1.5,
        "steps": 1234,
        "n_parameters": 777,
        "errors": {"valid": errors, "test": errors},
        "curve": [],
        "machine": {"processor": "Test chip"},
        **more,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two seeds of ours, one long rival with a point on its way, one speed record."""
    halfway = {"cpu_seconds": 150.0, "errors": make_run("mace", 0, 1, 91.0)["errors"]}
    runs = [
        make_run("ours-4", 0, 10.0, 60.0),
        make_run("ours-4", 1, 10.4, 64.0),
        make_run("mace", 0, 300.0, 77.0, curve=[halfway]),
    ]
    for run in runs:
        path = tmp_path / f"runs/cpu/{run['variant']}/{run['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run))
    cost = {"min": 70.25, "median": 73.0}
    row = {"variant": "ours-4", "package": "ours", "device": "cpu", "walkers": 1, "n_atoms": 64, "setup_seconds": 0.1}
    row |= {"peak_mib": 300.0, "cpu_us": cost, "wall_us": cost, "rounds": []}
    speed = {"kind": "speed", "device": "cpu", "rows": [row], "machine": {"processor": "Test chip"}}
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed/speed.json").write_text(json.dumps(speed))
    return tmp_path


def table_row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def build(script: Any, results: Path, published: list[dict[str, Any]]) -> str:
    (results / "published.yaml").write_text(yaml.safe_dump(published))
    sources = script("benchmark_tables").load_sources(results, results / "published.yaml", BENCHMARKS / "config.yaml")
    text: str = script("build_report").build_markdown(sources, [])
    return text


def test_seeds_are_averaged_and_missing_numbers_stay_blank(script: Any, results: Path) -> None:
    entry = {"model": "MTP", "dataset": "Si", "test": "test", "errors": {"force_mae": 61.5}, "source": "A paper"}
    text = build(script, results, [entry])
    section = text.split("Energies in meV/atom")[0]
    ours = table_row(section, "Ouroboros, 4 members")
    assert ours[0] == "10.2"
    assert ours[2] == "2"
    assert ours[7] == "62 ± 2.8"
    published = table_row(section, "MTP (published)")
    assert published[7] == "61.5"
    assert published[5] == "–"
    assert "- A paper" in text
    assert "No GPU here" in text


def test_lead_counts_the_least_time_that_is_no_worse(script: Any, results: Path) -> None:
    text = build(script, results, []).split("Energies in meV/atom")[1]
    assert table_row(text, "MACE 32x0e")[3:] == ["10.2", "29.4"]
    assert table_row(text, "MACE 32x0e, on the way to 300 s")[0] == "150"


def test_runs_of_other_settings_are_not_averaged_in(script: Any, results: Path) -> None:
    other = make_run("ours-4", 2, 10.0, 200.0, settings={"n_radial": 3})
    (results / "runs/cpu/ours-4/2.json").write_text(json.dumps(other))
    text = build(script, results, []).split("Energies in meV/atom")[0]
    rows = [line for line in text.splitlines() if line.startswith("| Ouroboros, 4 members |")]
    assert sum("62 ± 2.8" in row for row in rows) == 1
    assert sum("| 200 |" in row for row in rows) == 1


def test_speed_is_shown_with_least_and_median(script: Any, results: Path) -> None:
    text = build(script, results, []).split("## Molecular dynamics")[1]
    assert table_row(text, "Ouroboros, 4 members")[0] == "70.2 / 73"


def test_earlier_records_fill_what_results_lack(script: Any, results: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    (earlier / "runs").mkdir(parents=True)
    for k, run in enumerate([make_run("ours-4", 1, 10.4, 99.0), make_run("nequip", 0, 30.0, 150.0)]):
        (earlier / f"runs/{k}.json").write_text(json.dumps(run))
    rows = [{"variant": variant, "n_atoms": 64} for variant in ("ours-4", "nep")]
    (earlier / "speed").mkdir()
    (earlier / "speed/speed.json").write_text(json.dumps({"kind": "speed", "device": "cpu", "rows": rows}))
    (results / "published.yaml").write_text("[]")
    load = script("benchmark_tables").load_sources
    sources = load(results, results / "published.yaml", BENCHMARKS / "config.yaml", earlier)
    (ours,) = [run for run in sources.runs if (run["variant"], run["seed"]) == ("ours-4", 1)]
    assert ours["errors"]["test"]["force_mae"] == 64.0
    assert "nequip" in {run["variant"] for run in sources.runs}
    (speed,) = sources.speed
    assert [row["variant"] for row in speed["rows"]] == ["ours-4", "nep"]
    assert speed["rows"][0]["setup_seconds"] == 0.1


def test_the_repository_has_records_of_the_other_packages(script: Any, tmp_path: Path) -> None:
    (tmp_path / "published.yaml").write_text("[]")
    load = script("benchmark_tables").load_sources
    sources = load(tmp_path, tmp_path / "published.yaml", BENCHMARKS / "config.yaml", BENCHMARKS / "earlier")
    text = script("build_report").build_markdown(sources, [])
    for name in ("MACE 32x0e", "NequIP, l ≤ 2"):
        assert f"\n| {name} |" in text.split("Energies in meV/atom")[0]
    assert table_row(text.split("## Molecular dynamics")[1], "NEP4 (C++, made-up weights)")


def test_errors_leave_out_forces_that_are_not_labelled(script: Any) -> None:
    records = script("records")
    pair = Atoms("Si2", positions=[[0, 0, 0], [0, 0, 2.4]])
    bare = pair.copy()
    pair.calc = SinglePointCalculator(pair, energy=-8.0, forces=np.zeros((2, 3)))
    bare.calc = SinglePointCalculator(bare, energy=-8.0)
    errors = records.measure_errors([pair, bare], [-7.99, -8.03], [np.full((2, 3), 0.05), np.full((2, 3), 9.0)])
    assert errors["force_mae"] == pytest.approx(50)
    assert errors["energy_mae"] == pytest.approx(10)
    assert errors["energy_rmse_structure"] == pytest.approx(np.sqrt((10**2 + 30**2) / 2))
    assert "force_mae" not in records.measure_errors([bare], [-8.0], [np.zeros((2, 3))])


def test_published_data_are_recognised_and_foreign_ones_refused(script: Any, tmp_path: Path) -> None:
    prepare = script("prepare_data")
    (tmp_path / "acac").mkdir()
    (tmp_path / "acac/isolated_atoms.xyz").write_text("1\n\nH 0 0 0\n")
    with pytest.raises(ValueError, match="not the published file"):
        prepare.load_acac("isolated_atoms.xyz", tmp_path, tmp_path)


def test_vasp_stress_of_mlearn_becomes_ases(script: Any) -> None:
    site = {"species": [{"element": "Si", "occu": 1}], "xyz": [0.0, 0.0, 0.0]}
    entry = {
        "structure": {"sites": [site], "lattice": {"matrix": np.eye(3).tolist()}},
        "outputs": {"energy": -5.0, "forces": [[0.0] * 3], "virial_stress": [10.0, 20.0, 30.0, 1.0, 2.0, 3.0]},
        "group": "Elastic",
    }
    stress = script("prepare_data").parse_mlearn(entry).get_stress() * 160.21766208
    assert stress == pytest.approx([-1.0, -2.0, -3.0, -0.2, -0.3, -0.1], rel=1e-4)


def test_every_budget_and_seed_is_planned(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "-s", str(BENCHMARKS / "Snakefile"), "-n", "--nolock", "--cores", "1"]
    command += ["--config", f"results={tmp_path}", "max_budget=20", "packages=[ours]", "devices=[cpu]"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    config = yaml.safe_load((BENCHMARKS / "config.yaml").read_text())
    planned = done.stdout + done.stderr
    for run in config["runs"]:
        if config["variants"][run["variant"]]["package"] == "ours":
            for budget in (b for b in run["budgets"] if b <= 20):
                for seed in run["seeds"]:
                    assert f"{run['variant']}/{run['dataset']}-{budget}s-seed{seed}.json" in planned
    assert "-120s-" not in planned
    assert "mace" not in planned
