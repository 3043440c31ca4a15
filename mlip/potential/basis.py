"""Fixed basis: radial functions, real spherical harmonics and a quadrature of the sphere."""

from __future__ import annotations

import math

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
    """Radial functions B_n(r) = T_n(x) (1 - (r/cutoff)^2)^3 and dB_n/dr, each [..., n_radial].

    T_n are Chebyshev polynomials and x maps the distances that occur, from the clamp of
    ``inner`` to ``cutoff``, to [-1, 1]. Value, slope and curvature vanish at the cutoff.
    B_0 is the cutoff function itself.
    """
    effective, slope = clamp_distance(r, inner)
    low = (1.0 - CLAMP_WIDTH) * inner
    stretch = 2.0 / (cutoff - low)
    x = (effective - low) * stretch - 1.0
    polynomials, derivatives = [torch.ones_like(x), x], [torch.zeros_like(x), torch.ones_like(x)]
    for _ in range(2, n_radial):
        derivatives.append(2.0 * polynomials[-1] + 2.0 * x * derivatives[-1] - derivatives[-2])
        polynomials.append(2.0 * x * polynomials[-1] - polynomials[-2])
    t, dt = torch.stack(polynomials[:n_radial], -1), torch.stack(derivatives[:n_radial], -1)
    y = (1.0 - (effective / cutoff) ** 2).clamp(min=0.0)
    envelope, envelope_slope = y**3, -6.0 * effective / cutoff**2 * y**2
    value = t * envelope[..., None]
    gradient = dt * (stretch * envelope)[..., None] + t * envelope_slope[..., None]
    return value, gradient * slope[..., None]


def spherical_harmonics(direction: Tensor, l_max: int) -> tuple[Tensor, Tensor]:
    """Orthonormal real spherical harmonics of unit vectors [..., 3], and their gradient.

    Returns Y [..., (l_max+1)^2], ordered (l, m = -l..l), and r dY/d(vector) [..., (l_max+1)^2, 3]:
    divide by the length for the gradient with respect to the vector.

    Y_lm = N_lm (d^m P_l/dz^m) Re or Im (x + iy)^m is a polynomial in x, y, z; its gradient
    is projected onto the tangent plane. Recursions: Varshalovich et al., Quantum Theory of
    Angular Momentum (1988), 5.2; N_lm without the Condon-Shortley phase.
    """
    x, y, z = direction.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    cosine, sine = [one], [zero]
    for _ in range(l_max):
        cosine, sine = [*cosine, x * cosine[-1] - y * sine[-1]], [*sine, x * sine[-1] + y * cosine[-1]]
    legendre = _legendre_derivatives(z, l_max)
    values, gradients = [], []
    for degree in range(l_max + 1):
        for order in range(-degree, degree + 1):
            m = abs(order)
            norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.factorial(degree - m) / math.factorial(degree + m))
            norm *= math.sqrt(2.0) if m else 1.0
            p, dp = legendre[degree][m] * norm, legendre[degree][m + 1] * norm
            azimuth, lower = (cosine, cosine) if order >= 0 else (sine, sine)
            values.append(p * azimuth[m])
            if m == 0:
                gradients.append(torch.stack((zero, zero, dp), -1))
            else:
                other = -sine[m - 1] if order > 0 else cosine[m - 1]
                gradients.append(torch.stack((m * p * lower[m - 1], m * p * other, dp * azimuth[m]), -1))
    gradient = torch.stack(gradients, -2)
    radial = (gradient * direction[..., None, :]).sum(-1, keepdim=True)
    return torch.stack(values, -1), gradient - radial * direction[..., None, :]


def _legendre_derivatives(z: Tensor, l_max: int) -> list[list[Tensor]]:
    """d^m P_l / dz^m for l = 0..l_max and m = 0..l+1, as [l][m]."""
    zero = torch.zeros_like(z)
    table = [[zero for _ in range(l_max + 2)] for _ in range(l_max + 1)]
    for m in range(l_max + 1):
        table[m][m] = torch.full_like(z, float(math.prod(range(1, 2 * m, 2))))
        for degree in range(m + 1, l_max + 1):
            below = table[degree - 2][m] if degree >= m + 2 else zero
            table[degree][m] = ((2 * degree - 1) * z * table[degree - 1][m] - (degree + m - 1) * below) / (degree - m)
    return table


def sphere_quadrature(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 3] and weights [n] that integrate polynomials up to ``degree`` over the sphere.

    Gauss-Legendre in cos(theta) times equidistant azimuths; the weights sum to 4 pi.
    """
    nodes, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    n_phi = degree + 1
    phi = 2.0 * np.pi * (np.arange(n_phi) + 0.5) / n_phi
    sin = np.sqrt(1.0 - nodes**2)
    points = np.stack(
        (np.outer(sin, np.cos(phi)), np.outer(sin, np.sin(phi)), np.outer(nodes, np.ones(n_phi))), axis=-1
    )
    return points.reshape(-1, 3), np.repeat(weights, n_phi) * 2.0 * np.pi / n_phi
