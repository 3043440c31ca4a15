"""Equation of state, lattice constant and symmetry of a crystal.

Works with any ASE calculator, the labeller's or the potential's, so that both sides of a
comparison go through the same code. Lengths in Å, energies in eV, moduli in GPa.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units

from mlip.properties.symmetry import PropertyError, _require_periodic
from mlip.structures.geometry import scale_volume


@dataclass(frozen=True)
class EquationOfState:
    """Third-order Birch–Murnaghan equation of state of the given cell.

    Attributes:
        v0: equilibrium volume, Å³.
        e0: energy at the equilibrium volume, eV.
        b0: bulk modulus at the equilibrium volume, GPa.
        b0_prime: its pressure derivative.
        rmse: root-mean-square deviation of the data from the fit, eV.
    """

    v0: float
    e0: float
    b0: float
    b0_prime: float
    rmse: float

    def energy(self, volumes: Sequence[float] | np.ndarray) -> np.ndarray:
        """Energies in eV at ``volumes`` (Å³), same shape."""
        return birch_murnaghan(np.asarray(volumes, dtype=float), self.e0, self.v0, self.b0 * units.GPa, self.b0_prime)


def birch_murnaghan(volumes: np.ndarray, e0: float, v0: float, b0: float, b0_prime: float) -> np.ndarray:
    """Energies at ``volumes``, third order; ``b0`` in eV/Å³ where volumes are in Å³ and energies in eV.

    F. Birch, Phys. Rev. 71, 809 (1947), eq. 15 integrated over the volume, written with
    t = (v0/V)^(2/3) - 1: E = e0 + 9 v0 b0 / 16 [2 t² + (b0' - 4) t³].
    """
    t = (v0 / volumes) ** (2 / 3) - 1
    return e0 + 9 * v0 * b0 / 16 * (2 * t**2 + (b0_prime - 4) * t**3)


def fit_eos(volumes: Sequence[float] | np.ndarray, energies: Sequence[float] | np.ndarray) -> EquationOfState:
    """Fit a third-order Birch–Murnaghan equation of state (see :func:`birch_murnaghan`).

    The equation is a cubic polynomial in V^(-2/3), so linear least squares gives the exact
    best fit without a starting guess.

    Args:
        volumes: [n] Å³, at least five different ones.
        energies: [n] eV, of the same cell.

    Raises:
        PropertyError: too few or unusable points, or no minimum inside the scanned volumes.
    """
    volumes, energies = _checked_scan(volumes, energies)
    reference = float(np.median(volumes))
    x = (volumes / reference) ** (-2 / 3) - 1
    offset = energies.mean()
    coefficients = np.polynomial.polynomial.polyfit(x, energies - offset, 3)
    polynomial = np.polynomial.Polynomial(coefficients)
    x0 = _minimum_of_cubic(coefficients)
    # A cubic also has minima beside a maximum: the wanted one lies inside and below both ends.
    ends = polynomial(np.array([x.min(), x.max()]))
    if not (x.min() <= x0 <= x.max() and polynomial(x0) <= ends.min()):
        raise PropertyError(
            f"no energy minimum between {volumes.min():.3f} and {volumes.max():.3f} Å³ (lowest point at "
            f"{volumes[np.argmin(energies)]:.3f} Å³); scan volumes on both sides of the equilibrium"
        )
    v0 = reference * (1 + x0) ** (-3 / 2)
    # With t = (V0/V)^(2/3) - 1, dx = (1 + x0) dt; compare the t² and t³ terms with the equation's.
    second = polynomial.deriv(2)(x0) / 2 * (1 + x0) ** 2
    third = coefficients[3] * (1 + x0) ** 3
    prefactor = second / 2  # 9 V0 B0 / 16
    return EquationOfState(
        v0=float(v0),
        e0=float(polynomial(x0) + offset),
        b0=float(prefactor * 16 / (9 * v0) / units.GPa),
        b0_prime=float(third / prefactor + 4),
        rmse=float(np.sqrt(np.mean((polynomial(x) + offset - energies) ** 2))),
    )


def _minimum_of_cubic(coefficients: np.ndarray) -> float:
    """Where the cubic (ascending coefficients) has its minimum; nan without one.

    Written without dividing by the cubic coefficient, which vanishes for b0' = 4.
    """
    _, linear, quadratic, cubic = coefficients
    discriminant = quadratic**2 - 3 * cubic * linear
    if discriminant < 0 or quadratic + np.sqrt(discriminant) <= 0:
        return float("nan")
    return float(-linear / (quadratic + np.sqrt(discriminant)))


def _checked_scan(volumes: Any, energies: Any) -> tuple[np.ndarray, np.ndarray]:
    volumes, energies = np.asarray(volumes, dtype=float), np.asarray(energies, dtype=float)
    if volumes.ndim != 1 or volumes.shape != energies.shape:
        raise PropertyError(f"need one energy per volume, got shapes {volumes.shape} and {energies.shape}")
    if not (np.isfinite(volumes).all() and np.isfinite(energies).all() and (volumes > 0).all()):
        raise PropertyError("volumes must be positive and energies finite; leave failed points out of the scan")
    distinct = len(np.unique(np.round(volumes, 9)))
    if distinct < 5:
        raise PropertyError(f"need at least 5 different volumes to fit 4 parameters, got {distinct}")
    return volumes, energies


def compute_eos(structure: Atoms, calculator: Any, relative_volumes: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Energies of ``structure`` scaled isotropically to ``1 + relative_volumes`` times its volume.

    Fractional coordinates and cell shape are kept, which is exact for cubic crystals without
    free coordinates; elsewhere it is the same well-defined scan for every calculator.

    Returns:
        volumes: [n] Å³ of the cell.
        energies: [n] eV of the cell.
    """
    _require_periodic(structure)
    volumes, energies = [], []
    for change in relative_volumes:
        if not change > -1:
            raise PropertyError(f"relative volume changes must be above -1, got {change}")
        scaled = scale_volume(structure, change)
        scaled.calc = calculator
        volumes.append(scaled.get_volume())
        energies.append(scaled.get_potential_energy())
    return np.array(volumes), np.array(energies)
