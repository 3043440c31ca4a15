"""Train the committee of one iteration."""

from pathlib import Path

from mlip.config import Train
from mlip.logs import log_step, pick_device, report_progress

with log_step(snakemake.log[0], snakemake.threads):
    import torch

    from mlip.extxyz import read_structures
    from mlip.files import read_json
    from mlip.training import train_committee

    torch.set_num_threads(snakemake.threads)
    out = Path(snakemake.output.weights).parent
    train_committee(
        read_structures(snakemake.input.train),
        read_structures(snakemake.input.valid),
        Train(**snakemake.params.settings["train"]),
        out,
        seed=snakemake.params.seed,
        device=pick_device(),
        isolated_energies=read_json(snakemake.input.isolated) or None,
        # Beside the outputs, which Snakemake deletes when a killed training starts again.
        checkpoint=out / "checkpoint",
        progress=report_progress(out / "training.progress.json"),
    )
