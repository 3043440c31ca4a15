"""Rotation invariants of fields on the sphere, and their compression to features of order one.

M_nu is a polynomial of degree nu in the density. Features are of degree one, so that they neither
explode in a dense environment nor vanish in a sparse one:

    x_2l = (M_2l + f^2)^(1/2),      x_nu = M_nu (mean_l M_2l + f^2)^((1 - nu)/2).

Dividing M_nu, which changes sign, by a power of a positive invariant is smooth everywhere. Its own signed root,
M_nu (M_nu^2 + f^2)^(1/(2 nu) - 1/2), is steep at the zero crossing, and made forces jump within 0.03 Å;
potentials of format 1 have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mlip.potential.ace import Size

FLOOR = 0.5
"""f, relative to a typical invariant."""


def form_invariants(size: Size, fields: Tensor, products: list[Tensor]) -> Tensor:
    """M_1, M_2l and M_nu of all channels, [N, n_invariants], from U and T_nu [LM, N, K]."""
    parts = [fields[:1]]
    if size.n_pairs:
        squares = fields * fields
        parts += [squares[degree**2 : (degree + 1) ** 2].sum(0, keepdim=True) for degree in range(size.l_max + 1)]
    parts += [(fields * product).sum(0, keepdim=True) for product in products]
    return torch.cat(parts).transpose(0, 1).flatten(1)


def compress(size: Size, scaled: Tensor) -> Tensor:
    """Features [N, n_invariants] before standardisation, from invariants over their typical size."""
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
