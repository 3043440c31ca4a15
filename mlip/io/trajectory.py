"""Walker trajectories and other tables as NetCDF, through xarray, with units and coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.io.constraints import movable_mask, set_movable
from mlip.io.electrons import STATE, electronic_state
from mlip.io.netcdf import _variable, read_netcdf, write_netcdf

INITIAL_ARRAYS = {"initial_magmoms": "µB", "initial_charges": "e", "masses": "u"}
"""Per-atom values that a frame inherits from its walker's structure, and their units."""
MOVABLE = "movable"
"""1 where a coordinate of the walker's structure may move."""


@dataclass(frozen=True)
class Frame:
    """A moment of a walker.

    Attributes:
        atoms: Positions and cell (Å) at this moment.
        time: fs since the walker started.
        energy: Potential energy of the committee mean, eV.
        force_uncertainty: Calibrated uncertainty per atom, ``[n_atoms]`` eV/Å.
        temperature: Kinetic temperature, K.
        pressure: Virial and kinetic pressure, GPa; NaN where there is no stress.
        min_distance_ratio: Shortest distance over the sum of covalent radii.
        regular: Sampled at the fixed interval; False for what was kept besides, before an early stop.
        target_temperature: What the walker was held at, K.
        target_pressure: Likewise, GPa; NaN at constant volume.
    """

    atoms: Atoms
    time: float
    energy: float
    force_uncertainty: np.ndarray
    temperature: float
    pressure: float
    min_distance_ratio: float
    regular: bool = True
    target_temperature: float = float("nan")
    target_pressure: float = float("nan")


def write_trajectory(path: Path, start: Atoms, frames: Sequence[Frame], attributes: Mapping[str, Any]) -> None:
    """Write ``frames`` of the walker that began at ``start``; see docs/design.md for the layout."""
    n = len(start)

    def stack(values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
        return np.array(values, float).reshape(len(frames), *shape)

    data = xr.Dataset(
        {
            "positions": _variable(("frame", "atom", "space"), stack([f.atoms.positions for f in frames], (n, 3)), "Å"),
            "cell": _variable(
                ("frame", "cell_vector", "space"), stack([f.atoms.cell.array for f in frames], (3, 3)), "Å"
            ),
            "force_uncertainty": _variable(
                ("frame", "atom"), stack([f.force_uncertainty for f in frames], (n,)), "eV/Å"
            ),
            "energy": _variable("frame", stack([f.energy for f in frames], ()), "eV"),
            "temperature": _variable("frame", stack([f.temperature for f in frames], ()), "K"),
            "pressure": _variable("frame", stack([f.pressure for f in frames], ()), "GPa"),
            "min_distance_ratio": _variable("frame", stack([f.min_distance_ratio for f in frames], ()), "1"),
            "regular": _variable("frame", np.array([f.regular for f in frames], np.int8), "1"),
            "target_temperature": _variable("frame", stack([f.target_temperature for f in frames], ()), "K"),
            "target_pressure": _variable("frame", stack([f.target_pressure for f in frames], ()), "GPa"),
            "numbers": _variable("atom", start.numbers, "1"),
            **_initial_arrays(start),
            "pbc": _variable("cell_vector", start.pbc.astype(np.int8), "1"),
        },
        coords={"time": _variable("frame", stack([f.time for f in frames], ()), "fs")},
        attrs=dict(attributes) | electronic_state(start),
    )
    write_netcdf(path, data)


def read_frames(path: Path) -> tuple[list[Atoms], xr.Dataset]:
    """The structures of a trajectory and the data set they come from.

    They have the initial moments and charges, masses and constraints of the walker's structure, and in ``info`` its
    total charge and multiplicity.

    Raises:
        TrajectoryError: when the file is damaged.
    """
    data = read_netcdf(path, required=("positions", "cell", "numbers", "force_uncertainty", "regular"))
    structures = [
        Atoms(data.numbers.values, positions=positions, cell=cell, pbc=data.pbc.values.astype(bool))
        for positions, cell in zip(data.positions.values, data.cell.values, strict=True)
    ]
    for atoms in structures:
        atoms.info |= {name: data.attrs[name].item() for name in STATE if name in data.attrs}
    for name in INITIAL_ARRAYS:
        if name in data:
            for atoms in structures:
                atoms.set_array(name, data[name].values)
    if MOVABLE in data:
        for atoms in structures:
            set_movable(atoms, data[MOVABLE].values)
    return structures, data


def _initial_arrays(start: Atoms) -> dict[str, Any]:
    present = {name: start.get_array(name) for name in INITIAL_ARRAYS if start.has(name)}
    # Non-collinear moments are vectors.
    arrays = {
        name: _variable(("atom", "space")[: values.ndim], values.astype(float), INITIAL_ARRAYS[name])
        for name, values in present.items()
    }
    movable = movable_mask(start)
    if movable is not None:
        arrays[MOVABLE] = _variable(("atom", "space"), movable.astype(np.int8), "1")
    return arrays
