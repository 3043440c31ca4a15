"""Assess one iteration and decide whether the loop goes on."""

from functools import partial
from pathlib import Path

from mlip.config.label import Guards
from mlip.config.ladder import Ladder
from mlip.config.loop import Assess, Budget, Select
from mlip.jobs.job import log_step
from mlip.jobs.ledger import count_costs
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.loop.assess_potential import AssessmentRequest, assess_potential
    from mlip.studies.steps import gate_criteria

    torch.set_num_threads(snakemake.threads)
    inputs, params = snakemake.input, snakemake.params
    iteration = int(snakemake.wildcards.iteration)
    out = Path(snakemake.output.assessment).parent
    measured, referred = ([Path(path) for path in paths] for paths in (inputs.studies, inputs.study_references))
    assess_potential(
        AssessmentRequest(
            iteration=iteration,
            old=Path(inputs.old[0]).parent if inputs.old else None,
            potential=Path(inputs.potential[0]).parent,
            dataset=Path(inputs.dataset[0]).parent,
            references=Path(inputs.references),
            frames=Path(inputs.frames),
            candidates=Path(inputs.candidates),
            earlier=Path(inputs.earlier[0]) if inputs.earlier else None,
            ladder=Ladder(**params.settings["ladder"]),
            count_costs=partial(count_costs, out.parent.parent, iteration),
            settings=Assess(**params.settings["assess"]),
            select=Select(**params.settings["select"]),
            min_ratio=Guards(**params.settings["guards"]).min_distance_factor,
            budget=Budget(**params.settings["budget"]),
            min_iterations=params.settings["min_iterations"],
            out=out,
            device=pick_device(),
            studies=gate_criteria(params.studies, measured, referred),
        )
    )
