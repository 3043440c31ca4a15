"""Plant a fault in training data or settings; find, name and mend it."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.config.train import Train
from mlip.jobs.job import log_step
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.labels.importing import import_calculator
    from mlip.structures.starting import load_starting_structure
    from mlip.studies.elastic.experiments.demonstration import demonstrate_fault, train_fully

    torch.set_num_threads(snakemake.threads)
    label, settings = snakemake.params.label, dict(snakemake.params.settings)
    build = import_calculator(label["calculator"])
    wrong = label["parameters"] | settings["wrong_parameters"]
    seed = snakemake.params.seed
    demonstrate_fault(
        snakemake.wildcards.fault,
        load_starting_structure(StartingStructure(**snakemake.params.source)),
        Train(**snakemake.params.train["train"]),
        build(**label["parameters"]),
        build(**wrong),
        fit=train_fully(seed, pick_device()),
        n_labels=settings["n_labels"],
        seed=seed,
        out=Path(snakemake.output.page).parent,
    )
