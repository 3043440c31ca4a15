"""The loop on a Slurm, through the profile as it is shipped."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from tests.integration.slurm_cluster import SlurmCluster, SlurmJob, missing_programs
from tests.workflow.conftest import TINY, Workflow

MISSING = missing_programs()

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurm-wlm, munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root"),
    pytest.mark.skipif(
        not os.environ.get("MLIP_TEST_SLURM"), reason="takes minutes on real daemons; set MLIP_TEST_SLURM=1 to run it"
    ),
]

# squeue, because the test's Slurm has no accounting; the rest only saves time: jobs of seconds on
# a local disk need no patience. All else is the profile's.
PROFILE = ["--profile", "slurm", "--slurm-status-command", "squeue"]
PROFILE += ["--slurm-init-seconds-before-status-checks", "4", "--latency-wait", "5"]

SLOW_EMT = """
import time
from ase.calculators.emt import EMT

class SlowEMT(EMT):
    def calculate(self, *args, **kwargs):
        time.sleep(1.5)
        super().calculate(*args, **kwargs)
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    with SlurmCluster() as cluster:
        yield cluster


def make_loop(folder: Path, **changes: object) -> Workflow:
    return Workflow(folder, yaml.safe_load(TINY.read_text()) | changes)


def submitted(done: CompletedProcess[str]) -> set[str]:
    return set(re.findall(r"submitted with SLURM jobid (\d+)", done.stdout + done.stderr))


def wait_until(condition: Callable[[], bool], loop_run: Future[CompletedProcess[str]], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if loop_run.done():
            done = loop_run.result()
            pytest.fail(f"the loop ended before its time:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        assert time.monotonic() < end, f"nothing within {seconds} s"
        time.sleep(0.1)


def done_labels(progress: Path) -> int:
    try:
        return json.loads(progress.read_text())["done"]
    except FileNotFoundError:
        return 0


def test_loop_runs_through_the_shipped_profile(slurm: SlurmCluster, tmp_path: Path) -> None:
    loop = make_loop(tmp_path, max_iterations=2)
    done = loop.snakemake(*PROFILE, **slurm.environment)

    summary = json.loads((loop.results / "summary.json").read_text())
    assert summary["iterations"] == 2
    assert summary["labels"] == 15
    assert summary["failed_labels"] == 0

    jobs = [job for job in slurm.jobs() if job.id in submitted(done)]
    assert {job.state for job in jobs} == {"COMPLETED"}
    # Exactly these: all other steps are too short for the queue and ran where Snakemake did.
    assert Counter(job.rule for job in jobs) == {
        "label_references": 1,
        "label_isolated_atoms": 1,
        "label_structures": 2 * 2,
        "train_committee": 2,
        "explore_walkers": 2 * 2,
        "score_frames": 2,
        "assess_potential": 2,
    }
    assert {job.node for job in jobs} == {"node1", "node2"}
    assert {job.rule for job in jobs if "gpu" in job.gres} == {"train_committee"}
    # The profile's folder, below the one the loop runs in; what succeeded leaves nothing there.
    assert f"(log: {loop.folder / 'logs' / 'slurm'}/rule_train_committee/" in done.stdout + done.stderr
    assert not list((loop.folder / "logs").rglob("*.log"))

    again = loop.snakemake(*PROFILE, **slurm.environment)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_cancelled_label_job_is_tried_again_and_no_label_is_lost(slurm: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "slow_emt.py").write_text(SLOW_EMT)
    label = {"calculator": "slow_emt.SlowEMT", "n_shards": 2}
    loop = make_loop(tmp_path, label=label, max_iterations=1, min_iterations=1)
    shards = loop.results / "iter_00" / "label_structures"
    store = loop.folder / "label_store"
    earlier = {job.id for job in slurm.jobs()}

    def attempts() -> list[SlurmJob]:
        jobs = [job for job in slurm.jobs() if job.id not in earlier]
        return [job for job in jobs if job.rule == "label_structures" and job.name.endswith("_000")]

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(loop.snakemake, *PROFILE, PYTHONPATH=str(tmp_path), **slurm.environment)
        wait_until(lambda: done_labels(shards / "shard_000.progress.json") >= 2, run)
        (first,) = attempts()
        assert first.state == "RUNNING"
        finished = {path: path.stat().st_mtime_ns for path in store.glob("??/*.json")}
        slurm.command("scancel", first.id)
        done = run.result()

    first, second = attempts()
    assert (first.state, second.state) == ("CANCELLED", "COMPLETED")
    assert (first.memory, second.memory) == ("4000M", "8000M")
    assert {first.id, second.id} <= submitted(done)
    # Labels finished before are used, not computed again; the rest are computed.
    assert finished
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    records = json.loads((shards / "shard_000.json").read_text())["records"]
    assert [record["status"] for record in records] == ["ok"] * 5
    assert all(record["cached"] for record in records[:2])
    assert not records[-1]["cached"]
    summary = json.loads((loop.results / "summary.json").read_text())
    assert summary["labels"] == 10
    assert summary["failed_labels"] == 0
