"""Label the strained crystals from which the reference elastic constants follow."""

from pathlib import Path

from mlip.config import Label
from mlip.logs import label_store, log_step, report_progress, use_mpi

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.elasticity import label_elasticity
    from mlip.extxyz import read_structures

    label_elasticity(
        read_structures(snakemake.input.references),
        Label(**snakemake.params.settings["label"]),
        store=label_store(),
        out=Path(snakemake.output.elasticity),
        progress=report_progress(),
    )
