"""Job arrays, for sites that limit submissions, and MPI ranks, on a real Slurm."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm_cluster import SlurmCluster, missing_programs
from tests.integration.test_labels_mpi import FAKE_GPAW
from tests.workflow.conftest import Workflow

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

PROFILE = ["--profile", "slurm", "--slurm-status-command", "squeue", "--slurm-no-account"]
PROFILE += ["--slurm-init-seconds-before-status-checks", "4", "--latency-wait", "5"]
SHARDS = [f"results/tiny/iter_00/label_structures/shard_{shard:03d}.json" for shard in range(2)]


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    with SlurmCluster() as cluster:
        yield cluster


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


def test_shards_are_one_job_array(slurm: SlurmCluster, workflow: Workflow) -> None:
    options = ["--slurm-array-jobs", "label_structures,explore_walkers"]
    workflow.snakemake(*PROFILE, *options, *SHARDS, **slurm.environment)
    arrays = slurm.command("squeue", "-h", "-r", "--states=all", "-o", "%F %K %T").splitlines()
    tasks = [line.split() for line in arrays if line.split()[1] != "N/A"]
    assert len({array for array, _, _ in tasks}) == 1
    assert [state for _, _, state in tasks] == ["COMPLETED", "COMPLETED"]
    records = [json.loads((workflow.folder / path).read_text())["records"] for path in SHARDS]
    assert [record["status"] for shard in records for record in shard] == ["ok"] * 10


def test_srun_starts_the_ranks_of_a_label(slurm: SlurmCluster, workflow: Workflow) -> None:
    """One rank on each of two nodes; a stand-in for GPAW, for what is tested is the way of `mpi` and `tasks`."""
    package = workflow.folder / "site" / "gpaw"
    package.mkdir(parents=True)
    for name, content in FAKE_GPAW.items():
        (package / name).write_text(content)
    (package / "__init__.py").write_text(
        "import os\nos.environ |= {'FAKE_RANK': os.environ['SLURM_PROCID'], 'FAKE_SIZE': os.environ['SLURM_NTASKS']}\n"
        + FAKE_GPAW["__init__.py"]
    )
    (workflow.folder / "messages").mkdir()
    workflow.write_config(workflow.config | {"label": {"calculator": "gpaw", "n_shards": 1}})
    environment = {"FAKE_FOLDER": str(workflow.folder / "messages"), "FAKE_EVIDENCE": str(package)}
    workflow.snakemake(
        *(*PROFILE, SHARDS[0], "--set-resources", "label_structures:mpi=srun", "label_structures:tasks=2"),
        PYTHONPATH=os.pathsep.join([str(package.parent), *filter(None, sys.path)]),
        **environment,
        **slurm.environment,
    )
    assert {path.name for path in package.glob("rank-*")} == {"rank-0-of-2", "rank-1-of-2"}
    records = json.loads((workflow.folder / SHARDS[0]).read_text())["records"]
    assert [record["status"] for record in records] == ["ok"] * 10
