"""A potential as a function of a pair list without padding, the form that a program can hold.

Everything here is a sum over pairs, and the numbers of atoms and pairs are the only sizes that
depend on the data: the same lines run eagerly and are traced into an exported program. Codes
that run in Python ask :meth:`ACEPotential.evaluate_pairs` instead.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mlip.potential.ace.basis import radial_basis, spherical_harmonics, tangential
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.environments import PairTables
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.continuation import sum_terms
from mlip.potential.interface import Potential
from mlip.potential.zbl import switched_zbl


class PairPotential(nn.Module):
    """Atomic energies and their derivatives with respect to pair vectors, for the committee's mean.

    Args:
        potential: a trained ACE committee of one layer.
        dtype: float64, or float32 where speed matters more than 1e-5 eV/Å.
        device: where to evaluate.
    """

    inner: Tensor
    charge: Tensor
    outer: Tensor
    energy: Tensor
    decay: Tensor
    reach: Tensor
    reference: Tensor

    def __init__(
        self, potential: Potential, *, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        potential = require_ace(potential)
        if potential.size.n_layers > 1:
            raise ValueError(
                f"the potential passes messages (n_layers {potential.size.n_layers}); a program holds one layer only. "
                "Train with n_layers: 1, or run it with TorchSim, ASE or mlip.export.lammps"
            )
        self.species, self.cutoff, self.basis = potential.species, potential.cutoff, potential.basis
        network = CommitteeNetwork(potential.size, seed=0)
        network.load_state_dict(potential.state)
        network.double()  # with the quadrature in full precision, before any rounding
        self.networks = nn.ModuleList(_restrict(network, k) for k in range(len(self.species)))
        tables = PairTables.of(potential.basis)
        self.register_buffer("inner", tables.inner)
        repulsion = tables.terms or tables
        for name in ("charge", "outer") if tables.terms is None else ("energy", "decay", "reach"):
            self.register_buffer(name, getattr(repulsion, name))
        self.has_terms = tables.terms is not None
        energies = [potential.isolated_energies[s] for s in self.species]
        self.register_buffer("reference", torch.tensor(energies, dtype=torch.float64))
        self.to(device=device, dtype=dtype).requires_grad_(False).eval()
        # Totals of all-electron codes have no digits left in float32.
        self.reference = torch.tensor(energies, dtype=torch.float64, device=device)
        # Tables that are made at first use: made under torch.export's tracing, they would not be numbers.
        one = torch.ones(1, 1, dtype=dtype, device=device)
        spherical_harmonics(one[:, None].expand(1, 3, 1), potential.basis.l_max)
        radial_basis(one, one, self.cutoff, self.basis.n_radial)

    def forward(self, species: Tensor, centers: Tensor, neighbors: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Energies [N] (eV, float64, E0 and repulsion included) and d(sum of energies)/d(vectors) [E, 3] (eV/Å).

        Args:
            species: index into :attr:`species`, [N].
            centers, neighbors: atoms of each pair within the cutoff, [E], every pair in both directions.
            vectors: r_neighbor - r_center, [E, 3], Å.
        """
        r = torch.linalg.vector_norm(vectors, dim=1)
        direction = vectors / r[:, None]
        first, second = species[centers], species[neighbors]
        radial, radial_slope = self._radial(r, self.inner[first, second])
        values, slopes = spherical_harmonics(direction.T[None], self.basis.l_max)
        angular, angular_slope = values[0].T, tangential(direction.T[None], slopes)[0].permute(2, 0, 1)
        row = centers * len(self.species) + second
        n_rows = species.shape[0] + (1 if len(self.species) > 1 else 0)
        atomic, g = self._energies_and_gradient(self._density(radial, angular, row, n_rows), species)
        # dE/dr = sum over the basis of G (B' Y along the direction + B dY/dr across it), pair by pair.
        edge_gradient = g[row]
        along = torch.bmm(torch.bmm(radial_slope[:, None], edge_gradient), angular[:, :, None])[:, 0, 0]
        turned = torch.bmm(radial[:, None], edge_gradient).transpose(1, 2)
        across = torch.bmm(angular_slope, turned)[..., 0] / r[:, None]
        pair, slope = self._repel(r, first, second)
        energies = (atomic.double() + self.reference[species]).index_add(0, centers, 0.5 * pair.double())
        return energies, across + (along + 0.5 * slope)[:, None] * direction

    def _repel(self, r: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Repulsion of pairs and its slope, [E]."""
        if self.has_terms:
            return sum_terms(r, self.energy[first, second], self.decay[first, second], self.reach[first, second])
        return switched_zbl(r, self.charge[first], self.charge[second], self.outer[first, second])

    def _radial(self, r: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """Radial functions and their slopes, [E, n_radial]."""
        values, slopes = radial_basis(r[None], inner[None], self.cutoff, self.basis.n_radial)
        return values[0].T, slopes[0].T

    def _density(self, radial: Tensor, angular: Tensor, row: Tensor, n_rows: int) -> Tensor:
        """A [LM, n_rows, S*n_radial] from the basis functions of the pairs; ``row`` is center*S + species.

        With several species the last row is spare and stays empty.
        """
        terms = angular[:, :, None] * radial[:, None, :]
        n_species = len(self.species)
        total = terms.new_zeros((n_rows * n_species, *terms.shape[1:])).index_add(0, row, terms)
        parts = total.view(n_rows, n_species, terms.shape[1], terms.shape[2])
        return parts.permute(2, 0, 1, 3).reshape(terms.shape[1], n_rows, n_species * terms.shape[2])

    def _energies_and_gradient(self, density: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Mean atomic energies [N] and their derivatives [n_rows*S, n_radial, LM] from the density [LM, n_rows, C]."""
        n_angular, n_rows, n_density = density.shape
        n_species = len(self.species)
        if n_species == 1:
            energies, gradient = self._one_species(density, 0)
        else:
            energies, gradient = density.new_zeros(n_rows), torch.zeros_like(density)
            spare = torch.full((2,), n_rows - 1, device=density.device)
            for k in range(n_species):
                # Two spare rows more: compiled programs treat groups of no and of one atom as other cases.
                index = torch.cat((torch.nonzero(species == k)[:, 0], spare))
                own_energies, own_gradient = self._one_species(density[:, index], k)
                energies = energies.index_copy(0, index, own_energies)
                gradient = gradient.index_copy(1, index, own_gradient)
        g = gradient.permute(1, 2, 0).reshape(n_rows * n_species, n_density // n_species, n_angular)
        return energies[: species.shape[0]], g

    def _one_species(self, density: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Mean energies [n] of atoms of species ``k`` and dE/dA [LM, n, C]."""
        network: Any = self.networks[k]
        # Of the environments, a network of one species and layer uses nothing.
        energies, gradient = network.atomic_energies(density, SimpleNamespace(species=None, groups=None))
        return energies.mean(0), gradient[0]


def require_ace(potential: Potential) -> ACEPotential:
    """``potential`` itself, if it can be evaluated on pair lists.

    Raises:
        TypeError: for other backends.
    """
    if not isinstance(potential, ACEPotential):
        raise TypeError(
            f"{type(potential).__name__} cannot be evaluated on a pair list; only backend 'ace' can. "
            "Use the deployment tools of the backend itself"
        )
    return potential


def place(potential: Potential, device: str | torch.device, dtype: torch.dtype) -> ACEPotential:
    """``potential`` on ``device``, in double precision for float64 and in single for float32.

    Raises:
        TypeError: for other backends than ACE.
        ValueError: for other types.
    """
    potential = require_ace(potential)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype is {dtype}; choose torch.float32 or torch.float64")
    return ACEPotential(
        potential.basis,
        potential.network,
        potential.isolated_energies,
        potential.calibration,
        device=str(device),
        precision="double" if dtype == torch.float64 else "single",
        details=potential.details,
    )


def _restrict(network: CommitteeNetwork, k: int) -> CommitteeNetwork:
    """A copy that knows centres of species ``k`` alone, among neighbours of all species."""
    restricted = copy.deepcopy(network)
    restricted.size = replace(network.size, n_species=1)
    for weights in (restricted.mix, restricted.weights, restricted.biases):
        for weight in weights:
            weight.data = weight.data[k : k + 1]
    for name in ("output", "linear", "saturation", "shift"):
        getattr(restricted, name).data = getattr(restricted, name).data[k : k + 1]
    for name in ("density_mean", "density_weight", "invariant_scale", "feature_mean"):
        getattr(restricted, name).data = getattr(restricted, name).data[:, k : k + 1]
    return restricted
