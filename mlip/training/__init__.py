"""Training of a committee on labelled structures."""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.config import Train

if TYPE_CHECKING:
    from ase import Atoms

    from mlip.training.parallel import Processes

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
    previous: Path | None = None,
    checkpoint: Path | None = None,
    max_seconds: float | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a committee, calibrate it and write it, with ``training.json``, into ``out``.

    Args:
        train: labelled structures; one with stress labels contributes them.
        valid: labelled structures for calibration and early stopping; may be empty.
        settings: section ``train`` of the configuration.
        out: output folder.
        seed: of initial weights, batches and the structures each member leaves out.
        device: torch device to train on.
        isolated_energies: E0 per element in eV; None fits them to compositions.
        previous: folder of the potential to start from, with ``settings.restart: previous``; where its
            elements or architecture do not fit, training starts from scratch with a warning.
        checkpoint: file to write checkpoints to, and to continue from when it fits data,
            settings and seed; removed when training is complete.
        max_seconds: train for this long (CPU time on a CPU) instead of ``settings.n_steps`` steps.
        progress: called with each entry of the history.

    Started by torchrun, the processes share every batch (:mod:`mlip.training.parallel`).

    Returns:
        The content of ``training.json``; nothing in all but the first of several processes.

    Raises:
        TrainingDataError: (a ValueError) for data that cannot be trained on.
        FloatingPointError: when training diverges.
    """
    from mlip.memory import keep_freed_memory
    from mlip.training.data import resolve_cutoff

    keep_freed_memory()
    settings = resolve_cutoff(train, settings, previous)
    if settings.backend == "mace":
        # By name: steps of other backends do not depend on this code, and provenance should not say so.
        train_mace = importlib.import_module("mlip.training.mace").train_mace_committee
        result: dict[str, Any] = train_mace(
            train,
            valid,
            settings,
            out,
            seed=seed,
            device=device,
            isolated_energies=isolated_energies,
            previous=previous,
            checkpoint=checkpoint,
            max_seconds=max_seconds,
            progress=progress,
        )
        return result
    from mlip.training.parallel import join_processes

    with join_processes(device) as (processes, own_device):
        return _train(
            train, valid, settings, Path(out), seed, own_device, isolated_energies, previous, checkpoint, max_seconds,
            progress, processes,
        )  # fmt: skip


def _train(
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    settings: Train,
    out: Path,
    seed: int,
    device: str,
    isolated_energies: dict[str, float] | None,
    previous: Path | None,
    checkpoint: Path | None,
    max_seconds: float | None,
    progress: Callable[[dict[str, Any]], None] | None,
    processes: Processes,
) -> dict[str, Any]:
    """:func:`train_committee` of one process of ``processes``; an empty result for all but the first."""
    from mlip.training.pipeline import prepare_training, write_results
    from mlip.training.trainer import Trainer

    began = time.perf_counter()
    earlier = Path(previous) if previous is not None and settings.restart == "previous" else None
    prepared = prepare_training(train, valid, settings, seed, device, isolated_energies, earlier)
    origin = prepared.previous.sha256 if prepared.previous is not None else None
    kind = device.partition(":")[0]
    identity = json.dumps(
        [prepared.fingerprint, settings.model_dump(), seed, kind, isolated_energies, max_seconds, origin]
    )
    trainer = Trainer(
        prepared.network,
        prepared.data,
        prepared.valid,
        settings=settings,
        seed=seed,
        identity=hashlib.sha256(identity.encode()).hexdigest(),
        max_seconds=max_seconds,
        checkpoint=checkpoint,
        progress=progress,
        start=prepared.start(settings),
        keys=prepared.keys,
        processes=processes,
    )
    trainer.run()
    if not processes.first:
        return {}
    result = write_results(prepared, trainer, train, valid, out, device, time.perf_counter() - began)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return result
