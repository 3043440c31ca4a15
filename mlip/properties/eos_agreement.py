"""The equation of state of a potential against the labeller's, on labelled reference structures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.io.netcdf import write_netcdf
from mlip.potential import Potential
from mlip.properties.eos import EquationOfState, fit_eos
from mlip.properties.symmetry import PropertyError, lattice_constant
from mlip.structures.labelled import labelled_energy, split_by_source


def compare_eos(potential: Potential, references: Sequence[Atoms], out: Path) -> dict[str, Any]:
    """Lattice constant, bulk modulus and equation of state of ``potential`` and labeller; curves go to ``out``.

    Each starting structure among ``references`` (``source``) has a curve of its own. Where there are several, each
    property is that of the structure on which potential and labeller are farthest apart, and ``structures`` has all.
    Empty without ``references``: slabs and molecules have no volume.

    Raises:
        PropertyError: where the labeller's own equation of state has no minimum.
    """
    scans = split_by_source(references)
    compared = {number: _compare_scan(potential, scan) for number, scan in scans.items()}
    write_netcdf(out, xr.concat([_eos_table(*EMPTY), *(table for table, _ in compared.values())], "volume"))
    found = {number: properties for number, (_, properties) in compared.items()}
    if len(found) < 2:
        return next(iter(found.values()), {})
    worst: dict[str, Any] = {"eos_rmse": max(entry["eos_rmse"] for entry in found.values())}
    for name in ("lattice_constant", "bulk_modulus"):
        number = max(found, key=lambda n: _distance(found[n][name]))
        worst[name] = found[number][name] | {"structure": number}
    return worst | {"structures": {str(number): entry for number, entry in found.items()}}


def _distance(entry: dict[str, Any]) -> float:
    """Relative error; a potential without the property is farther off than any other."""
    error = entry["relative_error"]
    return math.inf if error is None else float(error)


def _compare_scan(potential: Potential, references: Sequence[Atoms]) -> tuple[xr.Dataset, dict[str, Any]]:
    """Curves and properties of one starting structure."""
    predictions = potential.predict(references)
    n = len(references[0])
    volumes = np.array([atoms.get_volume() for atoms in references])
    reference = np.array([labelled_energy(atoms) for atoms in references])
    predicted = np.array([p.energy for p in predictions])
    std = np.array([p.energy_std for p in predictions])
    source = np.full(len(references), references[0].info.get("source", 0))
    table = _eos_table(volumes / n, reference / n, predicted / n, std / n, source)
    try:
        true_fit = fit_eos(volumes, reference)
    except PropertyError as error:
        raise PropertyError(
            f"assess: the labeller's own equation of state has no minimum in assess.eos_volumes: {error}"
        ) from None
    properties: dict[str, Any] = {"eos_rmse": _eos_rmse(reference, predicted) / n}
    try:
        fitted: EquationOfState | None = fit_eos(volumes, predicted)
    except PropertyError:
        fitted = None  # a poor early potential may have no minimum here: that is an error, not a crash
    for name, unit in (("lattice_constant", "Å"), ("bulk_modulus", "GPa")):
        properties[name] = _compare(
            _property(name, references[0], fitted), _property(name, references[0], true_fit), unit
        )
    return table, properties


def _property(name: str, structure: Atoms, fit: EquationOfState | None) -> float | None:
    if fit is None:
        return None
    return fit.b0 if name == "bulk_modulus" else lattice_constant(structure, fit.v0)


def _compare(value: float | None, reference: float | None, unit: str) -> dict[str, Any]:
    error = abs(value - reference) / abs(reference) if value is not None and reference else None
    return {"potential": value, "reference": reference, "relative_error": error, "unit": unit}


def _eos_rmse(reference: np.ndarray, predicted: np.ndarray) -> float:
    """RMSE of the curve's shape: a constant offset of all energies is no error of the EOS."""
    difference = predicted - reference
    return float(np.std(difference))


EMPTY = (np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, int))


def _eos_table(
    volumes: np.ndarray, reference: np.ndarray, predicted: np.ndarray, std: np.ndarray, source: np.ndarray
) -> xr.Dataset:
    def energy(values: np.ndarray) -> tuple[str, np.ndarray, dict[str, str]]:
        return "volume", values - values.min() if len(values) else values, {"units": "eV/atom"}

    return xr.Dataset(
        {
            "energy_reference": energy(reference),
            "energy_potential": energy(predicted),
            "energy_std": ("volume", std),
            "source": ("volume", source.astype(np.int32)),
        },
        coords={"volume": ("volume", volumes, {"units": "Å³/atom"})},
    )
