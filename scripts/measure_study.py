"""Measure a study's property with a potential."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.jobs.job import log_step, report_progress
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.io.extxyz import read_structures
    from mlip.io.netcdf import read_netcdf
    from mlip.structures.starting import load_starting_structure
    from mlip.studies import load_study
    from mlip.studies.interface import Reference
    from mlip.studies.steps import measure_study

    torch.set_num_threads(snakemake.threads)
    known = snakemake.input.known
    measure_study(
        load_study(snakemake.wildcards.study, snakemake.params.settings),
        Path(snakemake.input.potential[0]).parent,
        [load_starting_structure(StartingStructure(**source)) for source in snakemake.params.sources],
        read_structures(snakemake.input.references),
        read_structures(str(snakemake.input.test)),
        seed=snakemake.params.seed,
        out=Path(snakemake.output.property).parent,
        training=read_structures(str(snakemake.input.train)),
        reference=Reference(read_netcdf(known[0]), read_structures(known[1])) if known else None,
        device=pick_device(),
        progress=report_progress(),
    )
