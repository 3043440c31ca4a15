"""Optimisation of a MACE committee.

The loss is a force-dominated mean square error, linear for gross errors; the weight of the energies
rises from a tenth to ten times the settings' over the schedule, for energies follow once forces are
right. Members differ by initial weights, order of batches and the structures that each nearly leaves out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mlip.potential.mace.network import Graph, join_graphs
from mlip.training.batches import WARMUP, assign_members, choose_batch, learning_rate_factor
from mlip.training.schedule import Schedule, WeightAverage
from mlip.training.targets import ENERGY_UNIT, STRESS_UNIT, robust_square

RAMP = (0.1, 10.0)
"""Weight of squared energy errors per atom, (eV/atom)², against (eV/Å)², at the start and the end."""
VIRIAL_SHARE = 0.1
"""Weight of squared virial errors per atom, relative to the energies'."""
CLIP = 1.0
"""Largest gradient norm of a member."""
WEIGHT_DECAY = 1e-3
EMA = 0.99
ENERGY_AND_FORCES = ("interaction_energy", "forces")


@dataclass(frozen=True)
class MACETargets:
    """Geometry and labels of the training set.

    ``energies`` [n] are interaction energies (eV), ``forces`` one array [n_atoms, 3] (eV/Å) per
    structure, ``virials`` [n, 3, 3] dE/dstrain (eV), ``has_stress`` [n] 1.0 where there is a label.
    """

    graphs: list[Graph]
    energies: np.ndarray
    forces: list[np.ndarray]
    virials: np.ndarray
    has_stress: np.ndarray


@dataclass
class MACETrainer(Schedule):
    """Trains ``networks``, side by side, on ``targets``, on ``device``, and watches them on ``valid``.

    ``rate`` is the peak learning rate.
    """

    networks: list[Any]
    targets: MACETargets
    valid: MACETargets
    rate: float
    head: int
    device: str

    rate_key: ClassVar[str] = "train.mace.learning_rate"

    def __post_init__(self) -> None:
        self.parameters = [
            {name: p for name, p in network.named_parameters() if p.requires_grad and p.numel()}
            for network in self.networks
        ]
        self.averages = [WeightAverage(trained, EMA) for trained in self.parameters]
        self.optimizers = [
            torch.optim.AdamW(trained.values(), weight_decay=WEIGHT_DECAY) for trained in self.parameters
        ]
        for optimizer in self.optimizers:
            for parameter in optimizer.param_groups[0]["params"]:
                zero = torch.zeros_like(parameter)
                optimizer.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": zero, "exp_avg_sq": zero.clone()}
        self.n_elements = int(self.networks[0].atomic_numbers.numel())
        self.weights = assign_members(len(self.targets.graphs), len(self.networks), self.seed, self.keys).numpy()

    def _device(self) -> torch.device:
        return torch.device(self.device)

    def _averages(self) -> list[WeightAverage]:
        return self.averages

    def _advance(self, fraction: float) -> Tensor:
        """One step of every member."""
        squares = [self._advance_member(member, fraction) for member in range(len(self.networks))]
        return torch.from_numpy(np.sqrt(np.mean(squares, axis=0)))

    def _validate(self) -> dict[str, float]:
        """RMS errors of energies (eV/atom) and forces (eV/Å) on validation data by the mean of the averaged weights."""
        valid, size = self.valid, self.settings.batch_size
        if not valid.graphs:
            return {}
        squares = []
        with contextlib.ExitStack() as stack:
            for average in self.averages:
                stack.enter_context(average.applied())
            for first in range(0, len(valid.graphs), size):
                chosen = range(first, min(first + size, len(valid.graphs)))
                inputs, sizes, energies, forces = self._join(valid, chosen)
                outputs = [network(inputs) for network in self.networks]
                means = [torch.stack([o[name].detach() for o in outputs]).mean(0) for name in ENERGY_AND_FORCES]
                energy, force = ((means[0] - energies) / sizes).square(), (means[1] - forces).square()
                squares.append((float(energy.sum()), float(force.sum())))
        total = np.sum(squares, axis=0) / (len(valid.graphs), sum(f.size for f in valid.forces))
        return {"valid_energy_rmse": float(total[0]) ** 0.5, "valid_force_rmse": float(total[1]) ** 0.5}

    def _advance_member(self, member: int, fraction: float) -> np.ndarray:
        """One step of one member; its mean squares of energy, force and virial errors."""
        size, n = self.settings.batch_size, len(self.targets.graphs)
        chosen = choose_batch(n, size, self.step, self.seed + 7919 * member)
        loss, squares = self._loss(member, chosen, RAMP[0] * (RAMP[1] / RAMP[0]) ** fraction)
        optimizer, parameters = self.optimizers[member], self.parameters[member]
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP)
        # The moments are new, even where the weights are not.
        warm = min(1.0, (self.step + 1) / (WARMUP * self.settings.n_steps)) if self.start > 0.0 else 1.0
        optimizer.param_groups[0]["lr"] = self.rate * learning_rate_factor(fraction) * warm
        optimizer.step()
        self.averages[member].update(self.step)
        return squares

    def _loss(self, member: int, chosen: Sequence[int], ramp: float) -> tuple[Tensor, np.ndarray]:
        targets, settings = self.targets, self.settings
        inputs, sizes, energies, forces = self._join(targets, chosen)
        weights = self._tensor(self.weights[member, chosen])
        has_stress = self._tensor(targets.has_stress[chosen])
        virials = bool(targets.has_stress[chosen].any()) and settings.stress_weight > 0
        output = self.networks[member](inputs, training=True, compute_virials=virials)
        energy = (output["interaction_energy"] - energies) / sizes
        force = output["forces"] - forces
        virial = energy.new_zeros((len(chosen), 3, 3))
        if virials:
            error = (-output["virials"] - self._tensor(targets.virials[chosen])) / sizes[:, None, None]
            virial = error * has_stress[:, None, None]
        force_loss = robust_square(force).mean(1) * weights[inputs["batch"]]
        energy_loss = _robust_energy(energy, ENERGY_UNIT) * weights
        virial_loss = _robust_energy(virial, STRESS_UNIT).mean((1, 2)) * weights
        loss = settings.force_weight * force_loss.mean()
        loss = loss + settings.energy_weight * ramp * energy_loss.mean()
        loss = loss + settings.stress_weight * VIRIAL_SHARE * ramp * virial_loss.mean()
        return loss, torch.stack([e.detach().square().mean() for e in (energy, force, virial)]).cpu().numpy()

    def _join(self, targets: MACETargets, chosen: Sequence[int]) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
        """The networks' input for the structures ``chosen``; their sizes, energies (eV) and forces (eV/Å)."""
        graphs = [targets.graphs[k] for k in chosen]
        inputs = join_graphs(graphs, self.n_elements, self.head, self.device, torch.float32)
        sizes = self._tensor(np.array([len(g.positions) for g in graphs]))
        forces = self._tensor(np.concatenate([targets.forces[k] for k in chosen]))
        return inputs, sizes, self._tensor(targets.energies[chosen]), forces

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, torch.float32)

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for k, (parameters, average) in enumerate(zip(self.parameters, self.averages, strict=True)):
            for name, parameter in parameters.items():
                moments = self.optimizers[k].state[parameter]
                state |= {f"{k}/parameter/{name}": parameter, f"{k}/average/{name}": average.weights[name]}
                state |= {f"{k}/first/{name}": moments["exp_avg"], f"{k}/second/{name}": moments["exp_avg_sq"]}
        return state

    def _restore(self) -> None:
        super()._restore()
        for optimizer in self.optimizers:
            for moments in optimizer.state.values():
                moments["step"].fill_(float(self.step))


def _robust_energy(error: Tensor, unit: float) -> Tensor:
    """Squares of errors per atom, in (eV/atom)², linear beyond ``unit`` eV/atom."""
    return unit**2 * robust_square(error / unit)
