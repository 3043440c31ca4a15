"""ASE calculator of a potential."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from mlip.potential import Potential, Precision, load_potential


class MLIPCalculator(Calculator):
    """Energy, forces and stress of the committee's mean, with calibrated uncertainties.

    Besides ASE's properties ``results`` holds ``energy_std`` (eV), ``forces_std`` [n_atoms, 3]
    and ``force_uncertainty`` [n_atoms] (eV/Å), and of the members ``energy_members`` [n_members] (eV) and
    ``forces_members`` (eV/Å), as in :class:`mlip.potential.Prediction`; ``stress`` only for structures that are
    periodic in three directions. ASE hands the uncertainties out through :attr:`results`.
    ``uncertainty=False`` leaves them out, and the members' own forces with them.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, potential: Potential, *, uncertainty: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.potential, self.uncertainty = potential, uncertainty

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the potential for ``atoms``; every property at once."""
        super().calculate(atoms, list(properties), list(system_changes))
        prediction = self.potential.predict([self.atoms], uncertainty=self.uncertainty)[0]
        self.results = {
            "energy": prediction.energy,
            "free_energy": prediction.energy,
            "forces": prediction.forces,
        }
        if self.uncertainty:
            self.results["energy_std"] = prediction.energy_std
            self.results["forces_std"] = prediction.forces_std
            self.results["force_uncertainty"] = prediction.force_uncertainty
            self.results["energy_members"] = prediction.energy_members
            self.results["forces_members"] = prediction.forces_members
        if prediction.stress is not None:
            self.results["stress"] = prediction.stress


def load_calculator(
    folder: str | Path, device: str = "cpu", precision: Precision = "double", *, uncertainty: bool = True
) -> MLIPCalculator:
    """ASE calculator of the potential in ``folder``; ``precision="single"`` is meant for MD.

    Raises:
        PotentialFileError: when the files are missing, damaged or of an unknown version.
    """
    return MLIPCalculator(load_potential(folder, device, precision), uncertainty=uncertainty)
