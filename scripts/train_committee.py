"""Train the committee of one iteration."""

from pathlib import Path

from mlip.config.train import Train
from mlip.jobs.job import log_step, report_progress
from mlip.jobs.resources import count_gpus, pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.loop.train_committee import TrainingFiles, train_from_files

    torch.set_num_threads(snakemake.threads)
    out = Path(snakemake.output.weights).parent
    # Studies train without one.
    initial, previous = snakemake.input.get("initial"), snakemake.input.previous
    files = TrainingFiles(
        Path(snakemake.input.train),
        Path(snakemake.input.valid),
        Path(snakemake.input.test),
        Path(snakemake.input.isolated),
        out,
        previous=Path(previous[0]).parent if previous else None,
        initial=Path(initial[0]).parent if initial else None,
    )
    train_from_files(
        files,
        Train(**snakemake.params.settings["train"]),
        seed=snakemake.params.seed,
        device=pick_device(),
        n_gpus=count_gpus(dict(snakemake.resources.items())),
        progress=report_progress(out / "training.progress.json"),
    )
