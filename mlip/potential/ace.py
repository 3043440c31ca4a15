"""Committee of atomic-cluster-expansion networks with analytic forces.

For an atom i of species z the neighbour density is expanded in a fixed basis,

    A_i[s, n, lm] = sum over neighbours j of species s of B_n(r_ij) Y_lm(r_ij / |r_ij|),

and mixed into K learned fields on the unit sphere,

    u_k(g) = sum_{s,n,lm} W_z[l, (s,n), k] A_i[s, n, lm] Y_lm(g).

Integrals of powers of a field over the sphere are rotation invariant and of body order
power + 1 (Drautz, Phys. Rev. B 99, 014104 (2019), whose product basis this is in a
tensor-decomposed form; Darby et al., Phys. Rev. Lett. 131, 028001 (2023)):

    M_1k = integral of u_k,   M_2kl = |u_k|_l^2 (resolved by l),   M_nk = integral of u_k^n, n > 2.

A quadrature of the sphere gives them exactly. Scaled roots of them feed a small network R:

    E_i = E0_z + g(rho_i) (shift_z + scale R_z(M)) + ZBL,   g = 1 - exp(-c_z rho_i),

with rho_i = sum_j (1 - (r_ij/r_cut)^2)^3, so that a lone atom has energy E0 exactly. The
only derivative that automatic differentiation has to take is G = dE/dA; the force on
the edge ij is the contraction of G with dA/dr_ij, a batched matrix product.

Every weight has a leading committee dimension: all members are evaluated at once on the
same density.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mlip.potential.basis import sphere_quadrature, spherical_harmonics
from mlip.potential.environments import Environments

SATURATION = 7.0
"""c_z rho at the sparsest training environment: g is 0.999 there and beyond."""
ROOT_FLOOR = 0.5
"""Below this size, relative to a typical value, roots of invariants turn linear."""
RADIAL_PRIOR = 0.3
"""Damping of the initial weight of the n-th radial function: (1 + RADIAL_PRIOR n^2)^(-1/2)."""


@dataclass(frozen=True)
class Size:
    """Hyperparameters of the network."""

    n_members: int
    n_species: int
    n_radial: int
    l_max: int
    n_channels: int
    body_order: int
    hidden: tuple[int, ...]

    @property
    def n_features(self) -> int:
        """Invariants of one atom."""
        per_channel = 1 + (self.l_max + 1 if self.body_order > 2 else 0) + max(self.body_order - 3, 0)
        return self.n_channels * per_channel


def compute_density(environments: Environments) -> Tensor:
    """Density A [LM, N, S*n_radial] of every atom."""
    slots = environments.slots
    parts = [
        torch.bmm(environments.angular[:, a:b].transpose(1, 2), environments.radial[:, a:b])
        for a, b in itertools.pairwise(slots)
    ]
    return torch.cat(parts, -1).permute(1, 0, 2)


def contract_edges(environments: Environments, gradient: Tensor) -> Tensor:
    """dE_i/dr_ij [N, M, P, 3] from G = dE/dA [P, LM, N, S*n_radial]."""
    n_members, n_angular, n_rows, n_density = gradient.shape
    g = gradient.permute(2, 3, 0, 1).reshape(n_rows, n_density, n_members * n_angular)
    slots, n_radial = environments.slots, environments.radial.shape[-1]
    tangential, radial = [], []
    for s, (a, b) in enumerate(itertools.pairwise(slots)):
        own = g[:, s * n_radial : (s + 1) * n_radial]
        tangential.append(torch.bmm(environments.radial[:, a:b], own))
        radial.append(torch.bmm(environments.radial_slope[:, a:b], own))
    shape = (n_rows, slots[-1], n_members, n_angular)
    along = torch.matmul(torch.cat(radial, 1).view(shape), environments.angular[..., None])
    across = torch.matmul(torch.cat(tangential, 1).view(shape), environments.angular_slope.transpose(2, 3))
    return across + along * environments.direction[:, :, None, :]


class _HomogeneousProduct(torch.autograd.Function):
    """M = <a, t(a)> for t homogeneous of degree nu - 1 and the gradient of a potential: dM/da = nu t.

    The gradient of M costs no operation on the quadrature; t stays in the graph, so that the
    derivative of this gradient, needed to train on forces, is right too.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, nu: int) -> Tensor:
        ctx.save_for_backward(t)
        ctx.nu = nu
        return (a * t).sum(1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (t,) = ctx.saved_tensors
        return ctx.nu * grad * t, None, None


def sum_forces(environments: Environments, edges: Tensor) -> Tensor:
    """Forces [N, P, 3] from dE_i/dr_ij [N, M, P, 3]: each edge pulls on both of its atoms."""
    flat = edges.reshape(-1, *edges.shape[2:])
    return edges.sum(1).index_add(0, environments.neighbors.reshape(-1), flat, alpha=-1.0)


def sum_virials(environments: Environments, edges: Tensor, n_structures: int) -> Tensor:
    """dE/d(strain) [n_structures, P, 3, 3] (eV) from dE_i/dr_ij [N, M, P, 3]."""
    n_rows, n_slots, n_members, _ = edges.shape
    vectors = environments.direction * environments.distance[..., None]
    atomic = torch.bmm(edges.reshape(n_rows, n_slots, -1).transpose(1, 2), vectors)
    total = atomic.new_zeros((n_structures, n_members * 3, 3)).index_add(0, environments.structure, atomic)
    total = total.view(n_structures, n_members, 3, 3)
    return 0.5 * (total + total.transpose(-1, -2))


def _sphere_constants(size: Size) -> dict[str, Tensor]:
    """Harmonics on the quadrature [G, LM], their weighted transpose [LM, G], sums over m [l_max+1, LM]."""
    points, weights = sphere_quadrature(max(size.body_order - 1, 1) * size.l_max)
    harmonics = spherical_harmonics(torch.from_numpy(points), size.l_max)[0]
    degree = torch.tensor([d for d in range(size.l_max + 1) for _ in range(2 * d + 1)])
    return {
        "harmonics": harmonics,
        "projection": harmonics.T.contiguous() * torch.from_numpy(weights / (4 * math.pi)),
        "multiplets": torch.nn.functional.one_hot(degree).double().T.contiguous(),
    }


class CommitteeNetwork(nn.Module):
    """Atomic energies of all members from the density; see the module's docstring."""

    density_mean: Tensor
    density_weight: Tensor
    invariant_scale: Tensor
    feature_mean: Tensor
    feature_scale: Tensor
    saturation: Tensor
    shift: Tensor
    scale: Tensor
    degree: Tensor
    harmonics: Tensor
    projection: Tensor
    multiplets: Tensor

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__()
        self.size = size
        generator = torch.Generator().manual_seed(seed)
        p, s, density = size.n_members, size.n_species, size.n_species * size.n_radial

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * std)

        self.mix = normal(s, p, size.l_max + 1, density, size.n_channels, std=1.0)
        widths = (size.n_features, *size.hidden)
        self.weights = nn.ParameterList(normal(s, p, a, b, std=a**-0.5) for a, b in itertools.pairwise(widths))
        self.biases = nn.ParameterList(normal(s, p, 1, b, std=0.3) for b in size.hidden)
        self.output = normal(s, p, size.hidden[-1] if size.hidden else size.n_features, 1, std=0.1)
        self.linear = nn.Parameter(torch.zeros(s, p, size.n_features, 1))
        for name, shape, fill in (
            ("density_mean", (s, density), 0.0),
            ("density_weight", (s, size.l_max + 1, density), 1.0),
            ("invariant_scale", (s, p, size.n_features), 1.0),
            ("feature_mean", (s, p, size.n_features), 0.0),
            ("feature_scale", (s, p, size.n_features), 1.0),
            ("saturation", (s,), 1.0),
            ("shift", (s,), 0.0),
            ("scale", (), 1.0),
        ):
            self.register_buffer(name, torch.full(shape, fill))
        degree = torch.tensor([d for d in range(size.l_max + 1) for _ in range(2 * d + 1)])
        self.register_buffer("degree", degree, persistent=False)
        self._constants = _sphere_constants(size)
        for name, value in self._constants.items():
            self.register_buffer(name, value.float(), persistent=False)

    def double(self) -> CommitteeNetwork:
        """In float64, quadrature included: its float32 rounding would break rotation invariance."""
        super().double()
        for name, value in self._constants.items():
            setattr(self, name, value.to(self.degree.device))
        return self

    def invariants(self, density: Tensor, species: int) -> Tensor:
        """Invariants [P, N, F] of atoms of one species with density [P, LM, N, C]."""
        p, n_angular, n, _ = density.shape
        k = self.size.n_channels
        weight = (self.mix[species] * self.density_weight[species, :, :, None])[:, self.degree]
        fields = torch.matmul(density, weight)
        offset = torch.matmul(self.density_mean[species], weight[:, 0])
        fields = torch.cat((fields[:, :1] - offset[:, None, None], fields[:, 1:]), 1).reshape(p, n_angular, n * k)
        parts = [fields[:, :1]]
        if self.size.body_order > 2:
            parts.append(torch.matmul(self.multiplets, fields**2))
        if self.size.body_order > 3:
            values = torch.matmul(self.harmonics, fields)
            power = values
            for nu in range(3, self.size.body_order):
                power = power * values
                projected = torch.matmul(self.projection, power)
                parts.append(cast(Tensor, _HomogeneousProduct.apply(fields, projected, nu)))
        return torch.cat(parts, 1).view(p, -1, n, k).permute(0, 2, 1, 3).reshape(p, n, -1)

    def features(self, density: Tensor, species: int) -> Tensor:
        """Compressed, standardised invariants [P, N, F]."""
        x = self.invariants(density, species) / self.invariant_scale[species][:, None]
        x = self._compress(x)
        return (x - self.feature_mean[species][:, None]) * self.feature_scale[species][:, None]

    def _compress(self, x: Tensor) -> Tensor:
        """The root of matching degree of every invariant, signed, and linear at the origin."""
        k, n_pair = self.size.n_channels, self.size.l_max + 1 if self.size.body_order > 2 else 0
        parts = [x[..., :k]]
        if n_pair:
            pair = x[..., k : k * (1 + n_pair)]
            parts.append(torch.sqrt(pair + ROOT_FLOOR**2))
        for power in range(3, self.size.body_order):
            start = k * (1 + n_pair + power - 3)
            y = x[..., start : start + k]
            parts.append(y * (y * y + ROOT_FLOOR**2) ** (0.5 / power - 0.5))
        return torch.cat(parts, -1)

    def forward(self, density: Tensor, groups: Sequence[int]) -> Tensor:
        """Atomic energies [P, N] beyond E0 and repulsion, from [P, LM, N, C] sorted by species."""
        energies = []
        for species, (a, b) in enumerate(itertools.pairwise(groups)):
            if a == b:
                continue
            own = density[:, :, a:b]
            features = self.features(own, species)
            x = features
            for weight, bias in zip(self.weights, self.biases, strict=True):
                x = torch.nn.functional.silu(torch.baddbmm(bias[species], x, weight[species]))
            readout = torch.bmm(x, self.output[species]) + torch.bmm(features, self.linear[species])
            rho = own[:, 0, :, :: self.size.n_radial].sum(-1) * math.sqrt(4 * math.pi)
            presence = -torch.expm1(-self.saturation[species] * rho)
            energies.append(presence * (self.shift[species] + self.scale * readout[..., 0]))
        return torch.cat(energies, 1)

    def energy_and_edges(self, environments: Environments, density: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """Atomic energies [P, N] and dE_i/dr_ij [N, M, P, 3] from the density [LM, N, C]."""
        leaf = density.expand(self.size.n_members, *density.shape).clone().requires_grad_()
        energies = self(leaf, environments.groups)
        (gradient,) = torch.autograd.grad(energies.sum(), leaf, create_graph=training)
        return energies, contract_edges(environments, gradient)

    @torch.no_grad()
    def fit_statistics(self, density: Tensor, groups: Sequence[int]) -> None:
        """Set every scale from the training data's density [LM, N, C], sorted by species."""
        radial = torch.arange(self.size.n_radial, dtype=density.dtype, device=density.device).repeat(
            self.size.n_species
        )
        prior = (1.0 + RADIAL_PRIOR * radial**2) ** -0.5
        prior = prior / prior.norm()
        for species, (a, b) in enumerate(itertools.pairwise(groups)):
            own = density[:, a:b]
            rho = own[0, :, :: self.size.n_radial].sum(-1) * math.sqrt(4 * math.pi)
            sparse = float(torch.quantile(rho[rho > 0].double(), 0.01)) if bool((rho > 0).any()) else 1.0
            self.saturation[species] = SATURATION / max(sparse, 0.05)
            self.density_mean[species] = own[0].mean(0)
            for degree in range(self.size.l_max + 1):
                block = own[self.degree == degree]
                block = block - own[0].mean(0) if degree == 0 else block
                rms = block.square().mean((0, 1)).sqrt()
                # Neighbour species that the data lack get an ordinary scale, not a huge weight.
                typical = rms.max().clamp(min=1e-6)
                self.density_weight[species, degree] = prior / torch.where(rms > 0.02 * typical, rms, typical)
            self._fit_features(own, species)

    def _fit_features(self, own: Tensor, species: int) -> None:
        chunks = [c.expand(self.size.n_members, *c.shape) for c in own.split(256, 1)]
        raw = torch.cat([self.invariants(c, species) for c in chunks], 1)
        self.invariant_scale[species] = raw.square().mean(1).sqrt().clamp(min=1e-6)
        compressed = self._compress(raw / self.invariant_scale[species][:, None])
        self.feature_mean[species] = compressed.mean(1)
        self.feature_scale[species] = 1.0 / compressed.std(1, correction=0).clamp(min=0.05)
