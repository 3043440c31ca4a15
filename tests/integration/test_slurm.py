"""The loop on a Slurm, through the profile as it is shipped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.integration.slurm_cluster import SlurmCluster
from tests.integration.slurm_loop import PROFILE, SLURM_MARKS, SlurmLoop, submitted

pytestmark = SLURM_MARKS


def test_loop_runs_through_the_shipped_profile(tmp_path: Path) -> None:
    with SlurmCluster() as slurm:
        loop = SlurmLoop(tmp_path, slurm, max_iterations=2)
        loop.release()
        done = loop.start(*PROFILE).finish()
        again = loop.start(*PROFILE).finish()
        jobs = [job for job in slurm.jobs() if job.id in submitted(done)]

    summary = json.loads((loop.results / "summary.json").read_text())
    assert summary["iterations"] == 2
    assert summary["labels"] == 15
    assert summary["failed_labels"] == 0

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
    assert f"(log: {loop.folder / 'logs' / 'slurm'}/rule_train_committee/" in done
    assert not list((loop.folder / "logs").rglob("*.log"))
    assert "Nothing to be done" in again
    # Nothing is left of a driver that ended well.
    assert not (loop.folder / ".snakemake" / "drivers" / "tiny.json").exists()
