"""Real GPAW labels, each on two ranks that a real srun starts, through the profile as it is shipped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from mlip.config.label import Label
from mlip.io.extxyz import read_structures
from mlip.jobs.attempts import read_attempts
from mlip.labels.labeller import Labeller
from tests.integration.slurm_cluster import SlurmCluster
from tests.integration.slurm_loop import PROFILE, SLURM_MARKS, SlurmLoop

# A fixture, and a test that needs the GPAW with MPI which is built for this module.
from tests.integration.test_labels_mpi import gpaw_with_mpi, test_two_ranks_of_gpaw_give_the_label_of_one  # noqa: F401

pytestmark = [*SLURM_MARKS, pytest.mark.gpaw]

LABEL = {
    "calculator": "gpaw",
    "parameters": {"mode": {"name": "pw", "ecut": 200}, "xc": "PBE", "kpts": {"size": [2, 2, 2]}},
    "n_shards": 1,
}
SHARD = "results/tiny/iter_00/label_structures/shard_000.extxyz"
# As a site with Slurm's own PMI would write it in the profile.
RANKS = ["--set-resources", "label_structures:mpi='srun --mpi=pmi2'", "label_structures:tasks=2"]


def test_labels_of_gpaw_run_on_the_ranks_of_their_job(
    gpaw_with_mpi: Path | None,  # noqa: F811
    tmp_path: Path,
) -> None:
    with SlurmCluster() as slurm:  # nodes of one core: the two ranks are on two of them
        calls = tmp_path / "srun.txt"
        slurm.wrap_srun(f'echo "$@" >> {calls}; exec {{srun}} "$@"')
        loop = SlurmLoop(tmp_path, slurm)
        config = loop.config | {
            "structures": [{"bulk": {"name": "Si"}}],
            "prepare": {"n_structures": 4},
            "label": LABEL,
        }
        loop.config_file.write_text(yaml.safe_dump(config))
        if gpaw_with_mpi is not None:
            loop.environment["PYTHONPATH"] += f"{os.pathsep}{gpaw_with_mpi}"
        loop.start(*PROFILE, *RANKS, target=SHARD).finish()
        (job,) = loop.jobs("label_structures")
    assert (job.state, job.node) == ("COMPLETED", "node[1-2]")
    assert "--mpi=pmi2 -n 2" in calls.read_text()
    (attempt,) = (a for a in read_attempts(loop.results) if a.step == "label_structures")
    assert attempt.cores == 2
    labelled = read_structures(tmp_path / SHARD)
    assert labelled
    serial = Labeller(Label(**LABEL), tmp_path / "serial")
    with serial as labeller:
        alone = labeller.label(labelled[0])
    assert alone.key == labelled[0].info["label_key"]
    assert labelled[0].get_potential_energy() == pytest.approx(alone.record["results"]["energy"], abs=1e-8)
    np.testing.assert_allclose(labelled[0].get_forces(), alone.record["results"]["forces"], atol=1e-8)
