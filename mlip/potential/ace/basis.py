"""Fixed basis: radial functions, real spherical harmonics and a quadrature of the sphere."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

CLAMP_WIDTH = 0.12
"""Depth, relative to the inner radius, over which distances below it fade into a constant."""


def clamp_distance(r: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """Distance that the basis sees, and its slope dr_eff/dr.

    Beyond ``inner``, the shortest distance of the training data, it is r itself. Below, with
    t = (inner - r) / w, it is inner - w t / (1 + t^3)^(1/3), which never falls below
    inner - w: the network is not asked about distances that it has not seen, and the pair
    repulsion alone decides there. Three continuous derivatives at ``inner``.
    """
    width = CLAMP_WIDTH * inner
    t = ((inner - r) / width).clamp(min=0.0)
    root = (1.0 + t**3) ** (-1.0 / 3.0)
    return torch.where(t > 0, inner - width * t * root, r), root**4


def radial_basis(r: Tensor, inner: Tensor, cutoff: float, n_radial: int) -> tuple[Tensor, Tensor]:
    """Radial functions B_n(r) = T_n(x) (1 - (r/cutoff)^2)^3 and dB_n/dr, [N, n_radial, M] for r [N, M].

    T_n are Chebyshev polynomials and x maps the distances that occur, from the clamp of
    ``inner`` to ``cutoff``, to [-1, 1]. Value, slope and curvature vanish at the cutoff.
    B_0 is the cutoff function itself.
    """
    effective, slope = clamp_distance(r, inner)
    low = (1.0 - CLAMP_WIDTH) * inner
    stretch = 2.0 / (cutoff - low)
    x = (effective - low) * stretch - 1.0
    t = chebyshev(x, n_radial)
    dt = torch.matmul(_chebyshev_derivatives(n_radial, t.dtype, t.device), t)
    y = (1.0 - (effective / cutoff) ** 2).clamp(min=0.0)
    envelope, envelope_slope = y**3, -6.0 * effective / cutoff**2 * y**2
    value = t * envelope[..., None, :]
    gradient = dt * (stretch * envelope * slope)[..., None, :] + t * (envelope_slope * slope)[..., None, :]
    return value, gradient


def chebyshev(x: Tensor, n: int) -> Tensor:
    """T_0 ... T_(n-1) of x [N, M], [N, n, M]; T_(m+k) = 2 T_m T_k - T_(m-k) doubles their number at each turn."""
    t = torch.stack((torch.ones_like(x), x), -2)
    while (m := t.shape[-2] - 1) < n - 1:
        more = 2.0 * t[..., -1:, :] * t[..., 1:, :] - t[..., :-1, :].flip(-2)
        t = torch.cat((t, more[..., : n - 1 - m, :]), -2)
    return t[..., :n, :]


@lru_cache(maxsize=32)
def _chebyshev_derivatives(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """dT_k/dx = sum_j D_kj T_j, [n, n]."""
    columns = [np.polynomial.chebyshev.chebder(np.eye(n)[k]) for k in range(n)]
    with torch.inference_mode(False):  # else no derivative could be taken through it later
        return torch.from_numpy(np.array([np.pad(c, (0, n - len(c))) for c in columns])).to(device, dtype)


def monomials(direction: Tensor, degree: int) -> Tensor:
    """x^a y^b z^c of vectors [N, 3, M] for a + b + c <= ``degree``, [N, n, M], in the order of :func:`_exponents`."""
    blocks = [torch.ones_like(direction[:, :1])]
    for k in range(degree):
        # x times all, y times those without x, z times the power of z.
        last = blocks[-1]
        blocks.append(
            torch.cat([direction[:, axis : axis + 1] * last[:, last.shape[1] - n :] for axis, n in _shares(k)], 1)
        )
    return torch.cat(blocks, 1)


def spherical_harmonics(direction: Tensor, l_max: int) -> tuple[Tensor, Tensor]:
    """Orthonormal real spherical harmonics of unit vectors [N, 3, M], and the gradients of r^l Y_lm.

    Returns Y [N, (l_max+1)^2, M], ordered (l, m = -l..l), and d(r^l Y_lm)/d(vector) at r = 1, [N, 3, (l_max+1)^2, M],
    both matrix products with monomials. The latter's part along the direction is l Y_lm (Euler); without it, and over
    the distance, it is the gradient of Y_lm. Who sums over lm takes that part away afterwards, which costs less.
    """
    values, gradients = _tables(l_max, direction.dtype, direction.device)
    powers = monomials(direction, l_max)
    lower = powers[:, : gradients.shape[1]]
    return torch.matmul(values, powers), torch.matmul(gradients, lower).unflatten(1, (3, -1))


def tangential(direction: Tensor, gradient: Tensor) -> Tensor:
    """r dY/d(vector) [N, 3, LM, M]: ``gradient`` of r^l Y_lm without its part along the direction [N, 3, M]."""
    unit = direction[:, :, None]
    return gradient - unit * (gradient * unit).sum(1, keepdim=True)


def _shares(k: int) -> tuple[tuple[int, int], ...]:
    """Axis, and how many of the last monomials of degree k it multiplies to give those of degree k + 1."""
    return (0, (k + 1) * (k + 2) // 2), (1, k + 1), (2, 1)


@lru_cache(maxsize=32)
def _tables(l_max: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # else no derivative could be taken through them later
        values, gradients = (torch.from_numpy(table) for table in _harmonic_polynomials(l_max))
        return values.to(device, dtype), gradients.to(device, dtype)


@lru_cache(maxsize=16)
def _exponents(degree: int) -> list[tuple[int, int, int]]:
    """(a, b, c) of all monomials up to ``degree``, by degree and then lexicographically, x first."""
    return [(a, k - a - c, c) for k in range(degree + 1) for a in range(k, -1, -1) for c in range(k - a + 1)]


@lru_cache(maxsize=16)
def _harmonic_polynomials(l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of Y_lm [LM, n] and of their derivatives by x, y and z [3 LM, n'] in the monomials.

    Y_lm = N_lm (d^m P_l / dz^m) times the real (m >= 0) or imaginary (m < 0) part of
    (x + i y)^|m|, where N_lm = sqrt((2 l + 1) / (4 pi) (l - m)! / (l + m)!), times sqrt(2) for
    m != 0, without the Condon-Shortley phase: Varshalovich et al., Quantum Theory of Angular
    Momentum (1988), 5.1 and 5.2. Terms of lower degree are multiplied by powers of x^2 + y^2 + z^2 = 1.
    """
    known = _exponents(l_max)
    row = {exponent: k for k, exponent in enumerate(known)}
    n_angular, n_lower = (l_max + 1) ** 2, len(_exponents(max(l_max - 1, 0)))
    values, slopes = np.zeros((n_angular, len(known))), np.zeros((3, n_angular, n_lower))
    for degree in range(l_max + 1):
        for order in range(-degree, degree + 1):
            column, m = degree * (degree + 1) + order, abs(order)
            norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m))
            legendre = np.polynomial.polynomial.polyder(np.polynomial.legendre.leg2poly([0.0] * degree + [1.0]), m)
            # (x + i y)^m by the binomial theorem: even powers of i y are real, odd ones imaginary.
            for k in range(0 if order >= 0 else 1, m + 1, 2):
                planar = norm * math.comb(m, k) * (-1.0) ** (k // 2) * (math.sqrt(2.0) if m else 1.0)
                for c, coefficient in enumerate(legendre):
                    if coefficient == 0.0:
                        continue
                    # What is missing to the full degree, as (x^2 + y^2 + z^2)^half by the multinomial theorem.
                    half = (degree - m - c) // 2
                    for u, v in product(range(half + 1), repeat=2):
                        if u + v > half:
                            continue
                        w = half - u - v
                        ways = math.factorial(half) // (math.factorial(u) * math.factorial(v) * math.factorial(w))
                        exponent = (m - k + 2 * u, k + 2 * v, c + 2 * w)
                        values[column, row[exponent]] += planar * coefficient * ways
    for exponent, axis in product(known, range(3)):
        if exponent[axis]:
            a, b, c = (e - (i == axis) for i, e in enumerate(exponent))
            slopes[axis, :, row[a, b, c]] += exponent[axis] * values[:, row[exponent]]
    return values, slopes.reshape(3 * n_angular, n_lower)


def sphere_quadrature(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 3] and weights [n] of a Lebedev rule, exact for polynomials up to ``degree`` on the sphere.

    The weights sum to 4 pi.
    """
    from scipy.integrate import lebedev_rule

    orders = [*range(3, 32, 2), 35, 41, 47, 53, 59, 65, 71, 77, 83, 89, 95, 101, 107, 113, 119, 125, 131]
    points, weights = lebedev_rule(next(order for order in orders if order >= degree))
    return np.ascontiguousarray(points.T), weights
