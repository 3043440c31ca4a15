"""Run one exploration walker."""

from pathlib import Path

from mlip.config.loop import Explore
from mlip.config.walkers import WalkerPlan
from mlip.jobs.job import log_step, report_progress
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.loop.explore_walkers import WalkerRequest, explore_walker

    torch.set_num_threads(snakemake.threads)
    request = WalkerRequest(
        Path(snakemake.input.potential[0]).parent,
        WalkerPlan(**snakemake.params.plan),
        Explore(**snakemake.params.settings),
        Path(snakemake.output.trajectory),
        seed=snakemake.params.seed,
        iteration=int(snakemake.wildcards.iteration),
        walker=int(snakemake.wildcards.walker),
        last=[Path(path) for path in snakemake.input.last],
        uncertain=[Path(path) for path in snakemake.input.uncertain],
        rungs=Path(snakemake.input.rungs[0]) if snakemake.input.rungs else None,
        device=pick_device(),
        progress=report_progress(),
    )
    explore_walker(request)
