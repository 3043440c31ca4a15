"""``sbatch`` while slurmctld is away."""

import os
import subprocess
from pathlib import Path

import pytest

from mlip.jobs.slurm import submission

ARGUMENTS = ["--parsable", "--job-name", "run", "--comment", "rule_label_structures_wildcards_si_00_001"]
SBATCH = """#!/bin/sh
echo asked >> sbatch.calls
[ -e refuses ] && echo 'sbatch: error: Invalid account' >&2 && exit 1
[ -e down ] && echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller' >&2 && exit 1
echo 42
"""
SQUEUE = """#!/bin/sh
echo asked >> squeue.calls
[ -e down ] && [ "$(wc -l < squeue.calls)" -lt 3 ] && echo down >&2 && exit 1
rm -f down
cat queue
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, script in (("sbatch", SBATCH), ("squeue", SQUEUE)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "queue").write_text("7|rule_label_structures_wildcards_si_00_000\n")
    monkeypatch.setenv("PATH", os.pathsep.join([str(submission.BIN), str(tmp_path), os.environ["PATH"]]))
    monkeypatch.setattr(submission, "POLL_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_slurmctld_is_waited_for_and_the_job_submitted_then(folder: Path) -> None:
    (folder / "down").touch()
    assert submission.submit(ARGUMENTS, b"").stdout == b"42\n"
    assert len((folder / "squeue.calls").read_text().split()) == 3
    assert len((folder / "sbatch.calls").read_text().split()) == 2


def test_job_whose_reply_was_lost_is_not_submitted_again(folder: Path) -> None:
    (folder / "down").touch()
    (folder / "queue").write_text(f"7|rule_label_structures_wildcards_si_00_000\n8|{ARGUMENTS[-1]}\n")
    assert submission.submit(ARGUMENTS, b"").stdout == b"8\n"
    assert len((folder / "sbatch.calls").read_text().split()) == 1


def test_refusal_is_passed_on_at_once(folder: Path) -> None:
    (folder / "refuses").touch()
    done = submission.submit(ARGUMENTS, b"")
    assert done.returncode == 1
    assert b"Invalid account" in done.stderr
    assert not (folder / "squeue.calls").exists()


def test_program_in_the_path_submits_its_input_too(folder: Path) -> None:
    (folder / "sbatch").write_text('#!/bin/sh\necho "$@"; cat\n')
    done = subprocess.run(["sbatch", "--parsable", "x y"], input="script", capture_output=True, text=True, check=True)
    assert done.stdout == "--parsable x y\nscript"
