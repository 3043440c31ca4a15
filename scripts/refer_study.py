"""Compute a study's reference."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.config.system import parse_config
from mlip.jobs.job import log_step, report_progress
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    use_mpi(dict(snakemake.resources.items()))
    from mlip.io.extxyz import read_structures
    from mlip.loop.label_structures import label_structures
    from mlip.structures.starting import load_starting_structure
    from mlip.studies import load_study
    from mlip.studies.steps import refer_study

    config, progress = parse_config(snakemake.config), report_progress()
    structures = refer_study(
        load_study(snakemake.wildcards.study, snakemake.params.settings),
        [load_starting_structure(StartingStructure(**source)) for source in snakemake.params.sources],
        read_structures(snakemake.input.references),
        config.label,
        store=label_store(),
        seed=snakemake.params.seed,
        out=Path(snakemake.output.reference),
        progress=progress,
    )
    label_structures(
        structures,
        config.label,
        store=label_store(),
        # After all iterations of the loop.
        iteration=config.max_iterations - 1,
        shard=0,
        out_structures=Path(snakemake.output.structures),
        out_records=Path(snakemake.output.records),
        progress=progress,
    )
