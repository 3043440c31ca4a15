"""Train the last committee once more, on every label."""

from pathlib import Path

from mlip.jobs.job import log_step, report_progress
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.loop.retrain_committee import RetrainRequest, retrain_committee

    torch.set_num_threads(snakemake.threads)
    out = Path(snakemake.output.weights).parent
    request = RetrainRequest(
        Path(snakemake.input.before[0]).parent,
        [Path(path) for path in snakemake.input.dataset],
        Path(snakemake.input.isolated),
        out,
        seed=snakemake.params.seed,
        iteration=len(snakemake.input.assessments) - 1,
        device=pick_device(),
        progress=report_progress(out / "training.progress.json"),
    )
    retrain_committee(request)
