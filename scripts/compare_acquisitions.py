"""Compare the acquisition of the equation of state with labels at uniform densities."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.config.system import parse_config
from mlip.config.train import Train
from mlip.jobs.job import log_step, report_progress
from mlip.jobs.resources import pick_device
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.io.files import read_json
    from mlip.potential import load_potential
    from mlip.structures.starting import load_starting_structure
    from mlip.studies.eos.experiments.comparison import Plan
    from mlip.studies.eos.experiments.experiment import run_comparison
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
