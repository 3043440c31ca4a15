"""The training loss of a committee on a batch of structures."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.config.train import Train
from mlip.potential.ace.edges import sum_edges
from mlip.potential.ace.network import CommitteeNetwork
from mlip.training.densities import Dataset, TrainingBatch, take_batch
from mlip.training.targets import ENERGY_UNIT, STRESS_UNIT, robust_square


def compute_loss(
    network: CommitteeNetwork, batch: TrainingBatch, settings: Train, energy_ramp: float
) -> tuple[Tensor, Tensor]:
    """Loss averaged over members, and mean squares [3]: energy (eV/atom), force (eV/Å), virial (eV/atom).

    Per structure the force term is averaged over components, and structures are weighted by
    their number of atoms there, equally in the energy and virial terms.
    """
    every = len(batch.members) == len(batch.weights)
    energies, forces, virials = _predict(network, batch, True if every else batch.members)
    energy_error = (energies - batch.energies) / batch.sizes
    force_error = forces - batch.forces[:, None]
    virial_error = (virials - batch.virials[:, None]) / batch.sizes[:, None, None, None]
    virial_loss = robust_square(virial_error / STRESS_UNIT).mean((2, 3)) * batch.has_stress[:, None]

    weights = batch.weights if every else batch.weights.gather(0, batch.members)
    row_weight = weights[:, batch.environments.structure].T
    force_term = (robust_square(force_error).mean(-1) * row_weight).sum(0) / row_weight.shape[0]
    energy_term = (robust_square(energy_error / ENERGY_UNIT) * batch.weights).mean(1)
    virial_term = (virial_loss.T * weights).mean(1)
    loss = (
        settings.force_weight * force_term.mean()
        + settings.energy_weight * energy_ramp * energy_term.mean()
        + settings.stress_weight * energy_ramp * virial_term.mean()
    )
    virial_square = virial_error.square().mean((2, 3)) * batch.has_stress[:, None]
    squares = torch.stack((energy_error.square().mean(), force_error.square().mean(), virial_square.mean()))
    return loss, squares.detach()


@torch.no_grad()
def measure_errors(network: CommitteeNetwork, data: Dataset, batch_size: int) -> dict[str, float]:
    """RMS errors of the committee's mean on ``data``: ``energy`` (eV/atom) and ``force`` (eV/Å)."""
    weights = data.sizes.new_ones((network.size.n_members, len(data.rows)))
    energy, force = data.sizes.new_zeros(()), data.sizes.new_zeros(())
    for first in range(0, len(data.rows), batch_size):
        chosen = range(first, min(first + batch_size, len(data.rows)))
        batch = take_batch(data, chosen, weights, network.size.n_species)
        energies, forces, _ = _predict(network, batch, members=True)
        energy += ((energies.mean(0) - batch.energies) / batch.sizes).square().sum()
        force += (forces.mean(1) - batch.forces).square().sum()
    return {
        "energy": float((energy / len(data.rows)).sqrt()),
        "force": float((force / data.forces.numel()).sqrt()),
    }


def _predict(network: CommitteeNetwork, batch: TrainingBatch, members: bool | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energies [P, n] of every member; forces [N, Q, 3] and virials [n, Q, 3, 3] of ``members``."""
    n = len(batch.sizes)
    atomic, edges = network(batch.environments, batch.density, members=members)
    energies = atomic.energies.new_zeros((len(atomic.energies), n))
    return energies.index_add(1, batch.environments.structure, atomic.energies), *sum_edges(
        batch.environments, edges, n
    )
