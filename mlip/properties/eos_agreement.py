"""The equation of state of a potential against the labeller's, on labelled reference structures."""

from __future__ import annotations

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
from mlip.structures.labelled import labelled_energy


def compare_eos(potential: Potential, references: Sequence[Atoms], out: Path) -> dict[str, Any]:
    """Lattice constant, bulk modulus and equation of state of ``potential`` and labeller; curves go to ``out``.

    Empty without ``references``: slabs and molecules have no volume.

    Raises:
        PropertyError: where the labeller's own equation of state has no minimum.
    """
    if not references:
        write_netcdf(out, _eos_table(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)))
        return {}
    predictions = potential.predict(references)
    n = len(references[0])
    volumes = np.array([atoms.get_volume() for atoms in references])
    reference = np.array([labelled_energy(atoms) for atoms in references])
    predicted = np.array([p.energy for p in predictions])
    std = np.array([p.energy_std for p in predictions])
    write_netcdf(out, _eos_table(volumes / n, reference / n, predicted / n, std / n))
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
    return properties


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


def _eos_table(volumes: np.ndarray, reference: np.ndarray, predicted: np.ndarray, std: np.ndarray) -> xr.Dataset:
    def energy(values: np.ndarray) -> tuple[str, np.ndarray, dict[str, str]]:
        return "volume", values - values.min() if len(values) else values, {"units": "eV/atom"}

    return xr.Dataset(
        {"energy_reference": energy(reference), "energy_potential": energy(predicted), "energy_std": ("volume", std)},
        coords={"volume": ("volume", volumes, {"units": "Å³/atom"})},
    )
