"""Strained copies of a crystal along paths, and what a calculator says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

from mlip.properties.elastic.symmetry import VOIGT, TensorBasis, is_cubic
from mlip.properties.symmetry import PropertyError

MAX_STEPS = 500
RANK = 1e-3
"""Smallest singular value, relative to the largest, with which strains count as telling constants apart."""


@dataclass(frozen=True)
class StrainPath:
    """A family of strains F = 1 + amplitude * direction.

    Attributes:
        name: for tables.
        direction: Voigt, engineering shears, [6].
        conserving: F_zz is divided by det F, so that the volume stays and a rest of pressure does not count.
        even: the energy is even in the amplitude, by symmetry.
    """

    name: str
    direction: tuple[float, ...]
    conserving: bool = False
    even: bool = False

    def gradient(self, amplitude: float) -> np.ndarray:
        """Deformation gradient F [3, 3], symmetric."""
        f = np.eye(3) + amplitude * strain_matrix(self.direction)
        if self.conserving:
            f[2, 2] /= np.linalg.det(f)
        return f

    def apply(self, crystal: Atoms, amplitude: float) -> Atoms:
        """``crystal`` strained, its atoms with it."""
        strained = crystal.copy()
        strained.set_cell(crystal.cell.array @ self.gradient(amplitude), scale_atoms=True)
        return strained


def strain_matrix(voigt: Sequence[float]) -> np.ndarray:
    """Strain [3, 3] from Voigt components with engineering shears [6]."""
    matrix = np.zeros((3, 3))
    for value, (i, j) in zip(voigt, VOIGT, strict=True):
        matrix[i, j] = matrix[j, i] = value if i == j else value / 2
    return matrix


ISOTROPIC = StrainPath("isotropic", (1, 1, 1, 0, 0, 0))
ORTHORHOMBIC = StrainPath("orthorhombic", (1, -1, 0, 0, 0, 0), conserving=True, even=True)
MONOCLINIC = StrainPath("monoclinic", (0, 0, 0, 0, 0, 1), conserving=True, even=True)
CUBIC_PATHS = (ISOTROPIC, ORTHORHOMBIC, MONOCLINIC)
"""E''/V = 9 B = 3 (C11 + 2 C12), 2 (C11 - C12) and C44: M. J. Mehl et al., Phys. Rev. B 41, 10311 (1990)."""


def choose_paths(basis: TensorBasis) -> tuple[StrainPath, ...]:
    """Paths whose energies give every constant of ``basis``, as few as needed.

    Cubic crystals have theirs; for others, single strains and sums of two are added while they help.
    """
    if is_cubic(basis):
        return CUBIC_PATHS
    chosen: list[StrainPath] = []
    unit = np.eye(6)
    candidates = [(k,) for k in range(6)] + [(i, j) for i in range(6) for j in range(i + 1, 6)]
    for parts in candidates:
        direction = tuple(float(x) for x in unit[list(parts)].sum(0))
        path = StrainPath("+".join(f"e{k + 1}" for k in parts), direction)
        if _rank(basis, [*chosen, path]) > _rank(basis, chosen):
            chosen.append(path)
    return tuple(chosen)


def energy_rows(basis: TensorBasis, paths: Sequence[StrainPath]) -> np.ndarray:
    """E''/V of each path = rows [n_paths, n] times the constants."""
    directions = np.array([path.direction for path in paths])
    return np.einsum("pi,kij,pj->pk", directions, basis.tensors, directions)


def _rank(basis: TensorBasis, paths: Sequence[StrainPath]) -> int:
    return int(np.linalg.matrix_rank(energy_rows(basis, paths), tol=RANK)) if paths else 0


@dataclass(frozen=True)
class PathSamples:
    """A path evaluated at ``amplitudes`` [n], zero among them.

    Attributes:
        energies: eV, [n].
        stresses: Voigt, eV/Å³, [n, 6]; NaN where the calculator has none.
        forces: of the strained structures, before any relaxation, eV/Å, [n, n_atoms, 3].
        shifts: what relaxation adds to the affine positions, Å, [n, n_atoms, 3].
        frames: the structures, without calculator.
    """

    path: StrainPath
    amplitudes: np.ndarray
    energies: np.ndarray
    stresses: np.ndarray
    forces: np.ndarray
    shifts: np.ndarray
    frames: list[Atoms]


def sample_path(
    crystal: Atoms, calculator: Any, path: StrainPath, amplitudes: Sequence[float], fmax: float | None
) -> PathSamples:
    """Evaluate ``path`` at ``amplitudes``; with ``fmax`` (eV/Å) the atoms relax in each strained cell.

    Raises:
        PropertyError: when they do not.
    """
    energies, stresses, forces, shifts, frames = [], [], [], [], []
    for amplitude in amplitudes:
        strained = path.apply(crystal, amplitude)
        affine = strained.get_positions()
        strained.calc = calculator
        forces.append(strained.get_forces(apply_constraint=False))
        if fmax is not None:
            relax_atoms(strained, fmax)
        energies.append(strained.get_potential_energy())
        stresses.append(_stress(strained))
        shifts.append(strained.get_positions() - affine)
        strained.calc = None
        frames.append(strained)
    return PathSamples(
        path, np.array(amplitudes), np.array(energies), np.array(stresses), np.array(forces), np.array(shifts), frames
    )


def _stress(atoms: Atoms) -> np.ndarray:
    if "stress" not in atoms.calc.implemented_properties:
        return np.full(6, np.nan)
    return np.asarray(atoms.get_stress(voigt=True))


def relax_atoms(atoms: Atoms, fmax: float, max_steps: int = MAX_STEPS) -> None:
    """Relax ``atoms`` in their cell.

    Raises:
        PropertyError: when forces stay above ``fmax`` (eV/Å).
    """
    if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=max_steps):
        largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        raise PropertyError(
            f"atoms did not relax to {fmax} eV/Å in {max_steps} steps (largest force {largest:.2g} eV/Å); "
            "raise fmax above the noise of the calculator's forces"
        )


def polynomial_term(
    amplitudes: np.ndarray, values: np.ndarray, powers: Sequence[int], wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficient of the power ``wanted`` in a least-squares polynomial, and its standard error.

    Args:
        amplitudes: [n].
        values: [n, ...].
        powers: those fitted; as many of them, at most, as there are amplitudes.
        wanted: one of them.

    Returns:
        Both [...]; the error is NaN without a degree of freedom.
    """
    size = float(np.abs(amplitudes).max())
    design = (amplitudes / size)[:, None] ** np.array(powers)
    flat = values.reshape(len(values), -1)
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ flat
    freedom = len(amplitudes) - len(powers)
    row = list(powers).index(wanted)
    spread = np.full(flat.shape[1], np.nan)
    if freedom > 0:
        variance = ((flat - design @ coefficients) ** 2).sum(0) / freedom
        spread = np.sqrt(variance * (inverse[row] ** 2).sum())
    scale = size**wanted
    return (coefficients[row] / scale).reshape(values.shape[1:]), (spread / scale).reshape(values.shape[1:])
