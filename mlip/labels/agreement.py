"""Whether labels agree with themselves: stress and forces are derivatives of the energy, or should be.

Where they are not, a basis set is too small (a fixed cutoff gives the stress of a basis that changes with the
cell: G. P. Francis and M. C. Payne, J. Phys.: Condens. Matter 2, 4395 (1990)), a grid or a k-point mesh too
coarse, the SCF not converged, or a unit or sign wrong. A potential converges to neither of the two then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from scipy import stats

from mlip.labels.importing import LabelError
from mlip.structures.labelled import has_label, labelled_energy, labelled_stress

FEWEST_VOLUMES = 5
"""Below it the curve leaves nothing to tell its error from."""
CONFIDENCE = 0.95
"""Two-sided, of the errors that are granted before labels are said to disagree."""
FORCE_STEP = 0.02
"""Å, over all atoms: long enough for an SCF's noise, short enough for third derivatives."""
FORCE_LIMITS = (0.05, 0.05)
"""Granted to forces against energy differences: eV/Å, and as a share; the larger one counts."""
REMEDY = (
    "raise the plane-wave cutoff (`mode: {name: pw, ecut: ...}`, `ecutwfc`, `ENCUT`, `CUTOFF`) or the basis, then"
    " k-points, grid and SCF convergence"
)


@dataclass(frozen=True)
class StressAgreement:
    """The pressure of labels beside the slope of their energies, at each volume of a scan.

    Attributes:
        volumes: [n] Å³, ascending.
        pressures: [n] GPa, of the labels' stresses.
        differences: [n] GPa, the pressure of the stress less the energies' -dE/dV.
        errors: [n] GPa, half the 95 % confidence interval of ``differences``.
        scatter: root-mean-square distance of the energies from a smooth curve, eV/atom.
    """

    volumes: np.ndarray
    pressures: np.ndarray
    differences: np.ndarray
    errors: np.ndarray
    scatter: float

    @property
    def worst(self) -> int:
        """Index of the volume at which they are farthest apart, errors granted."""
        return int(np.argmax(np.abs(self.differences) - self.errors))

    @property
    def certain(self) -> float:
        """GPa by which they are apart at least, at the worst volume; 0 where errors explain all."""
        return max(0.0, float(abs(self.differences[self.worst]) - self.errors[self.worst]))

    def __str__(self) -> str:
        at = self.worst
        return (
            f"at {self.volumes[at]:.2f} Å³ the stress is a pressure of {self.pressures[at]:.2f} GPa and the slope of"
            f" the energies one of {self.pressures[at] - self.differences[at]:.2f} GPa,"
            f" {abs(self.differences[at]):.2f} ± {self.errors[at]:.2f} GPa apart"
        )


def compare_stress(labelled: Sequence[Atoms]) -> StressAgreement | None:
    """Compare stresses with the slope of energies over isotropically scaled copies of one structure.

    With fractional coordinates kept, dE/dV = -P holds whatever the forces are. The pressures are integrated over
    the volume (a Birch–Murnaghan curve of fourth order, cubic in V^(-2/3)) and a parabola in V is fitted to what
    the energies have beyond that: its slope is the difference wanted, and the scatter about it gives the error.
    Energies that jump, as those of a fixed cutoff do, widen the error instead of raising an alarm.

    Args:
        labelled: copies of at least five volumes with energies (eV) and stresses (eV/Å³).

    Returns:
        None for fewer volumes, or where a label has no stress.
    """
    if not all(has_label(atoms, "stress") for atoms in labelled):
        return None
    volumes = np.array([atoms.get_volume() for atoms in labelled])
    if len(np.unique(np.round(volumes, 6))) < FEWEST_VOLUMES:
        return None
    order = np.argsort(volumes)
    energies = np.array([labelled_energy(atoms) for atoms in labelled])[order]
    pressures = np.array([-labelled_stress(atoms)[:3].mean() for atoms in labelled])[order]
    volumes = volumes[order]
    differences, errors, scatter = _slope_beyond(volumes, energies - _integrate(volumes, pressures))
    return StressAgreement(
        volumes=volumes,
        pressures=pressures / units.GPa,
        differences=differences / units.GPa,
        errors=errors / units.GPa,
        scatter=scatter / len(labelled[0]),
    )


def _integrate(volumes: np.ndarray, pressures: np.ndarray) -> np.ndarray:
    """Energies (eV, up to a constant) at ``volumes`` [n] (Å³) that have ``pressures`` [n] (eV/Å³)."""
    reference = float(np.median(volumes))
    x = (volumes / reference) ** (-2 / 3) - 1
    slope = pressures * 1.5 * reference * (1 + x) ** (-5 / 2)  # dE/dx = -P dV/dx
    return np.polynomial.Polynomial.fit(x, slope, 3).integ()(x)


def _slope_beyond(volumes: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Slope of a parabola through ``rest`` [n] (eV), its error (both [n], eV/Å³) and the scatter about it (eV)."""
    v = volumes - volumes.mean()
    design = np.vander(v / np.ptp(v), 3, increasing=True)
    coefficients, *_ = np.linalg.lstsq(design, rest - rest.mean(), rcond=None)
    residual = rest - rest.mean() - design @ coefficients
    freedom = len(v) - design.shape[1]
    variance = float(residual @ residual) / freedom
    gradient = np.stack([np.zeros_like(v), np.ones_like(v), 2 * v / np.ptp(v)], axis=1) / np.ptp(v)
    covariance = variance * np.linalg.inv(design.T @ design)
    deviation = np.sqrt(np.einsum("ni,ij,nj->n", gradient, covariance, gradient))
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)
    return gradient @ coefficients, quantile * deviation, float(np.sqrt(np.mean(residual**2)))


def scatter_about_curve(volumes: Sequence[float], energies: Sequence[float]) -> float:
    """Standard deviation (eV) of ``energies`` from a cubic in V^(-2/3) through them; five volumes at least."""
    x = np.asarray(volumes, dtype=float) ** (-2 / 3)
    curve = np.polynomial.Polynomial.fit(x, np.asarray(energies, dtype=float), 3)
    return float(np.sqrt(np.sum((curve(x) - energies) ** 2) / (len(x) - 4)))


def check_stress(labelled: Sequence[Atoms], limit: float) -> None:
    """Refuse labels whose stress is not the slope of their energies.

    Args:
        labelled: as :func:`compare_stress` takes them; where it cannot tell, nothing is refused.
        limit: GPa that they may be apart, ``label.stress_agreement``.

    Raises:
        LabelError: with the volume, both pressures and the remedy.
    """
    agreement = compare_stress(labelled)
    if agreement is not None and agreement.certain > limit:
        raise LabelError(
            f"label.parameters: energies and stresses of the references disagree: {agreement}, label.stress_agreement"
            f" is {limit:g} GPa. A potential can learn only one of them: {REMEDY}; or, to accept it, set"
            f" `label.stress_agreement` above {np.ceil(agreement.certain):g}"
        )


@dataclass(frozen=True)
class ForceAgreement:
    """The slope of the energy along the forces, from the forces and from two energies.

    Attributes:
        from_forces: eV/Å.
        from_energies: eV/Å.
    """

    from_forces: float
    from_energies: float

    @property
    def difference(self) -> float:
        """eV/Å, without sign."""
        return abs(self.from_forces - self.from_energies)

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than ``FORCE_LIMITS``."""
        absolute, share = FORCE_LIMITS
        return self.difference <= max(absolute, share * abs(self.from_forces))

    def __str__(self) -> str:
        return (
            f"along the forces the energy falls by {self.from_forces:.3f} eV/Å by the forces,"
            f" {self.from_energies:.3f} eV/Å by energies {2 * FORCE_STEP:g} Å apart"
        )


def displace_along(atoms: Atoms, forces: np.ndarray) -> tuple[Atoms, Atoms]:
    """Copies of ``atoms`` a ``FORCE_STEP`` back and forth along ``forces`` [n_atoms, 3]; not zero everywhere."""
    step = FORCE_STEP * forces / np.linalg.norm(forces)
    moved = []
    for sign, name in ((-1, "back"), (1, "forth")):
        copy = atoms.copy()
        copy.set_constraint()
        copy.positions += sign * step
        copy.info["structure_id"] = f"{atoms.info.get('structure_id', 'structure')}-{name}"
        moved.append(copy)
    return moved[0], moved[1]


def compare_forces(forces: np.ndarray, back: float, forth: float) -> ForceAgreement:
    """Forces [n_atoms, 3] (eV/Å) beside the energies (eV) of :func:`displace_along`'s copies."""
    return ForceAgreement(float(np.linalg.norm(forces)), (back - forth) / (2 * FORCE_STEP))
