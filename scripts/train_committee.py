"""Train the committee of one iteration."""

from pathlib import Path

from mlip.config.backends import BACKENDS
from mlip.config.train import Train
from mlip.jobs.job import log_step, report_progress
from mlip.jobs.resources import pick_device

with log_step(snakemake.log[0], snakemake.threads, snakemake.resources):
    import torch

    from mlip.io.extxyz import read_structures
    from mlip.io.files import read_json
    from mlip.jobs.resources import count_gpus
    from mlip.loop.train_committee import TrainingRequest, train_committee
    from mlip.training.launch import train_with_processes

    torch.set_num_threads(snakemake.threads)
    out = Path(snakemake.output.weights).parent
    settings = Train(**snakemake.params.settings["train"])
    previous = Path(snakemake.input.previous[0]).parent if snakemake.input.previous else None
    device, n_gpus = pick_device(), count_gpus(dict(snakemake.resources.items()))
    if n_gpus > 1 and BACKENDS[settings.backend].several_processes:
        train_with_processes(
            n_gpus,
            Path(snakemake.input.train),
            Path(snakemake.input.valid),
            settings,
            out,
            seed=snakemake.params.seed,
            device=device,
            isolated=Path(snakemake.input.isolated),
            previous=previous,
        )
    else:
        train_committee(
            TrainingRequest(
                read_structures(snakemake.input.train),
                read_structures(snakemake.input.valid),
                settings,
                out,
                seed=snakemake.params.seed,
                device=device,
                isolated_energies=read_json(snakemake.input.isolated) or None,
                previous=previous,
                # Beside the outputs, which Snakemake deletes when a killed training starts again.
                checkpoint=out / "checkpoint",
                progress=report_progress(out / "training.progress.json"),
            )
        )
