"""Dynamics that are drawn to where a committee's members disagree."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units

from mlip.dynamics.guarded import GuardedBAOAB
from mlip.potential.uncertainty import NO_ENERGY_SPREAD, energy_spread


class BiasedBAOAB(GuardedBAOAB):
    """Langevin NVT on the energy of the committee's mean plus :func:`bias_energy` of members' energies from the start.

    The calculator has to leave ``energy_members`` and ``forces_members`` in its results. The bias is known to the
    integrator alone: energy, forces, stress and uncertainty that anyone else asks for are those of the mean.
    """

    accel: Any
    _first: np.ndarray | None

    def __init__(self, atoms: Atoms, *args: Any, strength: float, **kwargs: Any) -> None:
        """As ASE's; for ``strength`` see :func:`bias_energy`."""
        self._strength, self._first = strength, None
        super().__init__(atoms, *args, **kwargs)

    def _update_accel(self) -> None:
        super()._update_accel()
        results, thermal = self.atoms.calc.results, units.kB * self.temperature_K
        if self._first is None:
            self._first = np.array(results["energy_members"])
        # From where it began: members differ by constants, too, which no dynamics sees and which would hide the rest.
        energies = results["energy_members"] - self._first
        bias = bias_forces(energies, results["forces_members"], self._strength, thermal)
        bias = limit_bias(bias, results["forces"])
        for constraint in self.atoms.constraints:
            constraint.adjust_forces(self.atoms, bias)
        self.accel = self.accel + bias / self.atoms.get_masses()[:, None]


def bias_energy(energies: np.ndarray, strength: float, thermal: float) -> float:
    """What is added to the energy of the mean, eV: -strength kB T ln σ, with σ the spread of the members' energies,
    which may be counted from anywhere.

    On it, dynamics at T visits what it would visit anyway σ^strength times as often, an umbrella (G. M. Torrie and
    J. P. Valleau, J. Comput. Phys. 23, 187 (1977)). Biases along the members' spread are those of M. Kulichenko et
    al., Nat. Comput. Sci. 3, 230 (2023), and V. Zaverkin et al., npj Comput. Mater. 10, 83 (2024); with the logarithm
    no energy or scale of σ has to be chosen, and none when potential or cell change.

    Args:
        energies: Of the members, [n_members] eV.
        strength: Power of σ by which frames count; without unit.
        thermal: kB T, eV.
    """
    return -strength * thermal * float(np.log(np.hypot(energy_spread(energies), NO_ENERGY_SPREAD)))


def bias_forces(energies: np.ndarray, forces: np.ndarray, strength: float, thermal: float) -> np.ndarray:
    """Forces of :func:`bias_energy`, [n_atoms, 3] eV/Å, from what the members have predicted anyway.

    With the members' energies E and forces F, grad σ² = -2 cov(E, F), so that they are -strength kB T cov(E, F) / σ².

    Args:
        energies: Of the members, [n_members] eV.
        forces: Of the members, [n_members, n_atoms, 3] eV/Å.
        strength: See :func:`bias_energy`.
        thermal: kB T, eV.

    Raises:
        ValueError: without the energies and forces of two members or more.
    """
    if len(energies) < 2 or len(forces) != len(energies):
        raise ValueError(
            f"a bias takes energies and forces of 2 members or more, got {len(energies)} and {len(forces)}; set "
            "`train.uncertainty: committee`, or `uncertainty_bias: 0` for all walkers"
        )
    off = (energies - energies.mean()) / (len(energies) - 1)
    covariance = np.tensordot(off, forces - forces.mean(0), axes=1)
    return -strength * thermal * covariance / (energy_spread(energies) ** 2 + NO_ENERGY_SPREAD**2)


def limit_bias(bias: np.ndarray, forces: np.ndarray) -> np.ndarray:
    """``bias`` [n_atoms, 3], made shorter where its RMS is above that of the physical ``forces``.

    Members agree by accident now and then, and the slope of ln σ has no bound there.
    """
    physical, size = np.sqrt(np.mean(np.square(forces))), np.sqrt(np.mean(np.square(bias)))
    return bias * (physical / size) if size > physical else bias
