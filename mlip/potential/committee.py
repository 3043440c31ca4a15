"""The ACE committee behind the :class:`Potential` interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mlip.neighbors import find_pairs
from mlip.potential.ace import CommitteeNetwork, compute_density, sum_forces, sum_virials
from mlip.potential.environments import Environments, Frame, build_environments
from mlip.potential.files import write_potential
from mlip.potential.interface import Potential, Prediction
from mlip.uncertainty import Calibration

MAX_PAIRS = 40_000
"""Pairs evaluated at once; bounds memory."""


class ACEPotential(Potential):
    """Committee of ACE networks evaluated in float64.

    Args:
        frame: elements, cutoff and basis sizes.
        network: weights of all members; a float64 copy is evaluated.
        isolated_energies: E0 of each element, eV.
        calibration: uncertainty scales.
        device: where to evaluate.
        details: anything else worth keeping in ``potential.json``.
    """

    def __init__(
        self,
        frame: Frame,
        network: CommitteeNetwork,
        isolated_energies: dict[str, float],
        calibration: Calibration,
        *,
        device: str = "cpu",
        details: dict[str, Any] | None = None,
    ) -> None:
        self.frame, self.size, self.device = frame, network.size, device
        self.species, self.cutoff, self.n_members = frame.species, frame.cutoff, network.size.n_members
        self.isolated_energies, self.calibration, self.details = dict(isolated_energies), calibration, details or {}
        self.state = {name: value.detach().float().cpu().clone() for name, value in network.state_dict().items()}
        self._network = CommitteeNetwork(network.size, seed=0)
        self._network.load_state_dict(self.state)
        self._network = self._network.double().to(device).requires_grad_(False)
        self._reference = np.array([self.isolated_energies[s] for s in self.species])

    def predict(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Predictions in the order of ``structures``; see :class:`Prediction`."""
        predictions: list[Prediction] = []
        for chunk, environments in self._chunks(structures):
            energies, forces, strain = self._evaluate(environments, len(chunk))
            first = 0
            for k, atoms in enumerate(chunk):
                own = forces[:, first : first + len(atoms)]
                predictions.append(self._summarise(atoms, energies[:, k], own, strain[k]))
                first += len(atoms)
        return predictions

    def describe(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Descriptors [n_atoms, n_features], invariant and independent of the members.

        The root of the density's power in each (neighbour species, n, l), scaled like the
        network's input, and the element. The distance of two environments is of order one
        when they differ as much as two typical training environments do.
        """
        result: list[np.ndarray] = []
        for chunk, environments in self._chunks(structures):
            density = compute_density(environments)
            power = torch.stack([d.square().sum(0).sqrt() for d in density.split(self._multiplets())], 1)
            weight = self._network.density_weight[environments.species] / (self.size.l_max + 1) ** 0.5
            element = torch.nn.functional.one_hot(environments.species, len(self.species)).to(power.dtype)
            table = torch.cat(((power * weight).flatten(1), element), 1)
            ordered = torch.empty_like(table)
            ordered[environments.atoms] = table
            result.extend(np.split(ordered.cpu().numpy(), np.cumsum([len(a) for a in chunk])[:-1]))
        return result

    def save(self, folder: Path) -> None:
        """Write ``potential.safetensors`` and ``potential.json`` into ``folder``."""
        write_potential(self, Path(folder))

    def _multiplets(self) -> list[int]:
        return [2 * degree + 1 for degree in range(self.size.l_max + 1)]

    def _chunks(self, structures: Sequence[Atoms]) -> Iterator[tuple[Sequence[Atoms], Environments]]:
        pairs, start, size = [], 0, 0
        for k, atoms in enumerate(structures):
            pairs.append(find_pairs(atoms, self.cutoff))
            size += len(pairs[-1].centers)
            if size >= MAX_PAIRS or k + 1 == len(structures):
                chunk = structures[start : k + 1]
                yield chunk, build_environments(chunk, self.frame, pairs).to(self.device, torch.float64)
                pairs, start, size = [], k + 1, 0

    def _evaluate(self, environments: Environments, n_structures: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies [P, n_structures], forces [P, N, 3] in the order of the atoms, dE/dstrain [n_structures, 3, 3]."""
        density = compute_density(environments)
        atomic, edges = self._network.energy_and_edges(environments, density, training=False)
        edges = edges + (environments.pair_slope[..., None] * environments.direction)[:, :, None]
        reference = torch.from_numpy(self._reference).to(density.device)[environments.species]
        atomic = atomic.detach() + environments.pair_energy + reference
        energies = atomic.new_zeros((self.n_members, n_structures)).index_add(1, environments.structure, atomic)
        unsorted = sum_forces(environments, edges)
        forces = torch.empty_like(unsorted)
        forces[environments.atoms] = unsorted
        strain = sum_virials(environments, edges.mean(2, keepdim=True), n_structures)[:, 0]
        return energies.cpu().numpy(), forces.permute(1, 0, 2).cpu().numpy(), strain.cpu().numpy()

    def _summarise(self, atoms: Atoms, energies: np.ndarray, forces: np.ndarray, strain: np.ndarray) -> Prediction:
        std = self.calibration.force_std(atoms.get_chemical_symbols(), forces)
        stress = None
        if atoms.pbc.all():
            stress = (strain / atoms.get_volume())[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return Prediction(
            energy=float(energies.mean()),
            forces=forces.mean(0),
            stress=stress,
            energy_members=energies,
            forces_members=forces,
            energy_std=self.calibration.energy_std(energies),
            forces_std=std,
            force_uncertainty=np.sqrt((std**2).sum(1)),
        )
