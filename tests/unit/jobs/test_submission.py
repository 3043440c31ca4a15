"""``sbatch`` while slurmctld is away."""

import asyncio
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

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


def test_executor_keeps_to_squeue_while_slurmctld_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import snakemake_executor_plugin_slurm as executor

    monkeypatch.setattr(RemoteExecutor, "sleep", RemoteExecutor.sleep)  # put back afterwards
    answers = iter([300, None, 120])
    monkeypatch.setattr(executor, "get_min_job_age", lambda: next(answers))
    submission.make_executor_patient()
    assert [executor.get_min_job_age(), executor.get_min_job_age()] == [300, 120]
    assert os.environ["PATH"].startswith(str(submission.BIN))


@pytest.mark.parametrize(("next_interval", "expected"), [(20, 20), (30, 25), (180, 25)])
def test_executor_looks_as_often_as_the_profile_says(monkeypatch, next_interval: int, expected: int) -> None:
    import snakemake_executor_plugin_slurm as executor

    slept = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(executor, "get_min_job_age", lambda: 300)
    monkeypatch.setattr(RemoteExecutor, "sleep", RemoteExecutor.sleep)  # put back afterwards
    submission.make_executor_patient()
    monkeypatch.setattr(asyncio, "sleep", note)
    monkeypatch.setattr(submission.time, "monotonic", lambda: float(sum(slept)))
    settings = SimpleNamespace(seconds_between_status_checks=25)
    running = SimpleNamespace(
        wait=True,
        next_seconds_between_status_checks=next_interval,
        workflow=SimpleNamespace(remote_execution_settings=settings),
    )
    asyncio.run(RemoteExecutor.sleep(running))
    assert sum(slept) == expected
    running.wait = False
    asyncio.run(RemoteExecutor.sleep(running))
    assert sum(slept) == expected
