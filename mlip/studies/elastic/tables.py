"""Elastic constants as a data set with units."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mlip.properties.elastic.constants import Elasticity

VOIGT_NAMES = ["xx", "yy", "zz", "yz", "xz", "xy"]


def tabulate(elasticity: Elasticity) -> xr.Dataset:
    """Everything but the structures.

    Dimensions ``constant`` (independent constants), ``state`` (clamped, relaxed), ``path``, ``amplitude``,
    ``voigt``, ``voigt_of_strain``, ``member``, ``mode``. The fit's errors (``*_fit_error``) and the committee's
    (``model_error``) are kept apart.
    """
    states = list(elasticity.samples)
    table: dict[str, Any] = {}
    for name, methods in (("by_energy", elasticity.by_energy), ("by_stress", elasticity.by_stress)):
        empty = np.full(len(elasticity.basis.names), np.nan)
        values = [methods[s].values if s in methods else empty for s in states]
        errors = [methods[s].fit_error if s in methods else empty for s in states]
        table[name] = _gpa(("state", "constant"), values, f"elastic constants from {name[3:]}")
        table[f"{name}_fit_error"] = _gpa(("state", "constant"), errors, "standard error of the fit over amplitudes")
    best = [elasticity.constants(s) for s in states]
    table["constants"] = _gpa(("state", "constant"), [c.values for c in best], "from stresses where there are any")
    table["fit_error"] = _gpa(("state", "constant"), [c.fit_error for c in best], "standard error of the fit")
    table["tensor"] = _gpa(
        ("state", "voigt", "voigt_of_strain"), [elasticity.basis.tensor(c.values) for c in best], "C"
    )
    table |= _curves(elasticity) | _members(elasticity) | _response(elasticity)
    table["pressure"] = _gpa((), elasticity.pressure, "of the unstrained cell")
    table["volume"] = ((), elasticity.crystal.get_volume(), {"units": "Å³"})
    coordinates = {
        "constant": list(elasticity.basis.names),
        "state": states,
        "voigt": VOIGT_NAMES,
        "voigt_of_strain": VOIGT_NAMES,
        "path": [samples.path.name for samples in elasticity.samples[states[0]]],
        "amplitude": ("amplitude", elasticity.samples[states[0]][0].amplitudes, {"units": "1"}),
    }
    attributes = {
        "crystal_system": elasticity.basis.crystal_system,
        "formula": elasticity.crystal.get_chemical_formula(),
    }
    return xr.Dataset(table, coordinates, attributes)


def _gpa(dims: tuple[str, ...], values: Any, text: str) -> tuple[Any, np.ndarray, dict[str, str]]:
    return dims, np.asarray(values, float), {"units": "GPa", "long_name": text}


def _curves(elasticity: Elasticity) -> dict[str, Any]:
    middle = elasticity.samples["clamped"][0].amplitudes.tolist().index(0.0)
    volume = elasticity.crystal.get_volume()
    energies = [
        [(p.energies - p.energies[middle]) / volume for p in samples] for samples in elasticity.samples.values()
    ]
    stresses = [[p.stresses for p in samples] for samples in elasticity.samples.values()]
    return {
        "energy_density": (("state", "path", "amplitude"), np.array(energies), {"units": "eV/Å³"}),
        "stress": (("state", "path", "amplitude", "voigt"), np.array(stresses), {"units": "eV/Å³"}),
    }


def _members(elasticity: Elasticity) -> dict[str, Any]:
    if not elasticity.member_constants:
        return {}
    states = list(elasticity.samples)
    values = np.array([elasticity.member_constants[s] for s in states])
    table: dict[str, Any] = {
        "member_constants": _gpa(("state", "member", "constant"), values, "of the committee's members, by energy"),
        "model_error": _gpa(("state", "constant"), values.std(1, ddof=1), "standard deviation over the members"),
    }
    if elasticity.member_response is not None:
        tops = elasticity.member_response.frequencies[..., -1]
        table["top_frequency_model_error"] = ((), tops.std(ddof=1), {"units": "THz"})
    return table


def _response(elasticity: Elasticity) -> dict[str, Any]:
    if elasticity.response is None:
        return {}
    table: dict[str, Any] = {
        "linear_response": _gpa(("constant",), elasticity.linear_response(), "relaxed, from force constants"),
        "frequency": (("mode",), elasticity.response.frequencies, {"units": "THz", "long_name": "phonons of the cell"}),
    }
    if elasticity.kleinman_zeta is not None:
        table["kleinman_zeta"] = ((), elasticity.kleinman_zeta, {"units": "1"})
    return table
