"""Energy that compression costs, as a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr
from ase import Atoms

from mlip.criteria import Criterion
from mlip.potential import Potential
from mlip.seeds import derive_rng
from mlip.structures.geometry import scale_volume
from mlip.studies.interface import Acquisition, Labelled, Measurement, Quantity, Reference, Round, Study, Subject

if TYPE_CHECKING:
    from mlip.report.drawing import Picture


def cost_of_compression(crystal: Atoms, calculator: Any, compression: float) -> float:
    """Energy of the compressed crystal above the crystal's, eV/atom."""
    energies = []
    for atoms in (crystal.copy(), scale_volume(crystal, -compression)):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy() / len(atoms))
    return energies[1] - energies[0]


class SoftnessStudy(Study):
    """Energy that compression costs."""

    name = "softness"
    title = "Softness"

    def measure(self, subject: Subject) -> Measurement:
        """The cost, and displaced compressed crystals."""
        crystal = subject.structures[0]
        cost = cost_of_compression(crystal, subject.calculator, self.settings.compression)
        rng, frames = derive_rng(subject.seed, "softness"), []
        for _ in range(2 * self.settings.n_labels):
            atoms = scale_volume(crystal, -self.settings.compression)
            atoms.positions += rng.normal(0, 0.05, (len(atoms), 3))
            frames.append(atoms)
        taught = float(sum(atoms.info.get("origin") == self.name for atoms in subject.training))
        data = {"cost": ((), cost, {"units": "eV/atom"}), "taught": ((), taught, {"units": "1"})}
        return Measurement(xr.Dataset(data), frames)

    def refer(
        self, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
    ) -> Reference:
        """The labeller's, and the compressed crystal, which is to train."""
        cost = cost_of_compression(structures[0], labeller.direct(), self.settings.compression)
        data = xr.Dataset({"cost": ((), cost, {"units": "eV/atom"})})
        return Reference(data, [scale_volume(structures[0], -self.settings.compression)])

    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        """The relative error, and what was learnt: the round before has to have brought all its labels."""
        error = abs(float(data.cost / reference.cost) - 1)
        taught = Criterion("structures taught", float(data.taught), self.settings.n_labels + 1, at_least=True)
        return [Criterion("relative error of the cost", error, self.settings.tolerance), taught]

    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: Potential, seed: int) -> Acquisition:
        """The first frames."""
        rows = [{"frame": k, "decision": "taken"} for k in range(self.settings.n_labels)]
        return Acquisition(measurement.frames[: self.settings.n_labels], rows)

    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        """The cost."""
        return [Quantity("cost of compression", float(data.cost), "eV/atom", reference=float(reference.cost))]

    def draw(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
        """Nothing."""
        return []


STUDY = SoftnessStudy
