"""Scores of explored frames: uncertainty, novelty and sanity, one row a frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.io.extxyz import read_structures
from mlip.io.files import read_json
from mlip.io.netcdf import write_netcdf
from mlip.io.trajectory import read_frames
from mlip.potential import Potential, load_potential
from mlip.potential.uncertainty import measure_shift
from mlip.structures.labelled import labelled_energy

UNITS = {
    "time_fs": "fs",
    "temperature": "K",
    "energy_per_atom": "eV",
    "energy_above_lowest": "eV",
    "force_uncertainty": "eV/Å",
    "force_uncertainty_mean": "eV/Å",
    "min_distance_ratio": "1",
    "novelty": "1",
}


def score_frames(walkers: Sequence[Path], potential: Path, training: Path, *, out: Path, device: str = "cpu") -> None:
    """Score every frame of every walker and write the table; see docs/design.md for the layout.

    Args:
        walkers: Trajectories of this iteration.
        potential: Committee that drove them; its ``training.json`` says which uncertainties validation data have.
        training: Its training set, which novelty is measured against.
        out: NetCDF table written.
        device: Torch device.
    """
    committee = load_potential(potential, device=device, precision="single")
    known = read_structures(training)
    known_descriptors = describe_structures(committee, known)
    scale = descriptor_scale(known_descriptors)
    lowest = _lowest_energies(known)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ["walker", "frame", "regular", *UNITS]}
    ids: list[str] = []
    descriptors: list[np.ndarray] = []
    reasons: list[str] = []
    atomic: list[np.ndarray] = []
    for path in walkers:
        structures, data = read_frames(path)
        reasons.append(str(data.attrs["stop_reason"]))
        if not structures:
            continue
        found = describe_structures(committee, structures) / scale
        descriptors.append(found)
        ids += [f"{data.attrs['structure_id']}-frame_{k:04d}" for k in range(len(structures))]
        uncertainty = data.force_uncertainty.values
        atomic.append(uncertainty[data.regular.values.astype(bool)].ravel())
        per_atom = data.energy.values / len(data.numbers)
        row = {
            "walker": np.full(len(structures), int(data.attrs["walker"])),
            "frame": np.arange(len(structures)),
            "regular": data.regular.values,
            "time_fs": data.time.values,
            "temperature": data.temperature.values,
            "energy_per_atom": per_atom,
            "energy_above_lowest": per_atom - lowest.get(_composition(structures[0]), per_atom[0]),
            "force_uncertainty": uncertainty.max(axis=1),
            "force_uncertainty_mean": uncertainty.mean(axis=1),
            "min_distance_ratio": data.min_distance_ratio.values,
            "novelty": nearest_distance(found, known_descriptors / scale),
        }
        for name, values in row.items():
            columns[name].append(values)
    shift = _measure_shift(potential / "training.json", atomic)
    table = _table(ids, columns, descriptors, reasons)
    write_netcdf(out, table.assign_attrs({f"above_{name}": share for name, share in shift.items()}))


def _measure_shift(training: Path, uncertainties: Sequence[np.ndarray]) -> dict[str, float]:
    """Shares above the validation data's quantiles; empty without frames, or where too little data was held out."""
    known = read_json(training).get("uncertainty", {})  # earlier versions wrote none
    if known.get("source") != "validation" or not sum(map(len, uncertainties)):
        return {}
    return measure_shift(known["shift"]["force_uncertainty"], np.concatenate(uncertainties))


def _composition(atoms: Atoms) -> tuple[tuple[str, float], ...]:
    symbols = atoms.get_chemical_symbols()
    return tuple((symbol, round(symbols.count(symbol) / len(symbols), 3)) for symbol in sorted(set(symbols)))


def _lowest_energies(known: Sequence[Atoms]) -> dict[tuple[tuple[str, float], ...], float]:
    """Lowest labelled energy per atom, eV, of each composition: energies of different ones do not compare."""
    lowest: dict[tuple[tuple[str, float], ...], float] = {}
    for atoms in known:
        energy, key = labelled_energy(atoms) / len(atoms), _composition(atoms)
        lowest[key] = min(energy, lowest.get(key, energy))
    return lowest


def describe_structures(potential: Potential, structures: Sequence[Atoms]) -> np.ndarray:
    """Descriptor of each structure ``[n_structures, 2 * n_features]``: mean and spread over its atoms."""
    atomic = potential.describe(list(structures))
    return np.array([np.concatenate([d.mean(axis=0), d.std(axis=0)]) for d in atomic])


def descriptor_scale(descriptors: np.ndarray) -> np.ndarray:
    """Divisor per feature so that distances are in training-set standard deviations.

    Features that hardly vary are held down by a floor, and the dimension is divided out: two
    structures at distance 1 differ by one standard deviation in a typical feature.
    """
    spread = descriptors.std(axis=0)
    floor = 0.05 * float(spread.max(initial=0.0)) + 1e-12
    return np.maximum(spread, floor) * np.sqrt(descriptors.shape[1])


def nearest_distance(points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Distance ``[n_points]`` of each row of ``points`` to its nearest row of ``known``."""
    from scipy.spatial.distance import cdist

    return cdist(points, known).min(axis=1)


def _table(
    ids: Sequence[str],
    columns: dict[str, list[np.ndarray]],
    descriptors: Sequence[np.ndarray],
    reasons: Sequence[str],
) -> xr.Dataset:
    joined = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in columns.items()}
    variables = {name: ("candidate", v, {"units": UNITS.get(name, "1")}) for name, v in joined.items()}
    table = xr.Dataset(
        {"structure_id": ("candidate", np.array(ids, dtype=object)), **variables},
        attrs={
            "n_walkers": len(reasons),
            "n_exploded": reasons.count("exploded"),
            "n_uncertain": reasons.count("uncertain"),
        },
    )
    features = np.concatenate(descriptors) if descriptors else np.zeros((0, 0))
    table["descriptor"] = (("candidate", "feature"), features.astype(np.float32))
    return table
