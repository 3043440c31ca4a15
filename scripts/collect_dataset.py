"""Collect an iteration's labels into the cumulative data set."""

from pathlib import Path

from mlip.config.loop import Collect
from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.loop.collect_dataset import collect_dataset

    collect_dataset(
        [Path(path) for path in [*snakemake.input.shards, *snakemake.input.data]],
        [Path(path) for path in [*snakemake.input.records, *snakemake.input.data_records]],
        Path(snakemake.input.previous[0]).parent if snakemake.input.previous else None,
        iteration=int(snakemake.wildcards.iteration),
        settings=Collect(**snakemake.params.settings["collect"]),
        **snakemake.params.screens,
        comparison=Path(snakemake.input.comparison[0]) if snakemake.input.comparison else None,
        out=Path(snakemake.output.train).parent,
    )
