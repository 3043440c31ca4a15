"""Train one variant of the ablation and measure its elastic constants."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.config.train import Train
from mlip.jobs.job import log_step
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.io.extxyz import read_structures
    from mlip.io.files import read_json
    from mlip.io.netcdf import read_netcdf
    from mlip.structures.starting import load_starting_structure
    from mlip.studies.elastic.experiments.ablation import ablate_variant

    torch.set_num_threads(snakemake.threads)
    ablate_variant(
        snakemake.wildcards.variant,
        snakemake.params.change,
        read_structures(snakemake.input.train),
        read_structures(snakemake.input.valid),
        load_starting_structure(StartingStructure(**snakemake.params.source)),
        read_netcdf(Path(snakemake.input.reference)),
        Train(**snakemake.params.settings["train"]),
        **snakemake.params.plan,
        isolated_energies=read_json(snakemake.input.isolated) or None,
        seed=snakemake.params.seed,
        out=Path(snakemake.output.result),
        device=pick_device(),
    )
