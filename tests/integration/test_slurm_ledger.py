"""The ledger against a real sacct: what a cancelled job took, or a GPU, is known though the job could not say it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlip.jobs.ledger import UNKNOWN, read_ledger, update_accounts
from mlip.jobs.slurm.queue import read_queue
from tests.integration import slurm_cluster
from tests.integration.slurm_cluster import SlurmCluster

NEEDED = (*slurm_cluster.PROGRAMS, *getattr(slurm_cluster, "ACCOUNTING_PROGRAMS", ()))
MISSING = slurm_cluster.missing_programs(NEEDED)
RUN = "0f3b1c2d-1111-4222-8333-123456789abc"

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurmdbd, mariadb-server)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root"),
    pytest.mark.skipif(
        not os.environ.get("MLIP_TEST_SLURM"), reason="takes minutes on real daemons; set MLIP_TEST_SLURM=1 to run it"
    ),
]

# A step as the workflow's scripts are, which writes to its log once and then says nothing.
STEP = """
import sys, time
from mlip.jobs.job import log_step
with log_step(sys.argv[1], 1):
    print("begun")
    time.sleep(float(sys.argv[2]))
"""


def submit(slurm: SlurmCluster, folder: Path, comment: str, command: str, *options: str, name: str = RUN) -> str:
    """Submit as Snakemake's plugin does: the run as name, the rule as comment."""
    words = ["--parsable", f"--job-name={name}", f"--comment={comment}", f"--chdir={folder}", *options]
    return slurm.command("sbatch", *words, "--cpus-per-task=1", "--output=/dev/null", f"--wrap={command}").strip()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing within {seconds} s"
        time.sleep(0.3)


def test_cancelled_and_silent_jobs_are_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "results" / "tiny"
    script = tmp_path / "step.py"
    script.write_text(STEP)

    def step(job: str, seconds: float) -> str:
        return f"{sys.executable} {script} {root / 'logs' / 'iter_00' / job}.log {seconds}"

    with SlurmCluster(accounting=True) as slurm:
        for variable, value in slurm.environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        comment = "rule_label_structures_wildcards_tiny_00_00{}"
        done = submit(slurm, tmp_path, comment.format(0), step("label_structures-000", 0))
        killed = submit(slurm, tmp_path, comment.format(1), step("label_structures-001", 600))
        wait_until((root / "logs" / "iter_00" / "label_structures-001.log").exists)
        assert [job.id for job in read_queue(tmp_path, "tiny", {killed}) or []][-1] == killed
        time.sleep(6)
        slurm.command("scancel", killed)
        # Ends before any Python has started; another user's job of another name is none of ours.
        submit(slurm, tmp_path, comment.format(2), "sleep 3; exit 1")
        training = "rule_train_committee_wildcards_tiny_00"
        submit(slurm, tmp_path, training, "sleep 4; exit 1", "--gres=gpu:1")
        submit(slurm, tmp_path, "", "sleep 1", name="something_else")
        wait_until(lambda: not slurm.command("squeue", "-h").strip())

        before = read_ledger(root)
        # Slurm's database hears of the end of a job a little later.
        wait_until(lambda: update_accounts(root) and _spent(root, core_seconds=13, gpu_seconds=4))
        said = dict(line.split("|") for line in _sacct(slurm))
        assert (said[done], said[killed].split()[0]) == ("COMPLETED", "CANCELLED")
        after = read_ledger(root)
        slurm.stop("slurmdbd")
        monkeypatch.setattr("mlip.jobs.slurm.queue.TIMEOUT", 5.0)
        assert update_accounts(root) is False
    killed_before, killed_after = (
        next(entry for entry in ledger.entries if entry.part == "001") for ledger in (before, after)
    )
    assert killed_before.cost.core_seconds < 5 <= killed_after.cost.core_seconds < 60
    without, training = sorted((e for e in after.entries if e.state == "lost"), key=lambda e: e.cost.gpu_seconds)
    assert without.cost.core_seconds >= 3
    assert without.cost.gpu_seconds == 0
    # The job never said that it had a GPU: the accounts did, where Slurm keeps them (AccountingStorageTRES).
    assert 4 <= training.cost.gpu_seconds == training.cost.core_seconds
    assert after.total().gpu_seconds == training.cost.gpu_seconds
    assert after.of_iteration(None)[UNKNOWN]["failed_gpu_seconds"] == training.cost.gpu_seconds
    assert len(after.entries) == 4
    assert read_ledger(root) == after  # what Slurm once said is still known


def _spent(root: Path, core_seconds: float, gpu_seconds: float) -> bool:
    total = read_ledger(root).total()
    return total.core_seconds >= core_seconds and total.gpu_seconds >= gpu_seconds


def _sacct(slurm: SlurmCluster) -> list[str]:
    return slurm.command("sacct", "-X", "-n", "-P", "--starttime=now-1hour", "--format=JobIDRaw,State").splitlines()
