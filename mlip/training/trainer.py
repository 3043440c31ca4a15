"""Optimisation of a committee: schedule, averaging and checkpoints."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
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
from mlip.training.optimizer import Soap
from mlip.training.parallel import SINGLE, Processes, share_settings

WARMUP = 0.03
"""Share of the schedule over which the learning rate rises."""
RAMP = (0.01, 1.0)
"""Energy and virial weights at the start and the end, relative to the settings'."""
CLIP = 1.0
"""Largest gradient norm."""
AVERAGING = 0.998
"""Decay per step of the running average of the weights, which is what training returns."""
FORCE_MEMBERS = 2
"""Members whose forces are compared with a structure's label in one step: each sees half of what it would, at half
the cost. Energies, which cost little, are compared for all."""
LEFT_OUT_WEIGHT = 0.1
"""Weight of a structure for the one member that is to know little of it."""


@dataclass
class Trainer:
    """Trains ``network`` on ``data``; every random choice is a function of seed and step.

    Args:
        max_seconds: when given, the schedule follows the elapsed time (CPU time on a CPU) instead of the steps.
        identity: names data and settings; a checkpoint of another identity is not continued.
        start: share of the schedule that is skipped: training from earlier weights runs its end.
        processes: those that share the batches.
        keys: digest of each structure, by which it is nearly left out by the same member in every iteration.
    """

    network: CommitteeNetwork
    data: Dataset
    settings: Train
    seed: int
    identity: str
    max_seconds: float | None = None
    checkpoint: Path | None = None
    progress: Callable[[dict[str, Any]], None] | None = None
    start: float = 0.0
    keys: Sequence[str] | None = None
    processes: Processes = SINGLE
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.parameters = dict(self.network.named_parameters())
        self.optimizer = Soap(self.parameters)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        n_members = self.settings.committee_size
        weights = assign_members(len(self.data.rows), n_members, self.seed, self.keys)
        self.member_weights = weights.to(self.data.sizes.device)

    def run(self) -> None:
        """Train to the end of the schedule and leave the averaged weights in the network."""
        self._restore()
        # CPU time on a CPU: a busy machine must not shorten the training.
        clock = time.process_time if self.data.sizes.device.type == "cpu" else time.perf_counter
        began = clock() - self.seconds
        while (fraction := self._fraction()) < 1.0:
            squares = self._advance(fraction)
            self.step += 1
            self.seconds = clock() - began
            if self.max_seconds is not None:
                self.seconds = self.processes.agree(self.seconds, self.data.sizes.device)
            if self.step % self.settings.checkpoint_every == 0 or self._fraction() >= 1.0:
                self.processes.copy_(self._state().values())  # round-off must not drive the processes apart
                self._record(squares)
                self._save()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])

    def _fraction(self) -> float:
        """Place in the schedule, from ``start`` to 1."""
        n_steps = math.ceil((1.0 - self.start) * self.settings.n_steps)
        done = self.step / n_steps if self.max_seconds is None else self.seconds / self.max_seconds
        return self.start + (1.0 - self.start) * done if done < 1.0 else 1.0

    def _advance(self, fraction: float) -> Tensor:
        """One step; mean squares of the batch's errors."""
        chosen = choose_batch(len(self.data.rows), self.settings.batch_size, self.step, self.seed)
        ramp = RAMP[0] * (RAMP[1] / RAMP[0]) ** fraction
        gradients, squares = self._gradients(chosen, ramp)
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        shrink = (CLIP / norm.clamp(min=CLIP)).nan_to_num(0.0)
        rate = self.settings.learning_rate * learning_rate_factor(fraction)
        if self.start > 0.0:  # the optimiser's moments are new, even where the weights are not
            rate *= min(1.0, (self.step + 1) / (WARMUP * self.settings.n_steps))
        self.optimizer.update({name: g * shrink for name, g in gradients.items()}, rate, self.step)
        decay = min(AVERAGING, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.average[name].lerp_(parameter, 1.0 - decay)
        return squares

    def _gradients(self, chosen: list[int], ramp: float) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the loss on a batch and its mean squares, summed over the processes' shares."""
        share = self.processes.share(chosen)
        gradients = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        squares = self.data.sizes.new_zeros(3)
        if share:
            settings, parts = share_settings(self.settings, self.data.rows, share, chosen)
            members = choose_members(self.member_weights, self.step, self.seed)
            batch = take_batch(self.data, share, self.member_weights, self.network.size.n_species, members)
            loss, squares = compute_loss(self.network, batch, settings, ramp)
            found = torch.autograd.grad(loss, list(self.parameters.values()))
            gradients = dict(zip(self.parameters, found, strict=True))
            squares = squares * squares.new_tensor(parts)
        self.processes.sum_([*gradients.values(), squares])
        return gradients, squares

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
        if self.progress is not None and self.processes.first:
            self.progress(entry)

    def _state(self) -> dict[str, Tensor]:
        groups: dict[str, dict[str, Tensor]] = {
            "parameter": dict(self.parameters),
            "average": self.average,
            "optimizer": self.optimizer.state(),
        }
        return {f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()}

    def _save(self) -> None:
        if self.checkpoint is not None and self.processes.first:
            state = Checkpoint(self.step, self.seconds, self.identity, self.history, self._state())
            write_checkpoint(self.checkpoint, state)

    def _restore(self) -> None:
        """Continue from the checkpoint that the first process finds."""
        reads = self.checkpoint is not None and self.processes.first
        found = read_checkpoint(self.checkpoint, self.identity) if reads and self.checkpoint is not None else None
        device = self.data.sizes.device
        if found is not None:
            self.step, self.seconds, self.history = found.step, found.seconds, found.history
            with torch.no_grad():
                for name, tensor in self._state().items():
                    tensor.copy_(found.tensors[name])
        self.step = round(self.processes.agree(self.step, device))
        self.seconds = self.processes.agree(self.seconds, device)
        self.processes.copy_(self._state().values())


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
