"""Train one variant of the ablation and measure its elastic constants."""

from pathlib import Path

from mlip.config import StartingStructure, Train
from mlip.logs import log_step, pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.extxyz import read_structures
    from mlip.files import read_json
    from mlip.structures import load_starting_structure
    from mlip.studies.elastic.ablation import ablate_variant
    from mlip.trajectory import read_netcdf

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
