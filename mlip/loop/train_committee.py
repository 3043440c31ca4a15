"""Training of a committee on labelled structures, by the backend that the configuration names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlip.config.backends import BACKENDS, import_function
from mlip.potential.memory import keep_freed_memory
from mlip.training.data import resolve_cutoff
from mlip.training.request import TrainingRequest

__all__ = ["TrainingRequest", "train_committee"]


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
