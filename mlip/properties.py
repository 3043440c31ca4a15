"""Properties that a potential must get right: equation of state and cubic elastic constants.

Works with any ASE calculator, the labeller's or the potential's, so that both sides of a
comparison go through the same code. Lengths in Å, energies in eV, moduli in GPa.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS

CUBIC_SPACE_GROUPS = range(195, 231)
SYMMETRY_PRECISION = 1e-3  # Å


class PropertyError(ValueError):
    """A property that cannot be computed from what was given; the message says why."""


@dataclass(frozen=True)
class EquationOfState:
    """Third-order Birch–Murnaghan equation of state of the given cell."""

    v0: float
    """Equilibrium volume, Å³."""
    e0: float
    """Energy at the equilibrium volume, eV."""
    b0: float
    """Bulk modulus at the equilibrium volume, GPa."""
    b0_prime: float
    """Its pressure derivative."""
    rmse: float
    """Root-mean-square deviation of the data from the fit, eV."""

    def energy(self, volumes: Sequence[float] | np.ndarray) -> np.ndarray:
        """Energies in eV at ``volumes`` (Å³), same shape.

        F. Birch, Phys. Rev. 71, 809 (1947), eq. 15 integrated over the volume, written with
        t = (v0/V)^(2/3) - 1: E = e0 + 9 v0 b0 / 16 [2 t² + (b0' - 4) t³].
        """
        t = (self.v0 / np.asarray(volumes, dtype=float)) ** (2 / 3) - 1
        prefactor = 9 * self.v0 * self.b0 * units.GPa / 16
        return self.e0 + prefactor * (2 * t**2 + (self.b0_prime - 4) * t**3)


@dataclass(frozen=True)
class CubicElasticity:
    """Elastic constants of a cubic crystal, GPa."""

    c11: float
    c12: float
    c44_clamped: float
    """C44 with the atoms following the strain affinely."""
    c44_relaxed: float | None
    """C44 with the atoms relaxed in the strained cell; None when relaxation was off."""
    kleinman_zeta: float | None = None
    """Internal-strain parameter (0: clamped, 1: rigid bonds) of diamond and zincblende, else None."""

    @property
    def bulk_modulus(self) -> float:
        """(C11 + 2 C12) / 3, GPa."""
        return (self.c11 + 2 * self.c12) / 3


def fit_eos(volumes: Sequence[float] | np.ndarray, energies: Sequence[float] | np.ndarray) -> EquationOfState:
    """Fit a third-order Birch–Murnaghan equation of state (see ``EquationOfState.energy``).

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
        scaled = structure.copy()
        scaled.set_cell(structure.cell.array * (1 + change) ** (1 / 3), scale_atoms=True)
        scaled.calc = calculator
        volumes.append(scaled.get_volume())
        energies.append(scaled.get_potential_energy())
    return np.array(volumes), np.array(energies)


def lattice_constant(structure: Atoms, v0: float) -> float:
    """Lattice constant in Å of ``structure`` when its cell has the volume ``v0`` (Å³).

    It is the cube root of the volume of the conventional cell that the symmetry of
    ``structure`` gives (spglib, 1 mÅ): the lattice constant ``a`` of cubic crystals, for
    primitive cells and supercells alike. For other crystals it is a mean length, comparable
    only between potentials of the same crystal.
    """
    if not v0 > 0:
        raise PropertyError(f"the volume must be positive, got {v0} Å³")
    n_conventional = len(_symmetry(structure).std_types)
    return float((v0 * n_conventional / len(structure)) ** (1 / 3))


def elastic_cubic(
    structure: Atoms, calculator: Any, *, strain: float = 0.005, relax: bool = True, fmax: float = 1e-4
) -> CubicElasticity:
    """Elastic constants of a cubic crystal from central differences of the stress.

    C_ij = [σ_i(+e_j) - σ_i(-e_j)] / (2 e_j) for a strain e_1 = ε_xx and a shear e_4 = 2 ε_yz
    (J. F. Nye, Physical Properties of Crystals, ch. VIII). ``structure`` should be at its own
    equilibrium volume: constants of a cell under pressure contain that pressure.

    Args:
        structure: cubic crystal, cubic axes along x, y and z; any cell, no free internal stress.
        calculator: ASE calculator with stress.
        strain: amplitude of ε_xx and of the engineering shear 2 ε_yz.
        relax: relax the atoms in the strained cells too (C11, C12 then are relaxed ones).
        fmax: force in eV/Å at which relaxation ends.

    Raises:
        PropertyError: not cubic, axes not along x, y and z, or relaxation did not converge.
    """
    _require_cubic_axes(structure)
    if not 0 < strain < 0.1:
        raise PropertyError(f"the strain must be between 0 and 0.1, got {strain}")
    axial, shear = np.zeros((3, 3)), np.zeros((3, 3))
    axial[0, 0] = strain
    shear[1, 2] = shear[2, 1] = strain / 2
    column_1 = _stress_derivative(structure, calculator, axial, strain, fmax if relax else None)[0]
    column_4 = _stress_derivative(structure, calculator, shear, strain, None)[0]
    relaxed, zeta = None, None
    if relax:
        column_4_relaxed, shifts = _stress_derivative(structure, calculator, shear, strain, fmax)
        relaxed, zeta = float(column_4_relaxed[3]), _kleinman_zeta(structure, shifts)
    return CubicElasticity(
        c11=float(column_1[0]),
        c12=float(column_1[1:3].mean()),
        c44_clamped=float(column_4[3]),
        c44_relaxed=relaxed,
        kleinman_zeta=zeta,
    )


def _stress_derivative(
    structure: Atoms, calculator: Any, strain_tensor: np.ndarray, amplitude: float, fmax: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """d(stress)/d(strain), [6] GPa, and d(internal displacement)/d(strain), [n_atoms, 3] Å."""
    stresses, shifts = [], []
    for sign in (1, -1):
        strained = structure.copy()
        strained.set_cell(structure.cell.array @ (np.eye(3) + sign * strain_tensor), scale_atoms=True)
        strained.calc = calculator
        affine = strained.get_positions()
        if fmax is not None:
            _relax(strained, fmax)
        stresses.append(strained.get_stress(voigt=True) / units.GPa)
        shifts.append(strained.get_positions() - affine)
    return (stresses[0] - stresses[1]) / (2 * amplitude), (shifts[0] - shifts[1]) / (2 * amplitude)


def _relax(atoms: Atoms, fmax: float, max_steps: int = 500) -> None:
    if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=max_steps):
        largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        raise PropertyError(
            f"atoms did not relax to {fmax} eV/Å in {max_steps} steps (largest force {largest:.2g} eV/Å); "
            "raise fmax above the noise of the calculator's forces"
        )


def _kleinman_zeta(structure: Atoms, shifts: np.ndarray) -> float | None:
    """Kleinman's internal-strain parameter from the shifts per engineering shear 2 ε_yz.

    A bond (1, 1, 1) a/4 keeps its length under the shear when its ends move apart by -a/4 along
    x per unit of shear; ζ is the share of that which happens. L. Kleinman, Phys. Rev. 128, 2614 (1962).
    """
    from ase.neighborlist import neighbor_list

    distances = structure.repeat(2).get_all_distances(mic=True)
    nearest = float(distances[distances > 1e-6].min())
    first, second, bonds = neighbor_list("ijD", structure, 1.05 * nearest)
    along_diagonals = np.allclose(np.abs(bonds), nearest / np.sqrt(3), atol=1e-3 * nearest)
    if not along_diagonals or not (np.bincount(first, minlength=len(structure)) == 4).all():
        return None
    moved = (shifts[second] - shifts[first])[:, 0] * np.sign(bonds.prod(axis=1))
    return float(-moved.mean() / (nearest / np.sqrt(3)))


def _require_periodic(structure: Atoms) -> None:
    if not structure.pbc.all():
        raise PropertyError(
            f"{structure.get_chemical_formula()}: needs a crystal periodic in three directions, pbc is {structure.pbc}"
        )


def _symmetry(structure: Atoms) -> Any:
    """spglib's symmetry data set of ``structure``."""
    import spglib

    _require_periodic(structure)
    cell = (structure.cell.array, structure.get_scaled_positions(), structure.numbers)
    with warnings.catch_warnings():  # it announces that a later version will raise instead of returning None
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = spglib.get_symmetry_dataset(cell, symprec=SYMMETRY_PRECISION)
    if dataset is None:
        raise PropertyError(f"{structure.get_chemical_formula()}: no symmetry found; check for overlapping atoms")
    return dataset


def _require_cubic_axes(structure: Atoms) -> None:
    symmetry = _symmetry(structure)
    if symmetry.number not in CUBIC_SPACE_GROUPS:
        raise PropertyError(
            f"{structure.get_chemical_formula()} has space group {symmetry.international}, which is not cubic"
        )
    axes = np.linalg.inv(symmetry.transformation_matrix).T @ structure.cell.array
    directions = np.abs(axes / np.linalg.norm(axes, axis=1, keepdims=True))
    if not np.allclose(np.sort(directions, axis=1), [0, 0, 1], atol=1e-3):
        raise PropertyError("the cubic axes are not along x, y and z; rotate the structure (see ase.build.bulk)")
