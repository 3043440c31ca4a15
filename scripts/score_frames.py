"""Score the frames of an iteration's walkers."""

from pathlib import Path

from mlip.config.loop import Carve
from mlip.jobs.job import log_step
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.loop.score_frames import ScoreRequest, score_frames

    torch.set_num_threads(snakemake.threads)
    request = ScoreRequest(
        [Path(path) for path in snakemake.input.walkers],
        Path(snakemake.input.potential[0]).parent,
        Path(snakemake.input.dataset[0]).parent,
        [Path(path) for path in snakemake.input.asked],
        Path(snakemake.output.frames).parent,
        seed=snakemake.params.seed,
        max_atoms=snakemake.params.max_atoms,
        carving=Carve(**snakemake.params.carving) if snakemake.params.carving else None,
        device=pick_device(),
    )
    score_frames(request)
