"""Overheads are counted right, and planning stays light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/benchmarks/scale"))

from build_scale import measured_overhead, overhead_without_waiting, seconds_without_waiting  # noqa: E402
from loop_overhead import measure_overhead  # noqa: E402
from measure_plan import CASES, measure_plan  # noqa: E402


def write_job(results: Path, name: str, start: float, end: float) -> None:
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\n{end - start}\t0:00:00\n")
    os.utime(path, (end, end))


@pytest.fixture
def loop(tmp_path):
    """Two shards side by side, 2 s of nothing, a training, 3 s of nothing, a report."""
    write_job(tmp_path, "label_references/benchmark.tsv", 100.0, 104.0)
    write_job(tmp_path, "iter_00/benchmarks/label_structures-000.tsv", 100.0, 110.0)
    write_job(tmp_path, "iter_00/benchmarks/label_structures-001.tsv", 101.0, 112.0)
    write_job(tmp_path, "iter_00/benchmarks/train_committee.tsv", 114.0, 120.0)
    (tmp_path / "summary.json").touch()
    os.utime(tmp_path / "summary.json", (123.0, 123.0))
    return tmp_path


def test_overhead_is_what_no_job_explains(loop):
    found = measure_overhead(loop)
    assert found["wall_seconds"] == pytest.approx(23.0)
    assert found["busy_seconds"] == pytest.approx(18.0)
    assert found["no_job_seconds"] == pytest.approx(5.0)
    assert found["critical_seconds"] == pytest.approx(11.0 + 6.0)
    assert found["beside_critical_path_seconds"] == pytest.approx(6.0)


def test_unfinished_loop_is_refused(loop):
    (loop / "summary.json").unlink()
    with pytest.raises(ValueError, match="no finished loop"):
        measure_overhead(loop)


def test_planning_imports_no_torch_and_no_dft(tmp_path):
    """What the login node pays for: parsing and planning, in one process, without the science's libraries."""
    config = {"system": "light", "structures": [{"bulk": {"name": "Cu"}}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["-n", "--quiet", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    arguments += ["--configfile", str(tmp_path / "config.yaml")]
    program = f"""
import sys
from snakemake.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "gpaw", "ase", "scipy", "xarray", "matplotlib", "pymatgen"}} & set(sys.modules)
sys.exit(", ".join(sorted(heavy)) or 0)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_waiting_for_a_core_is_told_from_other_losses():
    """Two jobs of one label on two slots; the second waited longest, and ended last."""
    times = [
        {"job": "7", "submit": 4.0, "begun": 0.0, "end": 70.0},
        {"job": "8", "submit": 6.0, "begun": 0.0, "end": 90.0},
    ]
    usage = {
        "none": {"driver": {"waited": 3.0}, "sbatch": {"waited": 1.0}},
        "7": {"step": {"waited": 1.0}},
        "8": {"outer snakemake": {"waited": 10.0}, "step": {"waited": 8.0}},
    }
    record = {"times": times, "usage": usage, "phases": {"after_last_job": 5.0}, "labels": 2, "slots": 2}
    record |= {"driver": {"cpu_seconds": 1.0, "command_cpu_seconds": 0.5}}
    record |= {"wall_seconds": 95.0, "ideal_seconds": 60.0}
    assert seconds_without_waiting(record) == pytest.approx(90.0 - 18.0 - 4.0 + 5.0)
    assert measured_overhead(record) == pytest.approx(100 * 35 / 60)
    assert overhead_without_waiting(record) == pytest.approx(100 * 13 / 60)
    record["driver"]["command_cpu_seconds"] = 2.5  # a submission takes its CPU time at least
    assert seconds_without_waiting(record) == pytest.approx(3.5 + 84.0 - 18.0 + 5.0)


@pytest.mark.slow
def test_a_fresh_loop_is_planned_within_its_limit():
    """CPU time, which does not depend on what else runs; `make benchmark-scale` measures 1000 label jobs as well."""
    assert measure_plan(100)["cpu_seconds"] < CASES[100]
