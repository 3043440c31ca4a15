"""Rotation invariants of fields on the sphere, and their compression to features of order one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mlip.potential.ace import Size

ROOT_FLOOR = 0.5
"""Below this size, relative to a typical value, roots of invariants turn linear."""


def form_invariants(size: Size, fields: Tensor, products: list[Tensor]) -> Tensor:
    """M_1, M_2l and M_nu of all channels, [N, n_invariants], from U and T_nu [LM, N, K]."""
    parts = [fields[:1]]
    if size.n_pairs:
        squares = fields * fields
        parts += [squares[degree**2 : (degree + 1) ** 2].sum(0, keepdim=True) for degree in range(size.l_max + 1)]
    parts += [(fields * product).sum(0, keepdim=True) for product in products]
    return torch.cat(parts).transpose(0, 1).flatten(1)


def compress(size: Size, scaled: Tensor) -> Tensor:
    """The root of matching degree of every scaled invariant [N, n_invariants], signed, and smooth at the origin.

    (M + f^2)^(1/2) of squares and M (M^2 + f^2)^(1/(2 nu) - 1/2) of M_nu, f being ``ROOT_FLOOR``.
    """
    first, pairs, *higher = _split(size, scaled)
    parts = [first, torch.sqrt(pairs + ROOT_FLOOR**2)]
    parts += [y * (y * y + ROOT_FLOOR**2) ** (0.5 / nu - 0.5) for nu, y in zip(size.powers, higher, strict=True)]
    return torch.cat(parts, -1)


def compress_slope(size: Size, scaled: Tensor) -> Tensor:
    """Derivative of :func:`compress`, element by element."""
    first, pairs, *higher = _split(size, scaled)
    parts = [torch.ones_like(first), 0.5 * torch.rsqrt(pairs + ROOT_FLOOR**2)]
    for nu, y in zip(size.powers, higher, strict=True):
        square = y * y
        parts.append((square / nu + ROOT_FLOOR**2) * (square + ROOT_FLOOR**2) ** (0.5 / nu - 1.5))
    return torch.cat(parts, -1)


def _split(size: Size, x: Tensor) -> tuple[Tensor, ...]:
    k = size.n_channels
    return x.split((k, k * size.n_pairs, *[k] * len(size.powers)), -1)
