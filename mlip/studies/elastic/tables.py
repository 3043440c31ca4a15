"""Elastic constants as a data set with units."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mlip.properties.elastic.constants import Elasticity

VOIGT_NAMES = ["xx", "yy", "zz", "yz", "xz", "xy"]


def tabulate(found: Elasticity) -> xr.Dataset:
    """Everything but the structures.

    Dimensions ``constant`` (independent constants), ``state`` (clamped, relaxed), ``path``, ``amplitude``,
    ``voigt``, ``voigt_of_strain``, ``member``, ``mode``. The fit's errors (``*_fit_error``) and the committee's
    (``model_error``) are kept apart.
    """
    states = list(found.samples)
    table: dict[str, Any] = {}
    for name, methods in (("by_energy", found.by_energy), ("by_stress", found.by_stress)):
        empty = np.full(len(found.basis.names), np.nan)
        values = [methods[s].values if s in methods else empty for s in states]
        errors = [methods[s].fit_error if s in methods else empty for s in states]
        table[name] = _gpa(("state", "constant"), values, f"elastic constants from {name[3:]}")
        table[f"{name}_fit_error"] = _gpa(("state", "constant"), errors, "standard error of the fit over amplitudes")
    best = [found.constants(s) for s in states]
    table["constants"] = _gpa(("state", "constant"), [c.values for c in best], "from stresses where there are any")
    table["fit_error"] = _gpa(("state", "constant"), [c.fit_error for c in best], "standard error of the fit")
    table["tensor"] = _gpa(("state", "voigt", "voigt_of_strain"), [found.basis.tensor(c.values) for c in best], "C")
    table |= _curves(found) | _members(found) | _response(found)
    table["pressure"] = _gpa((), found.pressure, "of the unstrained cell")
    table["volume"] = ((), found.crystal.get_volume(), {"units": "Å³"})
    coordinates = {
        "constant": list(found.basis.names),
        "state": states,
        "voigt": VOIGT_NAMES,
        "voigt_of_strain": VOIGT_NAMES,
        "path": [own.path.name for own in found.samples[states[0]]],
        "amplitude": ("amplitude", found.samples[states[0]][0].amplitudes, {"units": "1"}),
    }
    attributes = {"crystal_system": found.basis.crystal_system, "formula": found.crystal.get_chemical_formula()}
    return xr.Dataset(table, coordinates, attributes)


def _gpa(dims: tuple[str, ...], values: Any, text: str) -> tuple[Any, np.ndarray, dict[str, str]]:
    return dims, np.asarray(values, float), {"units": "GPa", "long_name": text}


def _curves(found: Elasticity) -> dict[str, Any]:
    middle = found.samples["clamped"][0].amplitudes.tolist().index(0.0)
    volume = found.crystal.get_volume()
    energies = [[(p.energies - p.energies[middle]) / volume for p in own] for own in found.samples.values()]
    stresses = [[p.stresses for p in own] for own in found.samples.values()]
    return {
        "energy_density": (("state", "path", "amplitude"), np.array(energies), {"units": "eV/Å³"}),
        "stress": (("state", "path", "amplitude", "voigt"), np.array(stresses), {"units": "eV/Å³"}),
    }


def _members(found: Elasticity) -> dict[str, Any]:
    if not found.member_constants:
        return {}
    states = list(found.samples)
    values = np.array([found.member_constants[s] for s in states])
    table: dict[str, Any] = {
        "member_constants": _gpa(("state", "member", "constant"), values, "of the committee's members, by energy"),
        "model_error": _gpa(("state", "constant"), values.std(1, ddof=1), "standard deviation over the members"),
    }
    if found.member_response is not None:
        tops = found.member_response.frequencies[..., -1]
        table["top_frequency_model_error"] = ((), tops.std(ddof=1), {"units": "THz"})
    return table


def _response(found: Elasticity) -> dict[str, Any]:
    if found.response is None:
        return {}
    table: dict[str, Any] = {
        "linear_response": _gpa(("constant",), found.linear_response(), "relaxed, from force constants"),
        "frequency": (("mode",), found.response.frequencies, {"units": "THz", "long_name": "phonons of the cell"}),
    }
    if found.kleinman_zeta is not None:
        table["kleinman_zeta"] = ((), found.kleinman_zeta, {"units": "1"})
    return table
