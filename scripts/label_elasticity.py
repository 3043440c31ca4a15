"""Label the strained crystals from which the reference elastic constants follow."""

from pathlib import Path

from mlip.config.label import Label
from mlip.jobs.job import log_step, report_progress
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.io.extxyz import read_structures
    from mlip.studies.validation.reference import label_elasticity

    label_elasticity(
        read_structures(snakemake.input.references),
        Label(**snakemake.params.settings["label"]),
        store=label_store(),
        out=Path(snakemake.output.elasticity),
        progress=report_progress(),
    )
