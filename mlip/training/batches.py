"""Which structures and members a step sees, and how fast it learns; the same for every backend."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

WARMUP = 0.03
"""Share of the schedule over which the learning rate rises."""
FORCE_MEMBERS = 2
"""Members whose forces are compared with a structure's label in one step: each sees half of what it would, at half
the cost. Energies, which cost little, are compared for all."""
LEFT_OUT_WEIGHT = 0.1
"""Weight of a structure for the one member that is to know little of it."""


def learning_rate_factor(fraction: float) -> float:
    """Linear warm-up, then a cosine to zero, over ``fraction`` 0..1 of the schedule."""
    if fraction < WARMUP:
        return (fraction + 0.1 * WARMUP) / (1.1 * WARMUP)
    return 0.5 * (1.0 + math.cos(math.pi * (fraction - WARMUP) / (1.0 - WARMUP)))


def choose_batch(n_structures: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Structures of batch ``step``: a new permutation each epoch, a function of seed and epoch alone."""
    size = min(batch_size, n_structures)
    per_epoch = n_structures // size
    epoch, index = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch, 1]).permutation(n_structures)
    return sorted(order[index * size : (index + 1) * size].tolist())


def choose_members(weights: Tensor, step: int, seed: int) -> Tensor | None:
    """Members [FORCE_MEMBERS, n_structures] whose forces step ``step`` compares; None for all.

    At random among those that do not leave the structure out (``weights`` [P, n_structures]).
    """
    if len(weights) <= FORCE_MEMBERS:
        return None
    random = np.random.default_rng([seed, step, 3]).random(tuple(weights.shape))
    score = torch.from_numpy(random).to(weights) + (weights < 1.0)
    return score.topk(FORCE_MEMBERS, 0, largest=False).indices


def assign_members(n_structures: int, n_members: int, seed: int, keys: Sequence[str] | None = None) -> Tensor:
    """Structure weights [n_members, n_structures]: each structure is nearly left out by one member of several.

    By ``keys`` the choice is a structure's own: a committee that is trained on from earlier weights
    would lose its diversity if every structure became known to every member in the end.
    """
    if n_members == 1:
        return torch.ones(1, n_structures)
    order = np.random.default_rng([seed, 2]).permutation(n_structures)
    if keys is not None:
        order = np.array([int(hashlib.sha256(f"{seed} {key}".encode()).hexdigest()[:8], 16) for key in keys])
    weights = torch.ones(n_members, n_structures)
    weights[torch.from_numpy(order % n_members), torch.arange(n_structures)] = LEFT_OUT_WEIGHT
    return weights
