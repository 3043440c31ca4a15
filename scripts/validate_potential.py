"""Hold the deployed potential against the labeller and test its stability."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.jobs.job import log_step, report_progress
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.io.extxyz import read_structures
    from mlip.io.files import read_json
    from mlip.structures.starting import load_starting_structure
    from mlip.studies.validation.study import NVESettings, validate_potential

    torch.set_num_threads(snakemake.threads)
    validate_potential(
        Path(snakemake.input.potential).parent,
        load_starting_structure(StartingStructure(**snakemake.params.source)),
        read_structures(snakemake.input.references),
        read_structures(snakemake.input.training[-1]),
        read_json(snakemake.input.elasticity),
        out=Path(snakemake.output.result).parent,
        nve=NVESettings(**snakemake.params.nve),
        seed=snakemake.params.seed,
        device=pick_device(),
        progress=report_progress(),
    )
