"""Label some of the existing data again and compare."""

from pathlib import Path

from mlip.config.data import DataSource
from mlip.config.system import parse_config
from mlip.jobs.job import log_step, report_progress
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.io.extxyz import read_structures
    from mlip.loop.relabel_data import relabel_data

    relabel_data(
        read_structures(snakemake.input.structures),
        [DataSource(**source) for source in snakemake.params.sources],
        # The rule's params hold only what is a reason to label again; time limits and the like are none.
        parse_config(snakemake.config).label,
        store=label_store(),
        seed=snakemake.params.seed,
        out=Path(snakemake.output.comparison),
        progress=report_progress(),
    )
