"""What the rest of the package knows of a potential."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mlip.uncertainty import Calibration


class PotentialFileError(ValueError):
    """A potential on disk that cannot be used: missing, damaged or of an unknown format."""


class UnknownSpeciesError(ValueError):
    """A structure holds elements that the potential was not trained on."""


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
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    energy_members: np.ndarray
    forces_members: np.ndarray
    energy_std: float
    forces_std: np.ndarray
    force_uncertainty: np.ndarray


class Potential(ABC):
    """A committee of potentials with calibrated uncertainty."""

    species: tuple[str, ...]
    cutoff: float
    n_members: int
    calibration: Calibration

    @abstractmethod
    def predict(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Energies, forces, stresses and uncertainties, one prediction per structure."""

    @abstractmethod
    def describe(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Invariant descriptors of the atomic environments, each [n_atoms, n_features]."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write ``potential.safetensors`` and ``potential.json`` into ``folder``."""
