r"""Committee of atomic-cluster-expansion networks with analytic forces.

**Density.** The neighbours j of atom i, by species s, in a fixed basis:

    A_i[lm, sn] = sum over j of species s of B_n(r_ij) Y_lm(r_ij / |r_ij|).

**Fields.** For centre species z, K learned functions on the unit sphere:

    u_k(g) = sum_{lm} U_i[lm, k] Y_lm(g),     U_i[lm, k] = sum_{sn} A_i[lm, sn] W_z[l, sn, k].

**Invariants.** Integrals of powers of a field over the sphere are rotation invariant and of body
order power + 1 (Drautz, Phys. Rev. B 99, 014104 (2019), whose product basis this is in a
tensor-decomposed form; Darby et al., Phys. Rev. Lett. 131, 028001 (2023)):

    M_1 = U[00],   M_2l = sum_m U[lm]^2,   M_nu = sum_lm U[lm] T_nu[lm],   T_nu = integral of Y_lm u^(nu-1).

A Lebedev quadrature of the sphere gives T exactly. Brought to degree one, relative to their typical size in the
training data, and centred there, they are the features x_i (:mod:`mlip.potential.ace.invariants`). They are not brought
to unit variance: what hardly varies in the data would be amplified, and with it the error where it does vary.

**Messages.** Layer t > 1 sees, beside A, what the neighbours' features say (scalar messages, as in
Batatia et al., MACE, arXiv:2206.07697, with 0e hidden features), and forms fields and invariants of both:

    A'_i[lm, k] = sum_j R_k(r_ij) Y_lm h_jk,   h_j = tanh(x_j V_z),   R_k = sum_n B_n(r) C_z[sn, k].

**Energy.** Of each member p, with a perceptron N_p on the features of all layers:

    E_i = E0_z + g(rho_i) (shift_z + scale (N_p(x_i) + a_p . x_i)) + ZBL,   g = 1 - exp(-c_z rho_i),

with rho_i = sum_j (1 - (r_ij/r_cut)^2)^3, so that a lone atom has energy E0 exactly.

**Forces.** The chain rule backwards, written out: dE/dx, dE/dM, dE/dU, G = dE/dA (and dE/dA'), and along
each edge dE/dr_ij = sum_lm,sn G dA/dr_ij. Everything is a product of dense arrays, so that training takes one
derivative, of the loss, and MD none. dM_nu/dU = nu T_nu: the quadrature is not needed again.

Members share fields and messages and differ in their perceptrons: four of them cost little more than one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from mlip.potential.ace.basis import sphere_quadrature, spherical_harmonics
from mlip.potential.ace.edges import contract_edges, contract_messages, gather_messages
from mlip.potential.ace.environments import Environments
from mlip.potential.ace.invariants import Sphere, compress, compress_back, derive_fields, form_invariants
from mlip.potential.ace.size import Size

SATURATION = 7.0
"""c_z rho at the sparsest training environment: g is 0.999 there and beyond."""
RADIAL_PRIOR = 1.0
"""Damping of the initial weight of the n-th radial function: (1 + RADIAL_PRIOR n^2)^(-1/2)."""
LEAST_DENSITY, LEAST_INVARIANT = 0.05, 0.02
"""Floors of the typical sizes of densities, relative to that of l = 0 in full, and of invariants: what vanishes by
symmetry in the data (l > 0 in strained perfect crystals) is rounding there, and must not be amplified elsewhere.
Rattled metals, silicon and molecules have 0.10 and 0.03 or more."""
FOUR_PI_ROOT = math.sqrt(4.0 * math.pi)


@dataclass(frozen=True)
class Layer:
    """What the way back needs of a layer.

    ``fields`` U [LM, N, K], ``products`` T_nu [n_powers, LM, N, K], ``scaled`` invariants [N, F],
    ``weight`` W of U = A W [S, LM, C, K], ``features`` x [N, F]; of layers beyond the first also
    ``messages`` h [N, K] and the radial functions ``radial``, ``radial_slope`` of messages [N, K, M].
    """

    fields: Tensor
    products: Tensor
    scaled: Tensor
    weight: Tensor
    features: Tensor | None = None
    messages: Tensor | None = None
    radial: Tensor | None = None
    radial_slope: Tensor | None = None


@dataclass(frozen=True)
class Atomic:
    """Atomic energies [P, N] beyond E0 and repulsion, dE/d(features) and dE/d(rho) of every member or of the mean.

    ``last`` [P, N, n_last] is dE_i / d(last layer's weights), where it was asked for.
    """

    energies: Tensor
    d_features: Tensor
    d_rho: Tensor
    last: Tensor | None = None


def grouped_matmul(x: Tensor, weight: Tensor, groups: Sequence[int]) -> Tensor:
    """x [..., N, a] times weight [S, ..., a, b] of each row's species; rows are sorted by species."""
    if len(weight) == 1:
        return torch.matmul(x, weight[0])
    parts = [torch.matmul(x[..., a:b, :], w) for w, (a, b) in zip(weight, itertools.pairwise(groups), strict=True)]
    return torch.cat(parts, -2)


class CommitteeNetwork(nn.Module):
    """Atomic energies of all members and their derivatives along edges; see the module's docstring."""

    density_mean: Tensor
    density_weight: Tensor
    invariant_scale: Tensor
    feature_mean: Tensor
    saturation: Tensor
    shift: Tensor
    scale: Tensor
    degree: Tensor
    harmonics: Tensor
    projection: Tensor
    points: Tensor
    cutoff_function: Tensor

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__()
        self.size = size
        generator = torch.Generator().manual_seed(seed)
        p, s, k, n_layers = size.n_members, size.n_species, size.n_channels, size.n_layers
        widths = (size.n_features, *size.hidden)
        inputs = [size.n_density + (k if t else 0) for t in range(n_layers)]

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * std)

        self.mix = nn.ParameterList(normal(s, size.l_max + 1, c, k, std=1.0) for c in inputs)
        self.message = nn.ParameterList(normal(s, size.n_invariants, k, std=widths[0] ** -0.5) for _ in inputs[1:])
        self.message_radial = nn.ParameterList(normal(s, size.n_density, k, std=1.0) for _ in inputs[1:])
        self.weights = nn.ParameterList(normal(s, p, a, b, std=a**-0.5) for a, b in itertools.pairwise(widths))
        self.biases = nn.ParameterList(normal(s, p, b, std=0.3) for b in size.hidden)
        self.output = normal(s, p, widths[-1], 1, std=0.1)
        self.linear = nn.Parameter(torch.zeros(s, p, size.n_features, 1))
        for name, shape, fill in (
            ("density_mean", (n_layers, s, max(inputs)), 0.0),
            ("density_weight", (n_layers, s, size.l_max + 1, max(inputs)), 1.0),
            ("invariant_scale", (n_layers, s, size.n_invariants), 1.0),
            ("feature_mean", (n_layers, s, size.n_invariants), 0.0),
            ("saturation", (s,), 1.0),
            ("shift", (s,), 0.0),
            ("scale", (), 1.0),
        ):
            self.register_buffer(name, torch.full(shape, fill))
        self._constants = _constants(size)
        for name, value in self._constants.items():
            self.register_buffer(name, value.float() if value.is_floating_point() else value, persistent=False)

    def double(self) -> CommitteeNetwork:
        """In float64, quadrature included: its float32 rounding would break rotation invariance."""
        super().double()
        for name, value in self._constants.items():
            setattr(self, name, value.to(self.degree.device))
        return self

    def forward(
        self, environments: Environments, density: Tensor, *, members: bool | Tensor = True, last: bool = False
    ) -> tuple[Atomic, Tensor]:
        """Atomic energies and dE_i/dr_ij [N, P, 3, M] from the density [N, LM, C].

        Args:
            members: derivatives of every member; of their mean (P = 1), which is cheaper; or, of each
                structure, those of the members [Q, n_structures] (P = Q).
            last: fill :attr:`Atomic.last`.
        """
        neighbour_density = density.transpose(0, 1)  # [LM, N, C]: of the neighbours alone, without messages
        layers, features = self._run_layers(neighbour_density, environments)
        atomic = self.read_out(features, neighbour_density, environments, members=members, last=last)
        return atomic, self._derive_edges(environments, layers, atomic)

    def embed(self, environments: Environments, density: Tensor) -> Tensor:
        """The first member's :attr:`Atomic.last` [N, n_last] from the density [N, LM, C], without any force."""
        neighbour_density = density.transpose(0, 1)
        _, features = self._run_layers(neighbour_density, environments)
        last = self.read_out(features, neighbour_density, environments, members=False, last=True).last
        if last is None:
            raise RuntimeError("a read-out without the last layer's features, though they were asked for")
        return last[0]

    def atomic_energies(
        self, density: Tensor, environments: Environments, *, members: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Of a network of one layer: energies [P, N] and G = dE/dA [P, LM, N, C] from A [LM, N, C].

        Of ``environments`` only ``species`` and ``groups`` are used.
        """
        layer = self._layer(0, density, environments, [])
        if layer.features is None:
            raise RuntimeError("a layer without features")
        atomic = self.read_out(layer.features, density, environments, members=members)
        gradient = self._derive_density(0, layer, atomic.d_features, environments)
        return atomic.energies, self._add_rho(gradient, atomic.d_rho)

    # The way there.

    def _run_layers(self, neighbour_density: Tensor, environments: Environments) -> tuple[list[Layer], Tensor]:
        """All layers, and the features x [N, F] of all of them, from A [LM, N, C]."""
        layers: list[Layer] = []
        for t in range(self.size.n_layers):
            layers.append(self._layer(t, neighbour_density, environments, layers))
        return layers, torch.cat([layer.features for layer in layers if layer.features is not None], -1)

    def _layer(self, t: int, density: Tensor, environments: Environments, before: Sequence[Layer]) -> Layer:
        messages = radial = radial_slope = None
        if t:
            messages = self._send(t, before[t - 1], environments)
            radial, radial_slope = self._message_basis(t, environments)
            density = torch.cat((density, gather_messages(environments, radial, messages)), -1)
        layer = self._form(t, density, environments)
        features = compress(self.size, layer.scaled) - self._rows(self.feature_mean[t], environments)
        return replace(layer, features=features, messages=messages, radial=radial, radial_slope=radial_slope)

    def _form(self, t: int, density: Tensor, environments: Environments) -> Layer:
        """Fields, products and scaled invariants of the density [LM, N, C]."""
        width = density.shape[-1]
        # W carries the scale of each column, and has a copy for each m of its l: [S, LM, C, K].
        weight = (self.mix[t] * self.density_weight[t, :, :, :width, None])[:, self.degree]
        # Only l = 0 has a mean; the fields of the mean density are taken away after the product.
        offset = torch.matmul(self.density_mean[t, :, None, :width], weight[:, 0])[:, 0]
        fields = grouped_matmul(density, weight, environments.groups)
        fields = torch.cat((fields[:1] - self._rows(offset, environments), fields[1:]))
        invariants, products = form_invariants(self.size, fields, self.sphere)
        scaled = invariants.transpose(0, 1).flatten(1) / self._rows(self.invariant_scale[t], environments)
        return Layer(fields, products, scaled, weight)

    @property
    def sphere(self) -> Sphere:
        """The quadrature in the precision and on the device of the weights."""
        return Sphere(self.degree, self.harmonics, self.projection, self.points)

    def _send(self, t: int, before: Layer, environments: Environments) -> Tensor:
        if before.features is None:
            raise RuntimeError("a layer without features")
        return torch.tanh(grouped_matmul(before.features, self.message[t - 1], environments.groups))

    def _message_basis(self, t: int, environments: Environments) -> tuple[Tensor, Tensor]:
        """Radial functions R_k of messages and their slopes, [N, K, M]."""
        weight = self.message_radial[t - 1] * self.density_weight[0, :, 0, : self.size.n_density, None]
        blocks = weight.unflatten(1, (self.size.n_species, self.size.n_radial)).mT
        parts: list[list[Tensor]] = [[], []]
        for s, (a, b) in enumerate(itertools.pairwise(environments.slots)):
            for source, part in zip((environments.radial, environments.radial_slope), parts, strict=True):
                rows = [
                    torch.matmul(blocks[z, s], source[i:j, :, a:b])
                    for z, (i, j) in enumerate(itertools.pairwise(environments.groups))
                ]
                part.append(rows[0] if len(rows) == 1 else torch.cat(rows))
        return torch.cat(parts[0], -1), torch.cat(parts[1], -1)

    def read_out(
        self,
        features: Tensor,
        density: Tensor,
        environments: Environments,
        *,
        members: bool | Tensor,
        last: bool = False,
    ) -> Atomic:
        """Energies and their derivatives with respect to features [N, F] and rho, which A [LM, N, C] holds.

        E_i beyond E0 and repulsion is g value with g = 1 - exp(-c_z rho), value = shift_z + scale (N_p(x) + a_p . x).
        """
        groups = environments.groups
        hidden, slopes = self._run_hidden(features, environments)
        linear = grouped_matmul(features, self.linear, groups)
        shift = self._rows(self.shift, environments)
        value = self.scale * (grouped_matmul(hidden, self.output, groups) + linear)[..., 0] + shift  # [P, N]
        steepness = self._rows(self.saturation, environments)
        fade = torch.exp(-steepness * self._sum_neighbours(density))  # 1 - g, [N]
        energies = (1.0 - fade) * value
        d_rho = steepness * fade * value  # dg/drho = c_z (1 - g)
        factor = ((1.0 - fade) * self.scale)[:, None]  # dE/d(N_p(x) + a_p . x), [N, 1]
        # Back through the perceptron, layer by layer, to dE/dx [P, N, F].
        back = grouped_matmul(factor, self.output.mT, groups)
        for weight, slope in zip(reversed(self.weights), reversed(slopes), strict=True):
            back = grouped_matmul(back * slope, weight.mT, groups)
        back = back + grouped_matmul(factor, self.linear.mT, groups)
        back, d_rho = _choose_derivatives(back, d_rho, members, environments)
        # E is linear in the last layer's weights: its derivative is what they multiply, [P, N, n_last].
        phi = factor * torch.cat((hidden, features.expand(*hidden.shape[:-1], -1)), -1) if last else None
        return Atomic(energies, back, d_rho, phi)

    def _run_hidden(self, features: Tensor, environments: Environments) -> tuple[Tensor, list[Tensor]]:
        """What the hidden layers make of x [N, F], [P, N, width], and the slope of every activation.

        The activation is SiLU, s(z) = z sigmoid(z), whose slope is sigmoid(z) (1 + z - s(z)).
        """
        x, slopes = features, []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            z = grouped_matmul(x, weight, environments.groups) + self._member_rows(bias, environments)
            gate = torch.sigmoid(z)
            x = z * gate
            slopes.append(gate * (1.0 + z - x))
        return x, slopes

    # The way back.

    def _derive_edges(self, environments: Environments, layers: Sequence[Layer], atomic: Atomic) -> Tensor:
        """dE_i/dr_ij [N, P, 3, M]."""
        d_features = list(atomic.d_features.split(self.size.n_invariants, -1))
        width = self.size.n_density
        # From the last layer to the first: what a message says depends on the features of the layer before.
        total, edges = atomic.d_rho.new_zeros(()), atomic.d_rho.new_zeros(())
        for t in reversed(range(self.size.n_layers)):
            layer = layers[t]
            gradient = self._derive_density(t, layer, d_features[t], environments)
            total = total + gradient[..., :width]
            if layer.messages is not None and layer.radial is not None and layer.radial_slope is not None:
                along, d_messages = contract_messages(
                    environments, gradient[..., width:], layer.messages, layer.radial, layer.radial_slope
                )
                edges = edges + along
                # h = tanh(x V), so dE/d(x V) = dE/dh (1 - h^2).
                d_tanh = d_messages * (1.0 - layer.messages * layer.messages)
                d_features[t - 1] = d_features[t - 1] + grouped_matmul(
                    d_tanh, self.message[t - 1].mT, environments.groups
                )
        return edges + contract_edges(environments, self._add_rho(total, atomic.d_rho))

    def _derive_density(self, t: int, layer: Layer, d_features: Tensor, environments: Environments) -> Tensor:
        """dE/d(density) [P, LM, N, C] from dE/dx [P, N, F]."""
        invariant_scale = self._rows(self.invariant_scale[t], environments)
        d = compress_back(self.size, layer.scaled, d_features) / invariant_scale
        slopes = d.unflatten(-1, (-1, self.size.n_channels)).transpose(1, 2)
        d_fields = derive_fields(self.size, layer.fields, layer.products, slopes, self.sphere)
        return grouped_matmul(d_fields, layer.weight.mT, environments.groups)

    def _sum_neighbours(self, density: Tensor) -> Tensor:
        """rho [N], which A [LM, N, C] holds."""
        return density[0, :, :: self.size.n_radial].sum(-1) * FOUR_PI_ROOT

    def _add_rho(self, gradient: Tensor, d_rho: Tensor) -> Tensor:
        """dE/drho added to G [P, LM, N, C]: rho is sqrt(4 pi) times the sum of A[00, s0]."""
        spread = (d_rho * FOUR_PI_ROOT)[:, None, :, None] * self.cutoff_function
        return torch.cat((gradient[:, :1] + spread, gradient[:, 1:]), 1)

    def _rows(self, table: Tensor, environments: Environments) -> Tensor:
        """Values [N, ...] of each row's species from [S, ...]; not repeated where there is one species."""
        return table if self.size.n_species == 1 else table.index_select(0, environments.species)

    def _member_rows(self, table: Tensor, environments: Environments) -> Tensor:
        """[P, N or 1, b] from [S, P, b]."""
        if self.size.n_species == 1:
            return table[0][:, None]
        return table.transpose(0, 1).index_select(1, environments.species)

    # Scales.

    @torch.no_grad()
    def fit_statistics(self, environments: Environments, density: Tensor) -> None:
        """Set every scale from training data: environments of whole structures and their density [N, LM, C]."""
        neighbour_density = density.transpose(0, 1)
        layers: list[Layer] = []
        for t in range(self.size.n_layers):
            seen = neighbour_density
            if t:
                radial, _ = self._message_basis(t, environments)
                arrived = gather_messages(environments, radial, self._send(t, layers[t - 1], environments))
                seen = torch.cat((neighbour_density, arrived), -1)
            bound = self._sum_neighbours(neighbour_density) > 0.0  # lone atoms say nothing
            groups = [a + torch.nonzero(bound[a:b])[:, 0] for a, b in itertools.pairwise(environments.groups)]
            for species, rows in enumerate(groups):
                if len(rows):
                    self._fit_density(t, species, seen[:, rows])
            raw = self._form(t, seen, environments).scaled * self._rows(self.invariant_scale[t], environments)
            for species, rows in enumerate(groups):
                if len(rows):
                    scale = raw[rows].square().mean(0).sqrt().clamp(min=LEAST_INVARIANT)
                    self.invariant_scale[t, species] = scale
                    self.feature_mean[t, species] = compress(self.size, raw[rows] / scale).mean(0)
            layers.append(self._layer(t, neighbour_density, environments, layers))

    def _fit_density(self, t: int, species: int, seen: Tensor) -> None:
        width, n_density = seen.shape[-1], self.size.n_density
        radial = torch.arange(self.size.n_radial, dtype=seen.dtype, device=seen.device).repeat(self.size.n_species)
        prior = (1.0 + RADIAL_PRIOR * radial**2) ** -0.5
        prior = prior / prior.norm()
        if t:  # the neighbours' density and their messages weigh the same
            prior = torch.cat((prior, prior.new_full((width - n_density,), (width - n_density) ** -0.5))) / 2**0.5
        else:
            sparse = float(torch.quantile(self._sum_neighbours(seen).double(), 0.01))
            self.saturation[species] = SATURATION / max(sparse, 0.05)
        least = LEAST_DENSITY * seen[0].square().mean(0).sqrt().max()
        self.density_mean[t, species, :width] = seen[0].mean(0)
        for degree in range(self.size.l_max + 1):
            block = seen[self.degree == degree]
            block = block - seen[0].mean(0) if degree == 0 else block
            rms = block.square().mean((0, 1)).sqrt()
            # Neighbour species that the data lack get an ordinary scale, not a huge weight.
            typical = torch.maximum(rms.max(), least)
            self.density_weight[t, species, degree, :width] = prior / torch.where(rms > 0.02 * typical, rms, typical)


def _choose_derivatives(
    d_features: Tensor, d_rho: Tensor, members: bool | Tensor, environments: Environments
) -> tuple[Tensor, Tensor]:
    """Of dE/dx [P, N, F] and dE/drho [P, N], those of ``members`` as in :meth:`CommitteeNetwork.forward`."""
    if isinstance(members, Tensor):
        # Whole rows [P * N]: a gather of single numbers takes several times as long.
        n_rows = d_features.shape[1]
        chosen = members[:, environments.structure] * n_rows
        rows = (chosen + torch.arange(n_rows, device=chosen.device)).flatten()
        d_features = d_features.flatten(0, 1).index_select(0, rows).unflatten(0, chosen.shape)
        return d_features, d_rho.flatten().index_select(0, rows).view_as(chosen)
    if not members:
        return d_features.mean(0, keepdim=True), d_rho.mean(0, keepdim=True)
    return d_features, d_rho


def _half_sphere(points: np.ndarray) -> np.ndarray:
    """One of each pair of antipodes among ``points`` [n, 3], which a Lebedev rule is made of."""
    x, y, z = np.where(np.abs(points) < 1e-9, 0.0, points).T
    return np.flatnonzero((z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0)))))


def _constants(size: Size) -> dict[str, Tensor]:
    """Degree of each lm, harmonics on the quadrature [G, LM], their weighted transpose, the place of B_0 in C."""
    points, weights = sphere_quadrature(max(size.body_order - 1, 1) * size.l_max)
    harmonics = spherical_harmonics(torch.from_numpy(points.T[None].copy()), size.l_max)[0][0].T.contiguous()
    cutoff_function = torch.zeros(size.n_density, dtype=torch.float64)
    cutoff_function[:: size.n_radial] = 1.0
    return {
        "degree": torch.tensor([d for d in range(size.l_max + 1) for _ in range(2 * d + 1)]),
        "harmonics": harmonics,
        "projection": harmonics.T.contiguous() * torch.from_numpy(weights / (4 * math.pi)),
        "points": torch.cat((torch.from_numpy(weights / (4 * math.pi))[:, None], harmonics), 1)[_half_sphere(points)],
        "cutoff_function": cutoff_function,
    }
