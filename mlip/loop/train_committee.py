"""Training of a committee on labelled structures, by the backend that the configuration names."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlip.config.backends import BACKENDS, import_function
from mlip.config.train import Train
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json
from mlip.potential.memory import keep_freed_memory
from mlip.structures.roles import is_audit
from mlip.training.data import TrainingDataError, resolve_cutoff
from mlip.training.launch import train_with_processes
from mlip.training.request import TrainingRequest
from mlip.training.restart import NOT_FOLLOWED

__all__ = ["TrainingFiles", "TrainingRequest", "train_committee", "train_from_files"]


def train_committee(request: TrainingRequest) -> dict[str, Any]:
    """Train a committee, calibrate it and write it, with ``training.json``, into ``request.out``.

    Started by torchrun, the processes share every batch (:mod:`mlip.training.parallel`).

    Returns:
        The content of ``training.json``; nothing in all but the first of several processes.

    Raises:
        TrainingDataError: (a ValueError) for data that cannot be trained on.
        FloatingPointError: when training diverges.
    """
    keep_freed_memory()
    settings = resolve_cutoff(request.train, request.settings, request.previous)
    train = import_function(BACKENDS[settings.backend].train)
    result: dict[str, Any] = train(replace(request, settings=settings))
    return result


@dataclass(frozen=True)
class TrainingFiles:
    """Files of an iteration that a training reads and writes.

    Attributes:
        train: Labelled structures to train on.
        valid: Those held out for calibration and early stopping.
        test: Those that never train, of which audits serve calibration.
        isolated: JSON of the energy of an isolated atom per element, eV; an empty object has them fitted.
        out: Folder written; its checkpoint, which a killed training goes on from, is no output of a rule,
            because Snakemake deletes those when a job starts again.
        previous: Folder of the potential to start from, with ``restart: previous``; another is made from
            scratch, with a warning, where it does not fit.
        initial: Folder of the potential that the user has named to start from, which has to fit.
    """

    train: Path
    valid: Path
    test: Path
    isolated: Path
    out: Path
    previous: Path | None = None
    initial: Path | None = None


def train_from_files(
    files: TrainingFiles,
    settings: Train,
    *,
    seed: int,
    device: str,
    n_gpus: int = 1,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """:func:`train_committee` of an iteration's files, with a process on each GPU where there are several.

    Args:
        files: Where the data are and the potential goes.
        settings: Section ``train`` of the configuration.
        seed: See :class:`TrainingRequest`, as for all that follow.
        device: Torch device.
        n_gpus: GPUs of this job; backends that can use only one use one.
        progress: Called with each entry of the history; several processes write it themselves.

    Raises:
        TrainingDataError: for data that cannot be trained on, and when ``files.initial`` does not fit.
    """
    previous = files.previous
    if files.initial is not None:
        settings, previous = settings.model_copy(update={"restart": "previous"}), files.initial
    if n_gpus > 1 and BACKENDS[settings.backend].several_processes:
        places = {"isolated": files.isolated, "previous": previous, "audits": files.test}
        train_with_processes(n_gpus, files.train, files.valid, settings, files.out, seed=seed, device=device, **places)
        return
    request = TrainingRequest(
        read_structures(files.train),
        read_structures(files.valid),
        settings,
        files.out,
        seed=seed,
        device=device,
        isolated_energies=read_json(files.isolated) or None,
        previous=previous,
        checkpoint=files.out / "checkpoint",
        progress=progress,
        audits=[atoms for atoms in read_structures(files.test) if is_audit(atoms)],
    )
    with _insist() if files.initial is not None else contextlib.nullcontext():
        train_committee(request)


@contextlib.contextmanager
def _insist() -> Iterator[None]:
    """Stop where a training would leave the potential that it was told to start from aside, with a warning only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=NOT_FOLLOWED)
        try:
            yield
        except UserWarning as warning:
            raise TrainingDataError(
                f"train.initial: {warning}; give `train` the architecture of that potential (its potential.json), data"
                " of its elements, or leave `initial` out"
            ) from None
