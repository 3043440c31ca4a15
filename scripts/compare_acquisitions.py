"""Compare the acquisition of the equation of state with labels at uniform densities."""

from pathlib import Path

from mlip.config import StartingStructure, Train, parse_config
from mlip.logs import label_store, log_step, pick_device, report_progress

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.files import read_json
    from mlip.potential import load_potential
    from mlip.structures import load_starting_structure
    from mlip.studies.eos.comparison import Plan
    from mlip.studies.eos.experiment import run_comparison
    from mlip.studies.eos.settings import Settings
    from mlip.studies.interface import Labelled

    torch.set_num_threads(snakemake.threads)
    potential = snakemake.input.potential
    run_comparison(
        load_starting_structure(StartingStructure(**snakemake.params.source)),
        Settings(**snakemake.params.settings),
        Labelled(parse_config(snakemake.config).label, label_store(), report_progress()),
        Train(**snakemake.params.train),
        Plan(**snakemake.params.plan),
        potential=load_potential(Path(potential).parent, pick_device()) if potential else None,
        isolated=read_json(snakemake.input.isolated) or None,
        seed=snakemake.params.seed,
        out=Path(snakemake.output.table).parent,
    )
