"""Uncertainty of a single model from the posterior of its last layer.

An atomic energy is linear in the last layer's weights w: E_i = phi_i . w. With a Gaussian prior
and noise, the posterior covariance of w is proportional to

    C = (Phi^T Phi + lambda)^-1,        rows of Phi: the features phi_i of the training atoms,

and a prediction has the variance phi_i^T C phi_i: the last-layer Laplace approximation, or
prediction rigidity (Bigi, Chong, Ceriotti and Grasselli, arXiv:2403.02251). It is large where
the features differ from those of the training atoms, and costs one matrix product, no second
network and no further derivative. Exact force variances would need the gradient of every
feature. A force depends on the energies of an atom and its neighbours, so its raw spread is

    s_i^2 = unit^2 (v_i + sum_j f_ij v_j / sum_j f_ij),     v = phi^T C phi, f: the cutoff function,

whose unit and lambda are fitted by maximum likelihood to held-out force errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.potential.uncertainty import Spread

if TYPE_CHECKING:
    from mlip.potential.ace.pairs import PairEvaluation, PairList

REGULARIZATIONS = (1e-6, 1e-4, 1e-2, 1.0)
"""Candidates for lambda, relative to the mean eigenvalue of Phi^T Phi."""

LAST_LAYER = "last_layer.factor"
"""Name among a potential's weights on disk; not a parameter of the network."""


@dataclass(frozen=True)
class LastLayer:
    """Posterior of the last layer of every species and member.

    Attributes:
        factor: L with L L^T = C, [n_species, n_members, D, D].
        regularization: lambda, relative to the mean eigenvalue.
        force_unit: eV/Å per square root of a local variance.
        energy_unit: eV per square root of a structure's variance.
    """

    factor: Tensor
    regularization: float
    force_unit: float = 1.0
    energy_unit: float = 1.0

    def whiten(self, features: Tensor, species: Tensor) -> Tensor:
        """phi L of every atom, [P, N, D], from features [P, N, D]."""
        whitened = torch.empty_like(features)
        for s in range(len(self.factor)):
            rows = torch.nonzero(species == s)[:, 0]
            whitened[:, rows] = torch.bmm(features[:, rows], self.factor[s])
        return whitened

    def atomic_variances(self, whitened: Tensor) -> Tensor:
        """v_i [N], mean over the members."""
        return whitened.square().sum(-1).mean(0)

    def force_spread(self, variances: Tensor, centers: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
        """Raw spread [N] (eV/Å) from v [N] and pairs [E] with the values f_ij of a cutoff function."""
        total = torch.zeros_like(variances).index_add(0, centers, weights)
        around = torch.zeros_like(variances).index_add(0, centers, weights * variances[neighbors])
        return self.force_unit * (variances + around / total.clamp(min=1e-12)).sqrt()

    def energy_spread(self, whitened: Tensor, species: Tensor, structure: Tensor, n_structures: int) -> Tensor:
        """Raw spread [n_structures] (eV): features of a structure's atoms add up before they are squared."""
        n_species, n_members, _, width = self.factor.shape
        block = structure * n_species + species
        total = whitened.new_zeros((n_members, n_structures * n_species, width)).index_add(1, block, whitened)
        variances = total.square().sum(-1).mean(0).view(n_structures, n_species).sum(1)
        return self.energy_unit * variances.sqrt()

    @torch.no_grad()
    def spreads(self, structures: Sequence[Atoms], pairs: PairList, evaluation: PairEvaluation) -> list[Spread]:
        """Raw spreads of ``structures`` from an evaluation of their pairs that holds the last layer's features."""
        if evaluation.last is None or evaluation.weights is None:
            raise ValueError("the evaluation holds no last-layer features; evaluate with last=True")
        whitened = self.whiten(evaluation.last, pairs.species)
        atomic = self.force_spread(self.atomic_variances(whitened), pairs.centers, pairs.neighbors, evaluation.weights)
        energies = self.energy_spread(whitened, pairs.species, pairs.structure, pairs.n_structures)
        parts = np.split(atomic.cpu().numpy(), np.cumsum([len(a) for a in structures])[:-1])
        return [Spread(part, energy) for part, energy in zip(parts, energies.tolist(), strict=True)]

    def to(self, device: str) -> LastLayer:
        """In float64 on ``device``."""
        return LastLayer(self.factor.to(device, torch.float64), *self.settings())

    def settings(self) -> tuple[float, float, float]:
        """The attributes that are numbers."""
        return self.regularization, self.force_unit, self.energy_unit


def factorise(gram: Tensor, regularization: float) -> LastLayer:
    """Posterior for Phi^T Phi = ``gram`` [n_species, n_members, D, D] (float64)."""
    values, vectors = torch.linalg.eigh(gram)
    mean = values.mean(-1, keepdim=True).clamp(min=1e-30)
    return LastLayer(vectors / (values.clamp(min=0.0) + regularization * mean).sqrt()[..., None, :], regularization)


def likelihood(force_errors: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Best unit and mean negative log-likelihood of errors [n_atoms, 3] given spreads [n_atoms]."""
    spread = np.maximum(spread, 1e-12)
    unit = float(np.sqrt(np.mean(force_errors**2 / spread[:, None] ** 2)))
    return unit, float(np.log(max(unit, 1e-12)) + np.log(spread).mean())
