"""The Stillinger–Weber potential of silicon: a stand-in for DFT whose elastic constants are known.

F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985). The three-body energy of atom i is a
sum over pairs of neighbours of h(j) h(k) (cos + 1/3)^2, which moments of the neighbours give without
a loop over pairs: with s = sum h, v = sum h n and T = sum h n n,

    E3 = lambda eps / 2 (T:T + 2/3 v.v + s^2/9 - 16/9 sum h^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from mlip.structures.neighbors import find_pairs

EPSILON, SIGMA, RANGE = 2.1683, 2.0951, 1.80  # eV, Å, in sigma
A, B, GAMMA = 7.049556277, 0.6022245584, 1.20  # p = 4, q = 0


class StillingerWeber(Calculator):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³); every atom counts as silicon.

    Args:
        strength: lambda, of the three-body energy; other values make another, wrong, silicon.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, strength: float = 21.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strength = strength

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Everything at once."""
        super().calculate(atoms, list(properties), list(system_changes))
        pairs = find_pairs(self.atoms, RANGE * SIGMA - 1e-9)
        r, n, i = pairs.distances, pairs.vectors / pairs.distances[:, None], pairs.centers
        two, slope = _pair(r)
        three, gradient = self._triplets(r, n, i, len(self.atoms))
        gradient += 0.5 * slope[:, None] * n
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, gradient)
        np.subtract.at(forces, pairs.neighbors, gradient)
        energy = float(0.5 * two.sum() + three)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if self.atoms.pbc.all():
            strain = gradient.T @ pairs.vectors / self.atoms.get_volume()
            self.results["stress"] = (0.5 * (strain + strain.T))[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]

    def _triplets(self, r: np.ndarray, n: np.ndarray, i: np.ndarray, size: int) -> tuple[float, np.ndarray]:
        """Energy, and its derivative with respect to every vector, [n_pairs, 3]."""
        gap = r / SIGMA - RANGE
        h = np.exp(GAMMA / gap)
        h_slope = -h * GAMMA / (gap**2 * SIGMA)
        s = np.bincount(i, h, size)
        v, t = np.zeros((size, 3)), np.zeros((size, 3, 3))
        np.add.at(v, i, h[:, None] * n)
        np.add.at(t, i, h[:, None, None] * n[:, :, None] * n[:, None, :])
        scale = self.strength * EPSILON
        energy = 0.5 * scale * ((t**2).sum() + 2 / 3 * (v**2).sum() + (s**2).sum() / 9 - 16 / 9 * (h**2).sum())
        tn = np.einsum("eab,eb->ea", t[i], n)
        d_h = (tn * n).sum(1) + 2 / 3 * (v[i] * n).sum(1) + s[i] / 9 - 16 / 9 * h
        d_n = h[:, None] * (2 * tn + 2 / 3 * v[i])
        across = (d_n - (d_n * n).sum(1, keepdims=True) * n) / r[:, None]
        return float(energy), scale * ((d_h * h_slope)[:, None] * n + across)


def _pair(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair energy and its derivative, [n_pairs] each."""
    x = r / SIGMA
    gap = x - RANGE
    wall, fade = B * x**-4 - 1, np.exp(1 / gap)
    slope = (-4 * B * x**-5 - wall / gap**2) * fade / SIGMA
    return A * EPSILON * wall * fade, A * EPSILON * slope
