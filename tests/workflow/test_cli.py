"""The ``mlip`` command as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workflow.conftest import TINY, Workflow

MLIP = [sys.executable, "-m", "mlip.cli.app"]


def mlip(*arguments: object, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*MLIP, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
    if check and done.returncode:
        pytest.fail(f"mlip {arguments} failed:\n{done.stdout}\n{done.stderr}")
    return done


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = "import sys, mlip.cli.app; sys.exit(any(m in sys.modules for m in ('torch', 'ase', 'numpy', 'gpaw')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_train_and_evaluate(finished: Workflow, tmp_path: Path) -> None:
    data = finished.results / "iter_01" / "collect_dataset"
    out = tmp_path / "potential"
    mlip("train", data / "train.extxyz", "--valid", data / "valid.extxyz", "--out", out, "--config", TINY, cwd=tmp_path)
    result = json.loads(mlip("evaluate", out, data / "train.extxyz", "--json", cwd=tmp_path).stdout)
    assert result["n_structures"] > 5
    assert any("force" in key for key in result)


def test_max_seconds_bounds_the_training(finished: Workflow, tmp_path: Path) -> None:
    data = finished.results / "iter_01" / "collect_dataset" / "train.extxyz"
    began = time.monotonic()
    mlip("train", data, "--out", tmp_path / "p", "--max-seconds", 4, cwd=tmp_path)
    assert time.monotonic() - began < 60


def test_status_tells_where_a_loop_is(finished: Workflow) -> None:
    text = mlip("status", finished.config_file, cwd=finished.folder).stdout
    assert "converged" in text
    assert len(text.splitlines()) <= 30


def test_run_says_when_nothing_is_to_be_done(finished: Workflow) -> None:
    text = mlip("run", finished.config_file, "--cores", 2, cwd=finished.folder).stdout
    assert "Nothing to do" in text
    assert "report.html" in text


def test_a_run_up_to_a_rule_has_no_summary_to_print(workflow: Workflow) -> None:
    done = mlip("run", workflow.config_file, "--cores", 1, "--until", "prepare_structures", cwd=workflow.folder)
    assert "not finished" in done.stdout


def test_explain_tells_of_each_decision(finished: Workflow) -> None:
    decisions = (finished.results / "iter_00" / "select_candidates" / "decisions.csv").read_text().splitlines()
    frame = next(cell for cell in decisions[-1].split(",") if cell.startswith("iter_00-walker"))
    text = mlip("explain", finished.results, frame, cwd=finished.folder).stdout
    assert text.startswith(frame)
    assert "expected error" in text


@pytest.mark.parametrize("command", ["run", "status"])
def test_bad_configuration_is_one_short_message(tmp_path: Path, command: str) -> None:
    (tmp_path / "bad.yaml").write_text("system: x\nstructure: 1\n")
    done = mlip(command, "bad.yaml", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "structure: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_potential_is_one_short_message(finished: Workflow, tmp_path: Path) -> None:
    out = tmp_path / "potential"
    out.mkdir()
    for path in (finished.results / "potential").iterdir():
        content = path.read_bytes()
        (out / path.name).write_bytes(content[:-100] if path.suffix == ".safetensors" else content)
    data = finished.results / "iter_01" / "collect_dataset" / "train.extxyz"
    done = mlip("evaluate", out, data, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "potential.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupted_run_leaves_no_process_and_goes_on(workflow: Workflow) -> None:
    command = [*MLIP, "run", str(workflow.config_file), "--cores", "1"]
    process = subprocess.Popen(command, cwd=workflow.folder, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while not list(workflow.results.glob("iter_00/label_structures/*.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(180) == 130
    lock = workflow.folder / ".snakemake" / "locks"
    assert not (lock.exists() and any(lock.iterdir()))
    children = subprocess.run(["pgrep", "-f", str(workflow.folder)], capture_output=True, text=True, check=False).stdout
    assert [pid for pid in children.split() if int(pid) != os.getpid()] == []
