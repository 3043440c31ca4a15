"""The cut and shifted Lennard-Jones potential: a labeller that stands in for DFT where exact answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from mlip.structures.neighbors import find_pairs


class LennardJones(Calculator):
    """4 ε [(σ/r)¹² - (σ/r)⁶] up to ``rc``, shifted to vanish there; every atom alike.

    The same as ``ase.calculators.lj.LennardJones``, without its loop over atoms.

    Args:
        sigma: Å.
        epsilon: eV.
        rc: cutoff, Å; 2.5 σ if None.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, sigma: float = 1.0, epsilon: float = 1.0, rc: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sigma, self.epsilon, self.rc = sigma, epsilon, 2.5 * sigma if rc is None else rc

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Energy, forces and, with three periodic directions, stress."""
        super().calculate(atoms, list(properties), list(system_changes))
        pairs = find_pairs(self.atoms, self.rc)
        sixth = (self.sigma / pairs.distances) ** 6
        shift = (self.sigma / self.rc) ** 12 - (self.sigma / self.rc) ** 6
        energy = 2 * self.epsilon * float(np.sum(sixth**2 - sixth - shift))  # each pair is listed twice
        slope = -24 * self.epsilon * (2 * sixth**2 - sixth) / pairs.distances**2
        along = slope[:, None] * pairs.vectors
        n = len(self.atoms)
        forces = np.stack([np.bincount(pairs.centers, along[:, k], minlength=n) for k in range(3)], axis=1)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if self.atoms.pbc.all():
            stress = 0.5 * along.T @ pairs.vectors / self.atoms.get_volume()
            self.results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
