"""Join a study's labels with all earlier data."""

from pathlib import Path

from mlip.config.loop import Collect
from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.loop.collect_dataset import collect_dataset

    previous = snakemake.input.previous
    collect_dataset(
        [Path(path) for path in snakemake.input.shards],
        [Path(path) for path in snakemake.input.records],
        Path(previous[0]).parent if previous else None,
        iteration=snakemake.params.first_iteration + int(snakemake.wildcards.round) - 1,
        settings=Collect(**snakemake.params.settings["collect"]),
        **snakemake.params.screens,
        out=Path(snakemake.output.train).parent,
    )
