"""Optimisation of a committee: schedule, averaging and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlip.config import Train
from mlip.potential.ace import CommitteeNetwork
from mlip.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mlip.training.data import Dataset
from mlip.training.loss import compute_loss, take_batch

WARMUP = 0.03
"""Share of the schedule over which the learning rate rises."""
RAMP = (0.01, 1.0)
"""Energy and virial weights at the start and the end, relative to the settings'."""
CLIP = 1.0
"""Largest gradient norm of a member."""
WEIGHT_DECAY = 1e-3
LEFT_OUT_WEIGHT = 0.1
"""Weight of a structure for the one member that is to know little of it."""


@dataclass
class Trainer:
    """Trains ``network`` on ``data``; every random choice is a function of seed and step.

    Args:
        max_seconds: when given, the schedule follows the elapsed time instead of the steps.
        identity: names data and settings; a checkpoint of another identity is not continued.
    """

    network: CommitteeNetwork
    data: Dataset
    settings: Train
    seed: int
    identity: str
    max_seconds: float | None = None
    checkpoint: Path | None = None
    progress: Callable[[dict[str, Any]], None] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.parameters = dict(self.network.named_parameters())
        self.moments = {
            kind: {name: torch.zeros_like(p) for name, p in self.parameters.items()} for kind in ("first", "second")
        }
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        n_members = self.settings.committee_size
        self.member_weights = assign_members(len(self.data.rows), n_members, self.seed).to(self.data.sizes.device)

    def run(self) -> None:
        """Train to the end of the schedule and leave the averaged weights in the network."""
        self._restore()
        began = time.perf_counter() - self.seconds
        while (fraction := self._fraction()) < 1.0:
            squares = self._advance(fraction)
            self.step += 1
            self.seconds = time.perf_counter() - began
            if self.step % self.settings.checkpoint_every == 0 or self._fraction() >= 1.0:
                self._record(squares)
                self._save()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])

    def _fraction(self) -> float:
        if self.max_seconds is not None:
            return self.seconds / self.max_seconds
        return self.step / self.settings.n_steps

    def _advance(self, fraction: float) -> Tensor:
        """One step of Adam (Kingma and Ba, arXiv:1412.6980) with decoupled weight decay."""
        chosen = choose_batch(len(self.data.rows), self.settings.batch_size, self.step, self.seed)
        batch = take_batch(self.data, chosen, self.member_weights, self.network.size.n_species)
        ramp = RAMP[0] * (RAMP[1] / RAMP[0]) ** fraction
        loss, squares = compute_loss(self.network, batch, self.settings, ramp)
        gradients = dict(zip(self.parameters, torch.autograd.grad(loss, list(self.parameters.values())), strict=True))
        norms = sum(g.square().flatten(2).sum((0, 2)) for g in gradients.values()) ** 0.5
        shrink = (CLIP / norms.clamp(min=CLIP)).nan_to_num(0.0)
        rate = self.settings.learning_rate * learning_rate_factor(fraction)
        with torch.no_grad():
            for name, gradient in gradients.items():
                self._update(name, gradient * shrink.view(1, -1, *[1] * (gradient.ndim - 2)), rate)
        return squares

    def _update(self, name: str, gradient: Tensor, rate: float) -> None:
        parameter = self.parameters[name]
        first, second = self.moments["first"][name], self.moments["second"][name]
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.01)
        debiased = second / (1.0 - 0.99 ** (self.step + 1))
        direction = first / (1.0 - 0.9 ** (self.step + 1)) / (debiased.sqrt() + 1e-8)
        parameter.mul_(1.0 - rate * WEIGHT_DECAY).sub_(direction, alpha=rate)
        decay = min(0.99, (1.0 + self.step) / (10.0 + self.step))
        self.average[name].lerp_(parameter, 1.0 - decay)

    def _record(self, squares: Tensor) -> None:
        energy, force, virial = (float(v) for v in squares.sqrt())
        entry = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "energy_rmse": 1e3 * energy,
            "force_rmse": 1e3 * force,
            "virial_rmse": 1e3 * virial,
        }
        if not np.isfinite(energy + force):
            raise FloatingPointError(
                f"training diverged at step {self.step} (seed {self.seed}); lower train.learning_rate, or look for "
                "unphysical labels"
            )
        self.history.append(entry)
        if self.progress is not None:
            self.progress(entry)

    def _state(self) -> dict[str, Tensor]:
        groups: dict[str, dict[str, Tensor]] = {
            "parameter": dict(self.parameters),
            "average": self.average,
            **self.moments,
        }
        return {f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()}

    def _save(self) -> None:
        if self.checkpoint is not None:
            state = Checkpoint(self.step, self.seconds, self.identity, self.history, self._state())
            write_checkpoint(self.checkpoint, state)

    def _restore(self) -> None:
        found = read_checkpoint(self.checkpoint, self.identity) if self.checkpoint is not None else None
        if found is None:
            return
        self.step, self.seconds, self.history = found.step, found.seconds, found.history
        with torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(found.tensors[name])


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


def assign_members(n_structures: int, n_members: int, seed: int) -> Tensor:
    """Structure weights [n_members, n_structures]: each structure is nearly left out by one member."""
    order = np.random.default_rng([seed, 2]).permutation(n_structures)
    weights = torch.ones(n_members, n_structures)
    weights[torch.from_numpy(order % n_members), torch.arange(n_structures)] = LEFT_OUT_WEIGHT
    return weights
