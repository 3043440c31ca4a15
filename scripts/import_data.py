"""Import labelled structures that exist already."""

from pathlib import Path

from mlip.config.data import DataSource
from mlip.config.label import Guards
from mlip.config.train import Train
from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.loop.import_data import import_data

    screens = snakemake.params.screens
    import_data(
        [DataSource(**source) for source in snakemake.params.sources],
        guards=Guards(**screens["guards"]),
        train=Train(**screens["train"]),
        max_failed_fraction=screens["max_failed_fraction"],
        seed=snakemake.params.seed,
        alone=snakemake.params.alone,
        out_structures=Path(snakemake.output.structures),
        out_records=Path(snakemake.output.records),
    )
