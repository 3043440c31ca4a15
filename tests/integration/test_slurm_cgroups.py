"""A label that the kernel kills because its job's control group is full, as most clusters limit memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.slurm_cluster import SlurmCluster, no_cgroups
from tests.integration.slurm_loop import DATASET, PROFILE, SLURM_MARKS, SlurmLoop

pytestmark = SLURM_MARKS
# The stand-in takes 1200 MB where a test makes it hungry; the retry has room for that.
MEMORY = ["--set-resources", "label_structures:mem_mb=900 * attempt"]


def test_a_label_killed_by_the_kernel_is_tried_again_with_more_memory(tmp_path: Path) -> None:
    """Not the job is killed but the calculator's process: the shard goes on, and its job still counts as failed."""
    if reason := no_cgroups():
        pytest.skip(reason)
    with SlurmCluster(cgroups=True) as slurm:
        loop = SlurmLoop(tmp_path, slurm)
        driver = loop.start(*PROFILE, *MEMORY, target=DATASET)
        try:
            loop.wait_for_first_labels(driver, 2)
            before = loop.finished_labels()
            (hit,) = loop.jobs("label_structures", "_000")
            (tmp_path / f"hungry-{hit.id}").touch()
            loop.release()
            said = driver.finish()
        finally:
            driver.end()
        first, second = loop.jobs("label_structures", "_000")
    assert first.state in ("FAILED", "OUT_OF_MEMORY")  # srun says the latter, the script that calls it the former
    assert second.state == "COMPLETED"
    (log,) = (tmp_path / "logs" / "slurm" / "rule_label_structures").rglob(f"{hit.id}.log")
    assert "oom-kill event" in log.read_text()
    assert "status=crashed" in said
    assert "was killed by SIGKILL (out of memory?)" in said
    assert (first.memory, second.memory) == ("900M", "1800M")
    assert "Trying to restart" in said
    after = loop.finished_labels()
    assert len(before) == 2
    assert before.items() <= after.items()
    assert loop.computed_twice() == set()
    dataset = json.loads((tmp_path / DATASET).with_name("dataset.json").read_text())
    assert (dataset["failed_new"], dataset["labels_new"]) == (0, 10)
