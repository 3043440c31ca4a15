"""One loop on a Slurm whose jobs and daemons are killed while it runs (docs/faults.md, rows 1 to 6, 8 and 9)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from tests.integration.faults_table import record
from tests.integration.slurm_cluster import ACCOUNTING_PROGRAMS, SlurmCluster, missing_programs
from tests.integration.slurm_loop import (
    CANDIDATES,
    PROFILE,
    SLURM_MARKS,
    SlurmLoop,
    assert_same_dataset,
    assert_same_structures,
)

ABSENT = missing_programs(ACCOUNTING_PROGRAMS)
pytestmark = [
    *SLURM_MARKS,
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (Debian: slurmdbd, mariadb-server)"),
]

OOM, WALLTIME, CANCELLED, NODE = range(4)  # the shard that suffers it
CHANGES: dict[str, Any] = {
    "prepare": {"n_structures": 12},
    "label": {"n_shards": 4},
    "train": {"n_steps": 1000, "checkpoint_every": 100, "l_max": 2, "n_channels": 8, "committee_size": 2},
    "explore": {
        "walkers": [{"ensemble": "nvt", "temperatures": [300, 600]}],
        "n_steps": 200,
        "sample_every": 5,
    },
}
# Small enough that a label's stand-in can exceed it; the retry has twice as much.
MEMORY = ["--set-resources", "label_structures:mem_mb=900 * attempt"]
SLURMCTLD_DOWN = 15  # seconds
SLURMCTLD_SAVES = 6  # seconds after which it has written all changes to its StateSaveLocation; 5 in its source


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SlurmLoop:
    """The same loop on this machine alone."""
    loop = SlurmLoop(tmp_path_factory.mktemp("undisturbed"), None, **CHANGES)
    loop.start("--cores", "1", target=CANDIDATES)  # beside the other one, which mostly waits
    return loop


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with SlurmCluster(n_nodes=4, accounting=True) as slurm:
        yield slurm


class Ordeal:
    """The loop and what was noted on its way."""

    def __init__(self, loop: SlurmLoop, cluster: SlurmCluster) -> None:
        self.loop, self.cluster = loop, cluster
        self.driver = loop.start(*PROFILE, *MEMORY, target=CANDIDATES)
        self.finished: dict[Path, int] = {}
        self.label_jobs_hit: list[str] = []
        self.sacct_error = ""
        self.output_in_outage = ""

    def go_through(self) -> None:
        start = time.monotonic()
        steps = (self.hurt_labels, self.requeue_lost_job, self.restart_slurmctld, self.kill_training, self.kill_walker)
        for step in steps:
            step()
            print(f"{step.__name__}: done after {time.monotonic() - start:.0f} s")
        self.output = self.driver.finish()
        print(f"loop: done after {time.monotonic() - start:.0f} s")

    def hurt_labels(self) -> None:
        """Four shards, each hit while it computes its second label, and the accounting is down."""
        loop = self.loop
        loop.wait_for_first_labels(self.driver, 4)
        self.cluster.stop("slurmdbd", kill=True)
        try:
            self.cluster.command("sacct")
        except RuntimeError as error:
            self.sacct_error = str(error)
        self.finished = loop.finished_labels()
        jobs = [loop.jobs("label_structures", f"_{shard:03d}")[0] for shard in range(4)]
        self.label_jobs_hit = [job.id for job in jobs]
        (loop.folder / f"hungry-{jobs[OOM].id}").touch()
        (loop.folder / f"endless-{jobs[WALLTIME].id}").touch()
        self.cluster.command("scontrol", "update", f"JobId={jobs[WALLTIME].id}", "TimeLimit=1")
        self.cluster.cancel(jobs[CANCELLED].id)
        self.dead_node = jobs[NODE].node
        self.cluster.kill_node(self.dead_node)
        loop.release()

    def requeue_lost_job(self) -> None:
        """Slurm gives the dead node's job back to the queue, for another node."""

        def requeued() -> bool:
            job = next(job for job in self.loop.jobs("label_structures", f"_{NODE:03d}"))
            return job.state == "PENDING"

        self.driver.wait_until(requeued, "the dead node's job being requeued")
        # Slurm waits two minutes before it starts such a job again; the test does not.
        self.cluster.command("scontrol", "update", f"JobId={self.label_jobs_hit[NODE]}", "StartTime=now")

    def restart_slurmctld(self) -> None:
        """Away when the training is to be submitted; the accounting and the dead node come back with it."""
        log = self.loop.results / "logs" / "iter_00" / "collect_dataset.log"
        self.driver.wait_until(log.exists, "all labels")
        # A slurmctld that dies before it has saved a job's end runs that job again.
        self.driver.process.send_signal(signal.SIGSTOP)
        time.sleep(SLURMCTLD_SAVES)
        self.cluster.stop("slurmctld", kill=True)
        self.driver.process.send_signal(signal.SIGCONT)
        self.driver.wait_until(lambda: "train_committee: train" in self.driver.output, "the training's turn")
        time.sleep(SLURMCTLD_DOWN)
        self.output_in_outage = self.driver.output
        for name in ("slurmdbd", "slurmctld", self.dead_node):
            self.cluster.start(name)

    def kill_training(self) -> None:
        checkpoint = self.loop.results / "iter_00" / "train_committee" / "checkpoint"
        self.driver.wait_until(checkpoint.exists, "a checkpoint of the training")
        self.kill_script("train_committee", "")

    def kill_walker(self) -> None:
        log = self.loop.results / "logs" / "iter_00" / "explore_walkers-00.log"
        self.driver.wait_until(lambda: log.exists() and "step=20" in log.read_text(), "a walker on its way")
        self.kill_script("explore_walkers", "_00")

    def kill_script(self, rule: str, wildcards: str) -> None:
        """SIGKILL for the Python that does the work of a running job."""
        job = self.loop.jobs(rule, wildcards)[-1]
        for pid in self.cluster.processes(f"SLURM_JOB_ID={job.id}"):
            with contextlib.suppress(OSError):
                words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
                if any(word.endswith(f"{rule}.py".encode()) for word in words) and b"-c" not in words:
                    os.kill(pid, signal.SIGKILL)

    def record(self, row: int, attempts: list[str]) -> None:
        record(row, attempts, self.finished, self.loop.finished_labels(), self.loop.computed_twice())


@pytest.fixture(scope="module")
def ordeal(cluster: SlurmCluster, undisturbed: SlurmLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ordeal]:
    ordeal = Ordeal(SlurmLoop(tmp_path_factory.mktemp("ordeal"), cluster, **CHANGES), cluster)
    try:
        ordeal.go_through()
        undisturbed.drivers[0].finish()
        yield ordeal
    finally:
        for driver in (ordeal.driver, undisturbed.drivers[0]):
            driver.end()


def attempts(ordeal: Ordeal, row: int, rule: str, wildcards: str) -> list[str]:
    """How the jobs of a step ended; kept for the page's row."""
    states = [job.state for job in ordeal.loop.jobs(rule, wildcards)]
    ordeal.record(row, states)
    return states


def assert_no_label_lost(ordeal: Ordeal, shard: int) -> None:
    """Labels finished before the fault are cached in the second attempt, which computes the others."""
    records = ordeal.loop.records(shard)
    assert [record["status"] for record in records] == ["ok"] * 3
    assert records[0]["cached"]
    assert not records[-1]["cached"]


def test_label_job_that_runs_out_of_memory_gets_more(ordeal: Ordeal) -> None:
    first, second = ordeal.loop.jobs("label_structures", f"_{OOM:03d}")
    ordeal.record(1, [first.state, second.state])
    assert first.state in {"OUT_OF_MEMORY", "FAILED"}  # the former with cgroups
    assert "memory limit" in next((ordeal.loop.folder / "logs" / "slurm").glob(f"**/{first.id}.log")).read_text()
    assert (first.memory, second.memory, second.state) == ("900M", "1800M", "COMPLETED")
    assert_no_label_lost(ordeal, OOM)


def test_label_job_at_its_walltime_is_tried_again(ordeal: Ordeal) -> None:
    assert attempts(ordeal, 2, "label_structures", f"_{WALLTIME:03d}") == ["TIMEOUT", "COMPLETED"]
    assert "SLURM status is: 'TIMEOUT'" in ordeal.output
    assert_no_label_lost(ordeal, WALLTIME)


def test_cancelled_label_job_is_tried_again(ordeal: Ordeal) -> None:
    assert attempts(ordeal, 3, "label_structures", f"_{CANCELLED:03d}") == ["CANCELLED", "COMPLETED"]
    assert "SLURM status is: 'CANCELLED'" in ordeal.output
    assert_no_label_lost(ordeal, CANCELLED)


def test_job_of_a_dead_node_runs_again_elsewhere_and_only_once(ordeal: Ordeal) -> None:
    (job,) = ordeal.loop.jobs("label_structures", f"_{NODE:03d}")  # Slurm's own requeue: same number
    assert job.id == ordeal.label_jobs_hit[NODE]
    assert job.node != ordeal.dead_node
    ordeal.record(4, ["node_fail", job.state])
    assert job.state == "COMPLETED"
    assert_no_label_lost(ordeal, NODE)


def test_submission_waits_for_slurmctld(ordeal: Ordeal) -> None:
    submission = "rule_train_committee/tiny_00/"
    assert submission not in ordeal.output_in_outage
    assert submission in ordeal.output
    assert "sbatch failed" not in ordeal.output
    ordeal.record(5, ["slurmctld killed", f"back after {SLURMCTLD_DOWN} s"])


def test_loop_survives_an_outage_of_the_accounting(ordeal: Ordeal) -> None:
    assert "Problem talking to the database" in ordeal.sacct_error
    # It was down until all label jobs had been hit, retried and collected.
    assert "collect_dataset" in ordeal.output_in_outage
    ordeal.record(6, ["slurmdbd killed", "back after all labels"])


def test_killed_training_continues_from_its_checkpoint(ordeal: Ordeal, undisturbed: SlurmLoop) -> None:
    assert attempts(ordeal, 8, "train_committee", "") == ["FAILED", "COMPLETED"]
    name = Path("iter_00") / "train_committee" / "training.json"
    history, whole = (json.loads((loop.results / name).read_text()) for loop in (ordeal.loop, undisturbed))
    assert history["steps"] == whole["steps"]
    weights = Path("iter_00") / "train_committee" / "potential.safetensors"
    assert (ordeal.loop.results / weights).read_bytes() == (undisturbed.results / weights).read_bytes()


def test_killed_walker_runs_again_on_the_same_path(ordeal: Ordeal, undisturbed: SlurmLoop) -> None:
    assert attempts(ordeal, 9, "explore_walkers", "_00") == ["FAILED", "COMPLETED"]
    name = Path("iter_00") / "explore_walkers" / "walker_00.nc"
    with xr.open_dataset(ordeal.loop.results / name) as one, xr.open_dataset(undisturbed.results / name) as other:
        assert one["positions"].equals(other["positions"])


def test_dataset_and_next_request_are_those_of_an_undisturbed_loop(ordeal: Ordeal, undisturbed: SlurmLoop) -> None:
    assert_same_dataset(ordeal.loop, undisturbed)
    name = Path("iter_00") / "select_candidates" / "candidates.extxyz"
    assert_same_structures(ordeal.loop.results / name, undisturbed.results / name)


def test_no_finished_label_is_computed_again(ordeal: Ordeal) -> None:
    assert len(ordeal.finished) >= 4
    now = ordeal.loop.finished_labels()
    assert {path: now[path] for path in ordeal.finished} == ordeal.finished
    assert not ordeal.loop.computed_twice()
