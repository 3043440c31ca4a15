"""Backends of the potential: where the parts of each are, by name, so that nothing is imported before it is needed."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Backend:
    """One kind of network.

    Attributes:
        load: function that makes a potential from description, weights and device.
        train: function that trains a committee as a :class:`mlip.training.request.TrainingRequest` asks.
        potential_code: module that evaluation depends on, beside what every potential needs.
        training_code: module that training depends on, likewise.
        environment: conda environment of its steps, a file in ``envs/``.
        package: what has to be importable there; empty where the project's own requirements are enough.
        restarts: whether an iteration's training can go on from the previous one's weights.
        several_processes: whether training spreads over several GPUs.
        last_layer: whether members are linear in their last layer, so that errors can be traced to labels.
    """

    load: str
    train: str
    potential_code: str
    training_code: str
    environment: str
    package: str = ""
    restarts: bool = False
    several_processes: bool = False
    last_layer: bool = False


BACKENDS = {
    "ace": Backend(
        load="mlip.potential.ace.files:load_ace",
        train="mlip.training.ace.pipeline:train_ace_committee",
        potential_code="mlip.potential.ace.files",
        training_code="mlip.training.ace.pipeline",
        environment="training.yaml",
        restarts=True,
        several_processes=True,
        last_layer=True,
    ),
    "mace": Backend(
        load="mlip.potential.mace.committee:load_mace",
        train="mlip.training.mace.pipeline:train_mace_committee",
        potential_code="mlip.potential.mace.committee",
        training_code="mlip.training.mace.pipeline",
        environment="mace.yaml",
        package="mace",
    ),
}
"""By the name that ``train.backend`` and ``potential.json`` give them."""


def import_function(place: str) -> Any:
    """The function that a :class:`Backend` names as ``module:function``."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
