"""Run one part of a study's experiment."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.config.system import parse_config
from mlip.config.train import Train
from mlip.jobs.job import log_step, report_progress
from mlip.jobs.resources import pick_device
from mlip.labels.process.launcher import use_mpi
from mlip.labels.store import label_store

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.structures.starting import load_starting_structure
    from mlip.studies.experiments import Task, experiments_of, run_experiment
    from mlip.studies.interface import Labelled

    use_mpi(dict(snakemake.resources.items()))
    torch.set_num_threads(snakemake.threads)
    progress = report_progress()
    task = Task(
        snakemake.wildcards.part,
        snakemake.params.settings["plan"],
        [load_starting_structure(StartingStructure(**source)) for source in snakemake.params.sources],
        Train(**snakemake.params.settings["train"]),
        Labelled(parse_config(snakemake.config).label, label_store(), progress),
        seed=snakemake.params.seed,
        folder=Path(snakemake.output.result).parent,
        device=pick_device(),
        progress=progress,
        files=dict(snakemake.input.items()),
    )
    run_experiment(experiments_of(snakemake.wildcards.study)[snakemake.wildcards.experiment], task)
