"""Assess one iteration and decide whether the loop goes on."""

from pathlib import Path

from mlip.config.loop import Assess, Budget
from mlip.jobs.job import log_step
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.loop.assess_potential import assess_potential

    studies = snakemake.params.studies
    if studies:
        from mlip.studies.steps import gate_criteria

        measured = [Path(path) for path in snakemake.input.studies]
        criteria = gate_criteria(studies, measured, [Path(path) for path in snakemake.input.study_references])
    else:
        criteria = []
    torch.set_num_threads(snakemake.threads)
    out = Path(snakemake.output.assessment).parent
    assess_potential(
        Path(snakemake.input.old[0]).parent if snakemake.input.old else None,
        Path(snakemake.input.potential[0]).parent,
        Path(snakemake.input.dataset).parent,
        Path(snakemake.input.references),
        Path(snakemake.input.frames),
        Path(snakemake.input.planned[0]) if snakemake.input.planned else None,
        Path(snakemake.input.candidates),
        results=out.parent.parent,
        settings=Assess(**snakemake.params.settings["assess"]),
        budget=Budget(**snakemake.params.settings["budget"]),
        min_iterations=snakemake.params.min_iterations,
        iteration=int(snakemake.wildcards.iteration),
        out=out,
        device=pick_device(),
        studies=criteria,
    )
