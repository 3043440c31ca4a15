"""What the rest of the package knows of a potential."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms

from mlip.potential.uncertainty import Calibration, Doubt, Spread


class PotentialFileError(ValueError):
    """A potential on disk that cannot be used: missing, damaged or of an unknown format."""


class UnknownSpeciesError(ValueError):
    """A structure holds elements that the potential was not trained on."""


def check_species(elements: Atoms | Iterable[str], known: Sequence[str]) -> None:
    """Refuse a structure or symbols with elements that are not ``known``.

    Raises:
        UnknownSpeciesError: naming them.
    """
    unknown = sorted(set(elements.get_chemical_symbols() if isinstance(elements, Atoms) else elements) - set(known))
    if unknown:
        place = f" in {elements.get_chemical_formula()}" if isinstance(elements, Atoms) else ""
        raise UnknownSpeciesError(
            f"element(s) {', '.join(unknown)}{place} are unknown to this potential, which knows {', '.join(known)}; "
            "add labelled structures with them and train again"
        )


@dataclass(frozen=True)
class Prediction:
    """Committee prediction for one structure; the uncertainties are calibrated.

    Attributes:
        energy: mean, eV.
        forces: mean, [n_atoms, 3], eV/Å.
        stress: mean, [6], eV/Å³, Voigt; None unless periodic in three directions.
        energy_members: [n_members], eV.
        forces_members: [n_members, n_atoms, 3], eV/Å.
        energy_std: eV.
        forces_std: [n_atoms, 3], eV/Å, per component.
        force_uncertainty: [n_atoms], eV/Å, norm of ``forces_std``.
        doubt: what of them comes from pairs nearer than any in the training data; None without such pairs.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    energy_members: np.ndarray
    forces_members: np.ndarray
    energy_std: float
    forces_std: np.ndarray
    force_uncertainty: np.ndarray
    doubt: Doubt | None = None

    def recalibrate(self, atoms: Atoms, calibration: Calibration, spread: Spread) -> Prediction:
        """The same for ``atoms`` with the uncertainties that ``calibration`` makes of the raw ``spread``."""
        return replace(self, **_uncertainties(atoms, calibration, spread))


Precision = Literal["single", "double"]
Estimator = Literal["committee", "last_layer"]


class Potential(ABC):
    """A potential with calibrated uncertainty, from a committee's members or from one model's last layer.

    Attributes:
        backend: its name among :data:`mlip.config.backends.BACKENDS`; empty for a potential that has no files.
    """

    backend: ClassVar[str] = ""

    species: tuple[str, ...]
    cutoff: float
    n_members: int
    calibration: Calibration

    @property
    def shortest_distances(self) -> dict[str, float]:
        """Shortest distance (Å) of each pair of elements ``"A-B"`` in the training data; empty where it is not known.

        :func:`mlip.potential.continuation.nearest_pair_ratios` tells how far below them structures are.
        """
        return {}

    @property
    def estimator(self) -> Estimator:
        """What makes the raw spreads."""
        return "committee"

    @abstractmethod
    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> list[Prediction]:
        """Energies, forces, stresses and uncertainties, one prediction per structure.

        Without ``uncertainty`` a backend may skip what only that needs: the uncertainties are NaN then, and
        ``forces_members`` holds the mean alone.
        """

    def spreads(self, structures: Sequence[Atoms]) -> list[Spread]:
        """Raw spreads, before calibration; those of the committee's members unless a backend has others."""
        return member_spreads(self.predict(structures))

    def in_precision(self, precision: Precision) -> Potential:
        """This potential, evaluated in ``precision``; the same object where a backend has no choice.

        Single is for MD and large sets: forces are right to 1e-5 eV/Å or so, and evaluation takes half the
        time. Double is for second derivatives, equations of state and anything else that differences results.
        """
        return self

    @abstractmethod
    def member(self, index: int) -> Potential:
        """Member ``index`` of the committee alone: costs less than the mean, and has no uncertainty."""

    @abstractmethod
    def describe(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Invariant descriptors of the atomic environments, each [n_atoms, n_features]."""

    def embed(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """What the read-out sees of every atom, each [n_atoms, n_features] float32, invariant.

        Inputs of the last layer, in which an atomic energy is (nearly) linear: two environments that are close
        here are one to the trained model. The descriptors, unless a backend has a last layer.
        """
        return [table.astype(np.float32) for table in self.describe(structures)]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write ``potential.safetensors`` and ``potential.json`` into ``folder``."""


def summarise(
    atoms: Atoms,
    calibration: Calibration,
    energies: np.ndarray,
    forces: np.ndarray,
    strain: np.ndarray,
    spread: Spread,
) -> Prediction:
    """The prediction for ``atoms``.

    Args:
        atoms: the structure.
        calibration: uncertainty scales.
        energies: of the members, [n_members], eV.
        forces: of the members, or their mean alone, [n_members or 1, n_atoms, 3], eV/Å.
        strain: dE/dstrain of the mean, [3, 3], eV.
        spread: raw spreads.
    """
    stress = None
    if atoms.pbc.all():
        stress = (strain / atoms.get_volume())[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return Prediction(
        energy=float(energies.mean()),
        forces=forces.mean(0),
        stress=stress,
        energy_members=energies,
        forces_members=forces,
        **_uncertainties(atoms, calibration, spread),
    )


def _uncertainties(atoms: Atoms, calibration: Calibration, spread: Spread) -> dict[str, Any]:
    std = calibration.scale_forces(atoms.get_chemical_symbols(), spread.forces)
    energy = calibration.scale_energy(spread.energy)
    if spread.doubt is not None:
        std = np.sqrt(std**2 + spread.doubt.forces[:, None] ** 2)
        energy = float(np.hypot(energy, spread.doubt.energy))
    return {
        "energy_std": energy,
        "forces_std": std,
        "force_uncertainty": np.sqrt((std**2).sum(1)),
        "doubt": spread.doubt,
    }


def member_spreads(predictions: Sequence[Prediction]) -> list[Spread]:
    """Raw spreads of the members of ``predictions``."""
    raw = [Spread.of_members(p.energy_members, p.forces_members) for p in predictions]
    return [replace(spread, doubt=p.doubt) for spread, p in zip(raw, predictions, strict=True)]
