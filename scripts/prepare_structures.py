"""Prepare the structures of iteration 0."""

from pathlib import Path

from mlip.config.structures import Prepare, StartingStructure
from mlip.config.walkers import Demand
from mlip.jobs.job import log_step

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.loop.prepare_structures import prepare_structures

    prepare_structures(
        [StartingStructure(**source) for source in snakemake.params.sources],
        Prepare(**snakemake.params.settings["prepare"]),
        seed=snakemake.params.seed,
        min_ratio=snakemake.params.min_ratio,
        out=Path(snakemake.output.candidates),
        demands=[Demand(**demand) for demand in snakemake.params.demands],
        compressed=snakemake.params.compressed,
    )
