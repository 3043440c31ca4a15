"""Lists of pairs of one or several structures, and sums over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.potential.atomic_basis import AtomicBasis
from mlip.structures.neighbors import Pairs


@dataclass(frozen=True)
class PairList:
    """Pairs of N atoms of several structures, sorted by centre, each pair in both directions.

    ``species`` [N] index into the basis's, ``centers`` and ``neighbors`` [E], ``vectors`` [E, 3] (Å, float64),
    ``structure`` [N].
    """

    species: Tensor
    centers: Tensor
    neighbors: Tensor
    vectors: Tensor
    structure: Tensor
    n_structures: int


def join_structures(structures: Sequence[Atoms], pairs: Sequence[Pairs], basis: AtomicBasis, device: str) -> PairList:
    """The ``pairs`` of ``structures``, numbered through, on ``device``."""
    sizes = [len(atoms) for atoms in structures]
    starts = np.cumsum([0, *sizes[:-1]])

    def move(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    return PairList(
        species=move(np.concatenate([basis.indices(atoms) for atoms in structures])),
        centers=move(np.concatenate([p.centers + s for p, s in zip(pairs, starts, strict=True)])),
        neighbors=move(np.concatenate([p.neighbors + s for p, s in zip(pairs, starts, strict=True)])),
        vectors=move(np.concatenate([p.vectors for p in pairs]).reshape(-1, 3)),
        structure=move(np.repeat(np.arange(len(sizes)), sizes)),
        n_structures=len(sizes),
    )


def sum_forces(pairs: PairList, gradients: Tensor) -> Tensor:
    """Forces [N, P, 3] (eV/Å, float64) from d(energy)/d(vectors) [E, P, 3]: each pair pulls on both of its atoms."""
    flat = gradients.flatten(1)
    forces = flat.new_zeros(len(pairs.species), flat.shape[1])
    forces.index_add_(0, pairs.centers, flat).index_add_(0, pairs.neighbors, flat, alpha=-1.0)
    return forces.unflatten(1, gradients.shape[1:]).double()


def sum_strain(pairs: PairList, gradients: Tensor) -> Tensor:
    """dE/d(strain) [n_structures, 3, 3] (eV, symmetric, float64) from d(energy)/d(vectors) [E, 3]."""
    exact = gradients.double()
    if pairs.n_structures == 1:
        total = (exact.T @ pairs.vectors)[None]
    else:
        outer = (exact[:, :, None] * pairs.vectors[:, None, :]).flatten(1)
        owner = pairs.structure[pairs.centers]
        total = outer.new_zeros(pairs.n_structures, 9).index_add_(0, owner, outer).view(-1, 3, 3)
    return 0.5 * (total + total.mT)


@dataclass(frozen=True)
class PairEvaluation:
    """Atomic energies [P, N] (eV, isolated atoms and repulsion included) and their derivatives along pairs.

    ``gradients`` [E, P or 1, 3] (eV/Å) is d(sum of energies)/d(vectors); with P = 1 that of the mean.
    ``last`` [P, N, n_last] and ``weights`` [E] (the cutoff function of each pair) where they were asked for.
    """

    energies: Tensor
    gradients: Tensor
    last: Tensor | None = None
    weights: Tensor | None = None
