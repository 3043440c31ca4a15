"""Training of a committee on labelled structures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.config import Train

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["train_committee"]


def train_committee(
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    settings: Train,
    out: Path,
    *,
    seed: int,
    device: str = "cpu",
    isolated_energies: dict[str, float] | None = None,
    checkpoint: Path | None = None,
    max_seconds: float | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a committee, calibrate it and write it, with ``training.json``, into ``out``.

    Args:
        train: labelled structures; one with stress labels contributes them.
        valid: labelled structures for calibration; may be empty.
        settings: section ``train`` of the configuration.
        out: output folder.
        seed: of initial weights, batches and the structures each member leaves out.
        device: torch device to train on.
        isolated_energies: E0 per element in eV; None fits them to compositions.
        checkpoint: file to write checkpoints to, and to continue from when it fits data,
            settings and seed; removed when training is complete.
        max_seconds: train for this long instead of ``settings.n_steps`` steps.
        progress: called with each entry of the history.

    Returns:
        The content of ``training.json``.

    Raises:
        TrainingDataError: (a ValueError) for data that cannot be trained on.
        FloatingPointError: when training diverges.
    """
    from mlip.training.pipeline import prepare_training, write_results
    from mlip.training.trainer import Trainer

    began = time.perf_counter()
    prepared = prepare_training(train, valid, settings, seed, device, isolated_energies)
    identity = json.dumps([prepared.fingerprint, settings.model_dump(), seed, device, isolated_energies, max_seconds])
    trainer = Trainer(
        prepared.network,
        prepared.data,
        settings,
        seed,
        hashlib.sha256(identity.encode()).hexdigest(),
        max_seconds=max_seconds,
        checkpoint=checkpoint,
        progress=progress,
    )
    trainer.run()
    result = write_results(prepared, trainer, train, valid, Path(out), device, time.perf_counter() - began)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return result
