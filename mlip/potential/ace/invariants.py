"""Rotation invariants of fields on the sphere, and their compression to features of order one.

M_nu is a polynomial of degree nu in the density. Features are of degree one, so that they neither
explode in a dense environment nor vanish in a sparse one:

    x_2l = (M_2l + f^2)^(1/2),      x_nu = M_nu (mean_l M_2l + f^2)^((1 - nu)/2).

Dividing M_nu, which changes sign, by a power of a positive invariant is smooth everywhere. Its own signed root,
M_nu (M_nu^2 + f^2)^(1/(2 nu) - 1/2), is steep at the zero crossing, and made forces jump within 0.03 Å;
potentials of format 1 have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlip.potential.ace import kernels
from mlip.potential.ace.size import Size

FLOOR = 0.5
"""f, relative to a typical invariant."""


@dataclass(frozen=True)
class Sphere:
    """Quadrature of the sphere, and what belongs to each lm.

    Attributes:
        degree: l of each lm, [LM].
        harmonics: Y_lm at the points, [G, LM]; projection: their transpose times the weights / 4 pi, [LM, G].
        points: weight / 4 pi and Y_lm of one point of each antipodal pair, [G / 2, 1 + LM].
    """

    degree: Tensor
    harmonics: Tensor
    projection: Tensor
    points: Tensor


def form_invariants(size: Size, fields: Tensor, sphere: Sphere) -> tuple[Tensor, Tensor]:
    """M_1, M_2l and M_nu [I, N, K], and T_nu [n_powers, LM, N, K] for nu = 3 ... body_order - 1, from U [LM, N, K]."""
    if size.n_pairs and kernels.usable(size.l_max, len(size.powers), fields):
        invariants, products = kernels.FormInvariants.apply(fields, sphere.points, size.l_max, len(size.powers))
        return invariants, products
    products = multiply_fields(size, fields, sphere)
    parts = [fields[:1]]
    if size.n_pairs:
        squares = fields * fields
        parts += [squares[degree**2 : (degree + 1) ** 2].sum(0, keepdim=True) for degree in range(size.l_max + 1)]
    parts += [(fields * product).sum(0, keepdim=True) for product in products]
    return torch.cat(parts), products


def multiply_fields(size: Size, fields: Tensor, sphere: Sphere) -> Tensor:
    """T_nu [n_powers, LM, N, K] by the quadrature."""
    values = torch.matmul(sphere.harmonics, fields.flatten(1))
    power, products = values, []
    for _ in size.powers:
        power = power * values
        products.append(torch.matmul(sphere.projection, power).view(fields.shape))
    return torch.stack(products) if products else fields.new_empty(0, *fields.shape)


def derive_fields(size: Size, fields: Tensor, products: Tensor, slopes: Tensor, sphere: Sphere) -> Tensor:
    """dE/dU [P, LM, N, K] from dE/dM [P, I, N, K]: dM_nu/dU = nu T_nu, so the quadrature is not needed again."""
    if size.n_pairs and kernels.usable(size.l_max, len(size.powers), fields):
        gradient: Tensor = kernels.DeriveFields.apply(slopes, fields, products, sphere.points)
        return gradient
    first, pairs, higher = slopes.split((1, size.n_pairs, len(size.powers)), 1)
    d_fields = pairs[:, sphere.degree] * (2.0 * fields) if size.n_pairs else None
    for nu, product, slope in zip(size.powers, products, higher.split(1, 1), strict=False):
        term = slope * (nu * product)
        d_fields = term if d_fields is None else d_fields + term
    rest = first.new_zeros(len(first), len(sphere.degree), *first.shape[2:]) if d_fields is None else d_fields
    return torch.cat((rest[:, :1] + first, rest[:, 1:]), 1)


def compress(size: Size, scaled: Tensor) -> Tensor:
    """Features [N, n_invariants] before they are centred, from invariants over their typical size."""
    first, pairs, *higher = _split(size, scaled)
    parts = [first, torch.sqrt(pairs + FLOOR**2)]
    norm = _norm(size, pairs) if higher else pairs
    for nu, y in zip(size.powers, higher, strict=True):
        if size.compression == "root":
            parts.append(y * (y * y + FLOOR**2) ** (0.5 / nu - 0.5))
        else:
            parts.append(y * norm ** (0.5 - 0.5 * nu))
    return torch.cat(parts, -1)


def compress_back(size: Size, scaled: Tensor, gradient: Tensor) -> Tensor:
    """dE/d(scaled) from dE/d(features) [P, N, n_invariants]: the chain rule through :func:`compress`."""
    _, pairs, *higher = _split(size, scaled)
    d_first, d_pairs, *d_higher = _split(size, gradient)
    d_pairs = d_pairs * (0.5 * torch.rsqrt(pairs + FLOOR**2))
    norm = _norm(size, pairs) if higher else pairs
    parts = []
    for nu, y, d in zip(size.powers, higher, d_higher, strict=True):
        if size.compression == "root":
            square = y * y
            parts.append(d * ((square / nu + FLOOR**2) * (square + FLOOR**2) ** (0.5 / nu - 1.5)))
        else:
            root = norm ** (0.5 - 0.5 * nu)
            parts.append(d * root)
            d_norm = d * (y * root / norm * ((0.5 - 0.5 * nu) / size.n_pairs))
            d_pairs = d_pairs + d_norm.repeat(*[1] * (d.ndim - 1), size.n_pairs)
    return torch.cat((d_first, d_pairs, *parts), -1)


def _norm(size: Size, pairs: Tensor) -> Tensor:
    """mean_l M_2l + f^2 of each channel, [N, K]."""
    return pairs.unflatten(-1, (size.n_pairs, size.n_channels)).mean(-2) + FLOOR**2


def _split(size: Size, x: Tensor) -> tuple[Tensor, ...]:
    k = size.n_channels
    return x.split((k, k * size.n_pairs, *[k] * len(size.powers)), -1)
