"""Labelled structures as the ACE network reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.config.train import Train
from mlip.potential.ace.edges import compute_density, sum_forces, sum_virials
from mlip.potential.ace.environments import Environments, build_environments
from mlip.potential.ace.size import Size
from mlip.potential.atomic_basis import AtomicBasis
from mlip.structures.neighbors import Pairs
from mlip.training.data import composition, read_virials


@dataclass(frozen=True)
class Dataset:
    """Cached geometry of all structures and what the network has to reproduce on it.

    Targets exclude isolated atoms and pair repulsion. ``energies`` [n_structures] (eV),
    ``forces`` [N, 3] (eV/Å), ``virials`` [n_structures, 3, 3] (dE/dstrain, eV), ``has_stress`` and
    ``sizes`` [n_structures]; rows of ``environments`` and ``density`` [N, LM, C] are sorted by
    species, and ``rows`` lists those of each structure.
    """

    environments: Environments
    density: Tensor
    energies: Tensor
    forces: Tensor
    virials: Tensor
    has_stress: Tensor
    sizes: Tensor
    rows: list[Tensor]


def find_size(basis: AtomicBasis, settings: Train) -> Size:
    """Network hyperparameters for ``basis``."""
    return Size(
        n_members=settings.committee_size,
        n_species=len(basis.species),
        n_radial=basis.n_radial,
        l_max=basis.l_max,
        n_channels=settings.n_channels,
        body_order=settings.body_order,
        hidden=settings.hidden,
        n_layers=settings.n_layers,
    )


def build_dataset(
    structures: Sequence[Atoms], pairs: Sequence[Pairs], basis: AtomicBasis, isolated: dict[str, float], device: str
) -> Dataset:
    """Geometry in float32 on ``device``; targets are formed in float64 first."""
    exact = build_environments(structures, basis, pairs)
    n = len(structures)
    edges = (exact.pair_slope[:, None] * exact.direction)[:, None]
    repulsion = torch.zeros(n, dtype=torch.float64).index_add(0, exact.structure, exact.pair_energy)
    reference = composition(structures, basis) @ np.array([isolated[s] for s in basis.species])
    energies = torch.tensor([a.get_potential_energy() for a in structures], dtype=torch.float64)
    forces = torch.from_numpy(np.concatenate([a.get_forces() for a in structures]))[exact.atoms]
    virials, has_stress = read_virials(structures)
    environments = exact.to(device, torch.float32)

    def single(values: Tensor) -> Tensor:
        return values.to(device=device, dtype=torch.float32)

    return Dataset(
        environments=environments,
        density=single(compute_density(exact)),
        energies=single(energies - repulsion - torch.from_numpy(reference)),
        forces=single(forces - sum_forces(exact, edges)[:, 0]),
        virials=single(virials - sum_virials(exact, edges, n)[:, 0]),
        has_stress=single(has_stress),
        sizes=torch.tensor([len(a) for a in structures], dtype=torch.float32, device=device),
        rows=[torch.nonzero(environments.structure == k)[:, 0] for k in range(n)],
    )
