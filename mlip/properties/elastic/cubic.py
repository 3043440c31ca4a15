"""Elastic constants of a cubic crystal from as few structures as possible: for labels that are dear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ase import Atoms, units

from mlip.properties.elastic.internal import kleinman_zeta
from mlip.properties.elastic.strains import StrainPath, polynomial_term, sample_path
from mlip.properties.elastic.symmetry import find_basis, is_cubic
from mlip.properties.symmetry import PropertyError


@dataclass(frozen=True)
class CubicElasticity:
    """Elastic constants of a cubic crystal, GPa.

    Attributes:
        c44_clamped: C44 with the atoms following the strain affinely.
        c44_relaxed: C44 with the atoms relaxed in the strained cell; None when relaxation was off.
        kleinman_zeta: internal-strain parameter (0: clamped, 1: rigid bonds) of diamond and zincblende, else None.
    """

    c11: float
    c12: float
    c44_clamped: float
    c44_relaxed: float | None
    kleinman_zeta: float | None = None

    @property
    def bulk_modulus(self) -> float:
        """(C11 + 2 C12) / 3, GPa."""
        return (self.c11 + 2 * self.c12) / 3


def elastic_cubic(
    structure: Atoms, calculator: Any, *, strain: float = 0.005, relax: bool = True, fmax: float = 1e-4
) -> CubicElasticity:
    """Elastic constants of a cubic crystal from central differences of the stress: four strained cells.

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
    basis = find_basis(structure)
    if not is_cubic(basis):
        raise PropertyError(f"{structure.get_chemical_formula()} is {basis.crystal_system}, which is not cubic")
    if not 0 < strain < 0.1:
        raise PropertyError(f"the strain must be between 0 and 0.1, got {strain}")
    axial, shear = StrainPath("axial", (1, 0, 0, 0, 0, 0)), StrainPath("shear", (0, 0, 0, 1, 0, 0))

    def column(path: StrainPath, limit: float | None) -> tuple[Any, Any]:
        sample = sample_path(structure, calculator, path, (-strain, strain), limit)
        stress = polynomial_term(sample.amplitudes, sample.stresses / units.GPa, [0, 1], 1)[0]
        return stress, polynomial_term(sample.amplitudes, sample.shifts, [0, 1], 1)[0]

    column_1 = column(axial, fmax if relax else None)[0]
    column_4 = column(shear, None)[0]
    relaxed, zeta = None, None
    if relax:
        column_4_relaxed, shifts = column(shear, fmax)
        relaxed, zeta = float(column_4_relaxed[3]), kleinman_zeta(structure, shifts)
    return CubicElasticity(
        c11=float(column_1[0]),
        c12=float(column_1[1:3].mean()),
        c44_clamped=float(column_4[3]),
        c44_relaxed=relaxed,
        kleinman_zeta=zeta,
    )
