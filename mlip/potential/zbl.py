"""Pair repulsion at distances shorter than the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor

COULOMB = 14.399645
"""e^2 / (4 pi epsilon_0) in eV Å."""
_COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
_EXPONENTS = (3.19980, 0.94229, 0.40290, 0.20162)
INNER_FRACTION = 0.75
"""The switch is fully on below this fraction of the outer radius."""


def inner_radii(species: Sequence[str], shortest: Mapping[str, float], margin: float) -> np.ndarray:
    """Distances [n_species, n_species] (Å) below which the network's distances are clamped.

    ``margin`` times the shortest distance of the training data, at most the sum of the covalent radii:
    a pair that the data hold only far apart must not be frozen at an ordinary bond length.
    """
    covalent = covalent_sums(species)
    seen = np.full_like(covalent, np.inf)
    for a, first in enumerate(species):
        for b, second in enumerate(species):
            seen[a, b] = shortest.get(pair_name(first, second), np.inf)
    return margin * np.minimum(seen, covalent)


def outer_radii(species: Sequence[str], shortest: Mapping[str, float], margin: float) -> np.ndarray:
    """Distances [n_species, n_species] (Å) at which the repulsion has faded to zero."""
    return np.maximum(inner_radii(species, shortest, margin), 0.7 * covalent_sums(species))


def covalent_sums(species: Sequence[str]) -> np.ndarray:
    """Sums of covalent radii [n_species, n_species], Å."""
    radii = np.array([covalent_radii[atomic_numbers[s]] for s in species])
    return radii[:, None] + radii[None, :]


def pair_name(first: str, second: str) -> str:
    """Name of a species pair, independent of the order: ``"Cl-Na"``."""
    return "-".join(sorted((first, second)))


def repulsion(r: Tensor, z_first: Tensor, z_second: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`switched_zbl`, skipped where no pair is near enough: in most structures none is."""
    if not bool((r < outer).any()):
        return torch.zeros_like(r), torch.zeros_like(r)
    return switched_zbl(r, z_first, z_second, outer)


def bare_zbl(r: Tensor, z_first: Tensor, z_second: Tensor) -> tuple[Tensor, Tensor]:
    """ZBL energy of pairs (eV) and its slope (eV/Å) at any distance ``r`` (Å): see :func:`switched_zbl`."""
    length = 0.46850 / (z_first**0.23 + z_second**0.23)
    x = r / length
    phi, dphi = torch.zeros_like(r), torch.zeros_like(r)
    for coefficient, exponent in zip(_COEFFICIENTS, _EXPONENTS, strict=True):
        term = coefficient * torch.exp(-exponent * x)
        phi, dphi = phi + term, dphi - exponent * term / length
    bare = COULOMB * z_first * z_second / r
    return bare * phi, bare * (dphi - phi / r)


def switched_zbl(r: Tensor, z_first: Tensor, z_second: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Switched ZBL energy of pairs (eV) and its slope (eV/Å), each shaped like ``r`` (Å); can be traced.

    V = COULOMB Z1 Z2 / r phi(r/a), a = 0.46850 / (Z1^0.23 + Z2^0.23) Å: Ziegler, Biersack and
    Littmark, The Stopping and Range of Ions in Matter (1985), times the quintic
    s(t) = t^3 (10 - 15 t + 6 t^2), t = (outer - r) / (outer - INNER_FRACTION outer), whose
    value, slope and curvature vanish at ``outer``.
    """
    value, slope = bare_zbl(r, z_first, z_second)
    width = (1.0 - INNER_FRACTION) * outer
    t = ((outer - r) / width).clamp(0.0, 1.0)
    switch, dswitch = t**3 * (10.0 - 15.0 * t + 6.0 * t**2), -30.0 * t**2 * (1.0 - t) ** 2 / width
    return value * switch, slope * switch + value * dswitch
