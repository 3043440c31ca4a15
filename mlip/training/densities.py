"""Labelled structures as atomic densities: what backend ``ace`` trains on, and every backend's data are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.potential.ace import kernels
from mlip.potential.ace.edges import compute_density, sum_forces, sum_virials
from mlip.potential.ace.environments import Environments, build_environments
from mlip.potential.atomic_basis import AtomicBasis
from mlip.structures.labelled import labelled_energy, labelled_forces
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


def build_dataset(
    structures: Sequence[Atoms], pairs: Sequence[Pairs], basis: AtomicBasis, isolated: dict[str, float], device: str
) -> Dataset:
    """Geometry in float32 on ``device``; targets are formed in float64 first."""
    exact = build_environments(structures, basis, pairs)
    n = len(structures)
    edges = (exact.pair_slope[:, None] * exact.direction)[:, None]
    repulsion = torch.zeros(n, dtype=torch.float64).index_add(0, exact.structure, exact.pair_energy)
    reference = composition(structures, basis) @ np.array([isolated[s] for s in basis.species])
    energies = torch.tensor([labelled_energy(a) for a in structures], dtype=torch.float64)
    forces = torch.from_numpy(np.concatenate([labelled_forces(a) for a in structures]))[exact.atoms]
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


def with_repulsion(data: Dataset) -> Dataset:
    """``data`` with targets that hold the repulsion: what labels say, whose signs and units can be judged."""
    env, n = data.environments, len(data.rows)
    edges = (env.pair_slope[:, None] * env.direction)[:, None]
    return replace(
        data,
        energies=data.energies.index_add(0, env.structure, env.pair_energy),
        forces=data.forces + sum_forces(env, edges)[:, 0],
        virials=data.virials + sum_virials(env, edges, n)[:, 0],
    )


@dataclass(frozen=True)
class TrainingBatch:
    """Some structures of a data set; attributes as in :class:`Dataset`.

    ``weights`` [P, n] of the structures for each member, ``members`` [Q, n]: those whose derivatives are compared.
    """

    environments: Environments
    density: Tensor
    energies: Tensor
    forces: Tensor
    virials: Tensor
    has_stress: Tensor
    sizes: Tensor
    weights: Tensor
    members: Tensor


def take_batch(
    data: Dataset,
    chosen: Sequence[int],
    member_weights: Tensor,
    n_species: int,
    members: Tensor | None = None,
    *,
    share: bool = False,
) -> TrainingBatch:
    """The structures ``chosen`` of ``data``, with ``member_weights`` [P, n_all].

    ``members`` [Q, n_all] are those of each structure whose forces are compared; all of them, if not given.
    """
    if members is None:
        members = torch.arange(len(member_weights), device=member_weights.device)[:, None].expand_as(member_weights)
    rows = torch.cat([data.rows[k] for k in chosen])
    rows = rows[torch.argsort(data.environments.species[rows], stable=True)] if n_species > 1 else rows
    index = torch.tensor(list(chosen), device=rows.device)
    environments = data.environments.take(rows, n_species, share=share and kernels.usable(None, None, data.density))
    position = torch.full((len(data.rows),), -1, dtype=torch.int64, device=rows.device)
    position[index] = torch.arange(len(index), device=rows.device)
    environments = environments.renumber_structures(position)
    return TrainingBatch(
        environments,
        data.density[rows],
        data.energies[index],
        data.forces[rows],
        data.virials[index],
        data.has_stress[index],
        data.sizes[index],
        member_weights[:, index],
        members[:, index],
    )
