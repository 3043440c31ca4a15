"""Optimisation of a committee: step, learning rate, batches and who learns what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlip.potential.ace.network import CommitteeNetwork
from mlip.training.ace.loss import compute_loss, measure_errors, take_batch
from mlip.training.ace.optimizer import Soap
from mlip.training.batches import WARMUP, assign_members, choose_batch, choose_members, learning_rate_factor
from mlip.training.densities import Dataset
from mlip.training.parallel import share_settings
from mlip.training.schedule import Schedule, WeightAverage

RAMP = (0.001, 0.3)
"""Energy and virial weights at the start and the end, relative to the settings'. Held-out forces of silicon (4 members,
8000 steps, one seed, tests/benchmarks/try_constants.py) are 2.6 % worse from 0.01 and 2.2 % worse to 1.0; energies to
1.0 are 2 % worse, stresses 2 % better."""
CLIP = 1.0
"""Largest gradient norm."""
AVERAGING = 0.998
"""Decay per step of the running average of the weights, which is what training returns."""


@dataclass
class Trainer(Schedule):
    """Trains ``network`` on ``data`` and watches it on ``valid``."""

    network: CommitteeNetwork
    data: Dataset
    valid: Dataset | None = None

    def __post_init__(self) -> None:
        self.parameters = dict(self.network.named_parameters())
        self.optimizer = Soap(self.parameters)
        self.average = WeightAverage(self.parameters, AVERAGING)
        n_members = self.settings.committee_size
        weights = assign_members(len(self.data.rows), n_members, self.seed, self.keys)
        self.member_weights = weights.to(self.data.sizes.device)

    def _device(self) -> torch.device:
        return self.data.sizes.device

    def _averages(self) -> list[WeightAverage]:
        return [self.average]

    def _advance(self, fraction: float) -> Tensor:
        """One step; RMS of the batch's errors."""
        chosen = choose_batch(len(self.data.rows), self.settings.batch_size, self.step, self.seed)
        ramp = RAMP[0] * (RAMP[1] / RAMP[0]) ** fraction
        gradients, squares = self._gradients(chosen, ramp)
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        shrink = (CLIP / norm.clamp(min=CLIP)).nan_to_num(0.0)
        rate = self.settings.learning_rate * learning_rate_factor(fraction)
        if self.start > 0.0:  # the optimiser's moments are new, even where the weights are not
            rate *= min(1.0, (self.step + 1) / (WARMUP * self.settings.n_steps))
        self.optimizer.update({name: g * shrink for name, g in gradients.items()}, rate, self.step)
        self.average.update(self.step)
        return squares.sqrt()

    def _validate(self) -> dict[str, float]:
        """RMS errors of energies (eV/atom) and forces (eV/Å) on the validation data by the averaged weights."""
        if self.valid is None:
            return {}
        with self.average.applied():
            errors = measure_errors(self.network, self.valid, self.settings.batch_size)
        return {f"valid_{name}_rmse": self.processes.agree(v, self._device()) for name, v in errors.items()}

    def _gradients(self, chosen: list[int], ramp: float) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the loss on a batch and its mean squares, summed over the processes' shares."""
        share = self.processes.share(chosen)
        gradients = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        squares = self.data.sizes.new_zeros(3)
        if share:
            settings, parts = share_settings(self.settings, self.data.rows, share, chosen)
            members, size = choose_members(self.member_weights, self.step, self.seed), self.network.size
            batch = take_batch(self.data, share, self.member_weights, size.n_species, members, share=size.n_layers == 1)
            loss, squares = compute_loss(self.network, batch, settings, ramp)
            derivatives = torch.autograd.grad(loss, list(self.parameters.values()))
            gradients = dict(zip(self.parameters, derivatives, strict=True))
            squares = squares * squares.new_tensor(parts)
        self.processes.sum_([*gradients.values(), squares])
        return gradients, squares

    def _state(self) -> dict[str, Tensor]:
        groups: dict[str, dict[str, Tensor]] = {
            "parameter": dict(self.parameters),
            "average": self.average.weights,
            "optimizer": self.optimizer.state(),
        }
        return {f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()}
