"""Every configuration of `config/examples/` plans; those of Quantum ESPRESSO and CP2K go round a small loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mlip.config.merging import merge_deeply
from tests.workflow.conftest import ROOT, Workflow

EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))
# Two atoms, loosely: what is tested is that a potential comes out, not how good it is.
SMALLEST = {
    "structures": [{"bulk": {"name": "Si", "crystalstructure": "diamond", "a": 5.43, "cubic": False}}],
    "max_iterations": 2,
    "min_iterations": 2,
    "prepare": {"n_structures": 6},
    "train": {"n_steps": 60, "n_channels": 8, "l_max": 2, "committee_size": 2},
    # A potential of six labels is sure of nothing: its walkers must not stop before there are frames to choose from.
    "explore": {
        "walkers": [{"ensemble": "npt", "temperatures": [300]}],
        "n_steps": 40,
        "sample_every": 4,
        "max_uncertainty": 100.0,
    },
    "select": {"n_structures": 3, "n_audit": 2, "min_uncertainty": 0.0, "min_novelty": 0.0},
    "label": {"parameters": {"kpts": [2, 2, 2]}},
    "assess": {"eos_volumes": []},
}
LOOPS = [
    pytest.param("silicon-qe", "pw.x", marks=[
        pytest.mark.qe,
        pytest.mark.skipif(shutil.which("pw.x") is None, reason="pw.x is not installed (Debian: quantum-espresso)"),
    ]),
    pytest.param("silicon-cp2k", "CP2K", marks=[
        pytest.mark.cp2k,
        pytest.mark.skipif(shutil.which("cp2k") is None, reason="cp2k is not installed (Debian: cp2k)"),
    ]),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory in which the examples' files are where they say."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    return tmp_path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_plan(path: Path, place: Path) -> None:
    loop = Workflow(place, yaml.safe_load(path.read_text()))
    rules = {rule for _, rule in loop.plan()}
    assert rules >= {"prepare_structures", "label_structures", "assess_potential", "report_system"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "program"), LOOPS)
def test_silicon_goes_round(name: str, program: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    example = yaml.safe_load((ROOT / "config" / "examples" / f"{name}.yaml").read_text())
    loop = Workflow(place, merge_deeply(example, SMALLEST))
    loop.snakemake("--cores", "2")
    summary = json.loads((loop.results / "summary.json").read_text())
    assert summary["iterations"] == 2
    assert summary["failed_labels"] == 0
    assert summary["labels"] >= 6 + 2
    shards = loop.results.glob("iter_*/label_structures/shard_???.json")
    records = [record for path in shards for record in json.loads(path.read_text())["records"]]
    assert {record["status"] for record in records} == {"ok"}
    stored = json.loads(next((place / "label_store").glob("??/*.json")).read_text())
    assert str(stored["program"]).startswith(program)
    assert "<html" in (loop.results / "report.html").read_text()
