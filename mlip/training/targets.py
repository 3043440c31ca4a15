"""What errors count: units and robust squares, the same for every backend."""

from __future__ import annotations

import torch
from torch import Tensor

ENERGY_UNIT = 0.05
"""eV/atom that weigh, at equal weights and at the end of training, as much as 1 eV/Å."""
STRESS_UNIT = 0.5
"""Virial in eV/atom that weighs as much as 1 eV/Å. Larger weights made energies worse, too: forces came later."""
HUBER = 1.0
"""Error, in eV/Å or the units above, beyond which it counts linearly: violent structures and wrong labels must not
rule the fit. With 0.3 mean absolute force errors on held-out silicon were 0.5 % lower, but short trainings left single
violent structures unlearnt."""


def robust_square(error: Tensor) -> Tensor:
    """Square of ``error`` that beyond :data:`HUBER` grows linearly, as its slope there does (Huber 1964)."""
    return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=HUBER) * 2.0
