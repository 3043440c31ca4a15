"""Drivers that die or meet on a Slurm, and a cluster's clocks and files (docs/faults.md, rows 7, 12 and 15 to 18)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults_table import record
from tests.integration.slurm_cluster import SlurmCluster
from tests.integration.slurm_loop import DATASET, PROFILE, SLURM_MARKS, SlurmLoop, assert_same_dataset, submitted

pytestmark = SLURM_MARKS

# Three shards on two nodes: one waits in the queue.
CHANGES: dict[str, Any] = {"prepare": {"n_structures": 9}, "label": {"n_shards": 3}}

# What a finished label job wrote is out of sight for some seconds; what node2 wrote carries that
# node's time, as on Lustre. More than five minutes off, munge refuses a node.
EPILOG = """
shard=$(SLURM_CONF={conf} squeue --noheader --jobs "$SLURM_JOB_ID" --format %k | sed 's/.*_//')
cd {shards} || exit 0
for name in shard_$shard.extxyz shard_$shard.json; do
  [ -e $name ] || continue
  [ "$SLURMD_NODENAME" = node2 ] && touch -d '+4 minutes' $name && echo $name >> from-the-future
  mv $name .late-$name
  setsid sh -c "sleep {seconds}; mv .late-$name $name" > /dev/null 2>&1 &
done
sleep 1  # so that the last one has left the process group, which Slurm ends
"""
LATE_SECONDS = 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SlurmLoop:
    loop = SlurmLoop(tmp_path_factory.mktemp("undisturbed"), None, **CHANGES)
    loop.start("--cores", "1", target=DATASET)  # beside the others, which mostly wait
    return loop


@pytest.fixture
def cluster() -> Iterator[SlurmCluster]:
    with SlurmCluster() as slurm:
        yield slurm


def test_killed_driver_is_succeeded_and_a_second_one_refused(
    cluster: SlurmCluster, undisturbed: SlurmLoop, tmp_path: Path
) -> None:
    loop = SlurmLoop(tmp_path, cluster, **CHANGES)
    first = loop.start(*PROFILE, target=DATASET)
    try:
        loop.wait_for_first_labels(first, 2)

        second = loop.start(*PROFILE, target=DATASET)
        assert second.process.wait(60) == 1
        assert f"already running in {tmp_path}: process {first.process.pid} of root" in second.output
        assert not submitted(second.output)
        assert first.process.poll() is None

        finished = loop.finished_labels()
        first.kill()
        assert list(tmp_path.glob(".snakemake/locks/*.lock"))
        third = loop.start(*PROFILE, target=DATASET)
        third.wait_until(lambda: "Waiting for 3 Slurm job(s)" in third.output, "a message")
        assert [job.state for job in loop.jobs("label_structures")] == ["RUNNING", "RUNNING", "PENDING"]
        loop.release()
        third.finish()
    finally:
        for driver in loop.drivers:
            driver.end()

    states = [job.state for job in loop.jobs("label_structures")]
    for row, attempts in ((7, ["driver killed", *states]), (12, ["refused"]), (16, ["released"])):
        record(row, attempts, finished, loop.finished_labels(), loop.computed_twice())
    assert "taking over its lock" in third.output
    # Their jobs were neither submitted again nor was what they computed.
    assert not submitted(third.output)
    assert states == ["COMPLETED"] * 3
    assert finished
    assert finished.items() <= loop.finished_labels().items()
    assert not loop.computed_twice()
    undisturbed.drivers[0].finish()
    assert_same_dataset(loop, undisturbed)


def test_late_files_skewed_clocks_and_an_edit_change_nothing(
    cluster: SlurmCluster, undisturbed: SlurmLoop, tmp_path: Path
) -> None:
    loop = SlurmLoop(tmp_path, cluster, **CHANGES)
    shards = loop.results / "iter_00" / "label_structures"
    cluster.write_program("epilog", EPILOG.format(conf=cluster.conf, shards=shards, seconds=LATE_SECONDS))
    (tmp_path / "skewed").touch()
    driver = loop.start(*PROFILE, "--latency-wait", "20", target=DATASET)
    try:
        loop.wait_for_first_labels(driver, 2)
        before, finished = loop.config, loop.finished_labels()
        # Every third structure becomes every fifth: a job that read this would label other ones.
        loop.write_config(before | {"label": before["label"] | {"n_shards": 5}})
        loop.release()
        driver.finish()
    finally:
        driver.end()

    jobs = loop.jobs("label_structures")
    states = [job.state for job in jobs]
    for row in (15, 17, 18):
        record(row, states, finished, loop.finished_labels(), loop.computed_twice())
    assert states == ["COMPLETED"] * 3
    assert {job.node for job in jobs} == {"node1", "node2"}
    # Files came from the future, and Snakemake gave them the driver's time.
    assert (shards / "from-the-future").read_text().startswith("shard_")
    assert max(path.stat().st_mtime for path in shards.glob("shard_*")) < time.time() + 60
    assert not loop.computed_twice()
    undisturbed.drivers[0].finish()
    assert_same_dataset(loop, undisturbed)

    # The edit counts from the next start; without it, a file from the future is no reason to start again.
    assert "label_structures: shard 004" in loop.start("-n", target=DATASET).finish()
    loop.write_config(before)
    assert "Nothing to be done" in loop.start("-n", target=DATASET).finish()
