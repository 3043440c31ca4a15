"""Elastic constants of any crystal by any ASE calculator, from energies and from stresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from ase import Atoms, units

from mlip.potential import Potential
from mlip.properties.elastic.internal import InternalStrain, forces_of, kleinman_zeta, respond
from mlip.properties.elastic.strains import (
    PathSamples,
    StrainPath,
    choose_paths,
    energy_rows,
    polynomial_term,
    sample_path,
)
from mlip.properties.elastic.symmetry import TensorBasis, find_basis
from mlip.properties.symmetry import PropertyError

IonState = Literal["clamped", "relaxed"]
AMPLITUDES = (0.004, 0.008, 0.012)
SHEAR = 3  # Voigt index of 2 e_yz


@dataclass(frozen=True)
class Constants:
    """Independent constants by one method, GPa, [n] each; ``fit_error`` is that of the fits over amplitudes."""

    values: np.ndarray
    fit_error: np.ndarray


@dataclass(frozen=True)
class Elasticity:
    """What a crystal's elastic constants are.

    Attributes:
        crystal: cell measured.
        basis: independent constants and the tensors they make.
        samples: strained structures of every path, by state.
        by_energy, by_stress: by state; stress is missing where the calculator gives none.
        response: internal strain in linear response; None where relaxation was off.
        pressure: of the unstrained cell, GPa, NaN without stress.
        member_constants: of a committee's members, by energy, [n_members, n] GPa, by state; empty otherwise.
        member_response: internal strain of the members; None otherwise.
    """

    crystal: Atoms
    basis: TensorBasis
    samples: dict[IonState, list[PathSamples]]
    by_energy: dict[IonState, Constants]
    by_stress: dict[IonState, Constants]
    response: InternalStrain | None
    pressure: float
    member_constants: dict[IonState, np.ndarray] = field(default_factory=dict)
    member_response: InternalStrain | None = None

    def constants(self, state: IonState) -> Constants:
        """By stress where there is one, which is the more precise, else by energy."""
        return self.by_stress.get(state, self.by_energy[state])

    def linear_response(self) -> np.ndarray | None:
        """Relaxed constants as clamped ones less the internal strain's share, GPa, [n]."""
        if self.response is None:
            return None
        return self.constants("clamped").values - self.basis.project(self.response.correction)

    @property
    def kleinman_zeta(self) -> float | None:
        """Of diamond and zincblende, else None."""
        return None if self.response is None else kleinman_zeta(self.crystal, self.response.shifts[..., SHEAR])

    def model_error(self, state: IonState) -> np.ndarray | None:
        """Standard deviation over the members, GPa, [n]; None without members."""
        members = self.member_constants.get(state)
        return None if members is None else members.std(0, ddof=1)


def measure_elasticity(
    crystal: Atoms,
    calculator: Any,
    *,
    amplitudes: Sequence[float] = AMPLITUDES,
    relax: bool = True,
    fmax: float = 1e-5,
    potential: Potential | None = None,
) -> Elasticity:
    """Elastic constants of ``crystal``, which should be at equilibrium.

    Every path is evaluated at plus and minus ``amplitudes`` and at zero. Energies give E'' along it,
    stresses C times its direction; both are solved for the independent constants by least squares.

    Args:
        crystal: periodic in three directions; cubic axes, if it has any, along x, y and z.
        calculator: any ASE calculator.
        amplitudes: positive strains.
        relax: relaxed-ion constants, too.
        fmax: force in eV/Å at which relaxation in the strained cells ends.
        potential: behind the calculator; its members give the model error.

    Raises:
        PropertyError: for unfit structures and amplitudes, and where relaxation does not end.
    """
    if not amplitudes or not all(0 < a < 0.1 for a in amplitudes):
        raise PropertyError(f"strain amplitudes must be between 0 and 0.1, got {list(amplitudes)}")
    basis = find_basis(crystal)
    paths = choose_paths(basis)
    signed = sorted([0.0, *amplitudes, *(-a for a in amplitudes)])
    states: list[IonState] = ["clamped", "relaxed"] if relax else ["clamped"]
    samples: dict[IonState, list[PathSamples]] = {}
    for state in states:
        limit = fmax if state == "relaxed" else None
        samples[state] = [sample_path(crystal, calculator, path, signed, limit) for path in paths]
    volume = crystal.get_volume()
    # Both routes from the same structures: where they differ, energies and stresses contradict each other.
    by_energy = {
        s: fit_energies(basis, paths, [p.energies for p in sampled], sampled, volume) for s, sampled in samples.items()
    }
    by_stress = {
        s: fit_stresses(basis, sampled) for s, sampled in samples.items() if np.isfinite(sampled[0].stresses).all()
    }
    rest = samples["clamped"][0].stresses[signed.index(0.0)]  # of the unstrained cell
    members, member_response = {}, None
    if potential is not None and potential.n_members > 1:
        members = {s: _member_constants(basis, sampled, potential, volume) for s, sampled in samples.items()}
        member_response = respond(crystal, _member_forces(potential)) if relax else None
    return Elasticity(
        crystal=crystal,
        basis=basis,
        samples=samples,
        by_energy=by_energy,
        by_stress=by_stress,
        response=respond(crystal, forces_of(calculator)) if relax else None,
        pressure=float(-rest[:3].mean() / units.GPa),
        member_constants=members,
        member_response=member_response,
    )


def fit_energies(
    basis: TensorBasis,
    paths: Sequence[StrainPath],
    energies: Sequence[np.ndarray],
    samples: Sequence[PathSamples],
    volume: float,
) -> Constants:
    """Constants from energies (eV), one array [n_amplitudes] per path; ``volume`` in Å³."""
    curvatures, errors = [], []
    for path, values, sample in zip(paths, energies, samples, strict=True):
        value, error = polynomial_term(sample.amplitudes, values - values.mean(), powers_of(path, sample.amplitudes), 2)
        # The term value · amplitude² has the second derivative 2 value; an elastic constant is that per volume.
        curvatures.append(2 * value / volume / units.GPa)
        errors.append(2 * error / volume / units.GPa)
    # There may be more paths than constants: least squares, with the fits' errors taken as independent.
    inverse = np.linalg.pinv(energy_rows(basis, paths))
    return Constants(inverse @ np.array(curvatures), np.sqrt(inverse**2 @ np.array(errors) ** 2))


def powers_of(path: StrainPath, amplitudes: np.ndarray) -> list[int]:
    """Powers of the amplitude that the energy along ``path`` is fitted with: to the fourth, where there are enough."""
    powers = [0, 2, 4] if path.even else [0, 1, 2, 3, 4]
    return powers if len(amplitudes) > len(powers) else [p for p in powers if p < 3]


def fit_stresses(basis: TensorBasis, samples: Sequence[PathSamples]) -> Constants:
    """Constants from the stresses of every path."""
    rows, slopes, errors = [], [], []
    for sample in samples:
        powers = [0, 1, 2, 3] if len(sample.amplitudes) > 4 else [0, 1]
        # Six slopes per path, one a stress component: d(stress)/d(amplitude) = C · direction.
        slope, error = polynomial_term(sample.amplitudes, sample.stresses / units.GPa, powers, 1)
        rows.append(np.einsum("kij,j->ik", basis.tensors, np.array(sample.path.direction)))
        slopes.append(slope)
        errors.append(error)
    inverse = np.linalg.pinv(np.concatenate(rows))
    return Constants(inverse @ np.concatenate(slopes), np.sqrt(inverse**2 @ np.concatenate(errors) ** 2))


def _member_constants(
    basis: TensorBasis, samples: Sequence[PathSamples], potential: Potential, volume: float
) -> np.ndarray:
    """[n_members, n] GPa along the mean's own paths, at the mean's relaxed positions.

    The energy at positions where its own forces almost vanish differs from its minimum in second order only.
    """
    members = [np.array([p.energy_members for p in potential.predict(sample.frames)]).T for sample in samples]
    paths = [sample.path for sample in samples]
    return np.array(
        [fit_energies(basis, paths, values, samples, volume).values for values in zip(*members, strict=True)]
    )


def _member_forces(potential: Potential) -> Any:
    def evaluate(structures: Sequence[Atoms]) -> np.ndarray:
        return np.array([p.forces_members for p in potential.predict(structures)])

    return evaluate
