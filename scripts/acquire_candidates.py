"""Judge a round of a study, and choose the structures that it has labelled next."""

from pathlib import Path

from mlip.jobs.job import log_step
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    from mlip.studies import load_study
    from mlip.studies.steps import acquire_candidates

    acquire_candidates(
        load_study(snakemake.wildcards.study, snakemake.params.settings),
        Path(snakemake.input.property).parent,
        Path(snakemake.input.reference),
        Path(snakemake.input.potential[0]).parent,
        number=int(snakemake.wildcards.round),
        seed=snakemake.params.seed,
        out=Path(snakemake.output.candidates),
        decisions=Path(snakemake.output.decisions),
        verdict=Path(snakemake.output.verdict),
        device=pick_device(),
    )
