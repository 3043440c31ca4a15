"""The equation of state as a study."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr
from ase import Atoms
from matplotlib.axes import Axes

from mlip.criteria import Criterion
from mlip.potential import Potential
from mlip.properties import fit_eos
from mlip.report.drawing import BLUE, Panel, Picture
from mlip.studies.interface import Acquisition, Labelled, Measurement, Quantity, Round, Study, Subject


class EquationOfState(Study):
    """Static equation of state."""

    name = "eos"
    title = "Equation of state"

    def measure(self, subject: Subject) -> Measurement:
        """Energies over volumes."""
        frames = []
        for k, atoms in enumerate(subject.references):
            frame = atoms.copy()
            frame.info = {"structure_id": f"eos-{k}"}
            frames.append(frame)
        energies = []
        for frame in frames:
            frame.calc = subject.calculator
            energies.append(frame.get_potential_energy())
            frame.calc = None
        return Measurement(_table(frames, energies), frames)

    def refer(
        self, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
    ) -> xr.Dataset:
        """The labelled energies."""
        return _table(references, [a.get_potential_energy() for a in references])

    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        """Bulk modulus."""
        error = abs(data.attrs["B0"] / reference.attrs["B0"] - 1)
        return [Criterion("relative error of the bulk modulus", float(error), 0.05)]

    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: Potential, seed: int) -> Acquisition:
        """The first frames."""
        return Acquisition(measurement.frames[:2], [{"frame": 0, "decision": "taken"}])

    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        """Bulk modulus."""
        return [Quantity("bulk modulus", data.attrs["B0"], "GPa", reference=reference.attrs.get("B0"))]

    def draw(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
        """The curve."""
        panel = Panel("Energy", "Energy against volume", partial(_draw, data=rounds[-1].data))
        return [Picture("static", "Static curve", "Energy against volume.", [panel])]


def _table(frames: Sequence[Atoms], energies: Sequence[float]) -> xr.Dataset:
    volumes = np.array([a.get_volume() for a in frames])
    data = xr.Dataset({"energy": ("volume", np.array(energies), {"units": "eV"})}, coords={"volume": volumes})
    data.attrs["B0"] = fit_eos(volumes, energies).b0
    return data


def _draw(axes: Axes, data: xr.Dataset) -> None:
    axes.plot(data.volume, data.energy, color=BLUE)
    axes.set(xlabel="volume (Å³)", ylabel="energy (eV)")


STUDY = EquationOfState
