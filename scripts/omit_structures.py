"""Hold influences on elastic constants against trainings without the structure."""

from pathlib import Path

from mlip.config.structures import StartingStructure
from mlip.config.train import Train
from mlip.jobs.job import log_step, report_progress

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.io.extxyz import read_structures
    from mlip.io.files import read_json
    from mlip.seeds import derive_seed
    from mlip.structures.starting import load_starting_structure
    from mlip.studies.elastic.experiments.demonstration import primitive_cell
    from mlip.studies.elastic.experiments.omission import omit_structures, write_omission

    torch.set_num_threads(snakemake.threads)
    plan = snakemake.params.plan
    training = read_structures(snakemake.input.train)
    found = omit_structures(
        training,
        Train(**snakemake.params.settings["train"]),
        primitive_cell(load_starting_structure(StartingStructure(**snakemake.params.source))),
        n=plan["n"],
        seeds=[derive_seed(snakemake.params.seed, "omission", k) % 2**31 for k in range(plan["n_seeds"])],
        isolated_energies=read_json(snakemake.input.isolated) or None,
        progress=report_progress(),
    )
    write_omission(found, training, Path(snakemake.output.table))
