"""Can a potential be trusted? Its properties against the labeller's own, and its stability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.criteria import Criterion
from mlip.potential import Potential
from mlip.properties.equilibrium import at_equilibrium
from mlip.properties.symmetry import PropertyError
from mlip.structures.labelled import has_label, labelled_energy
from mlip.studies.interface import Acquisition, Labelled, Measurement, Quantity, Round, Study, Subject
from mlip.studies.validation.measurement import SKIPPED, measure_everything, tabulate_elasticity, tabulate_scan

if TYPE_CHECKING:
    from mlip.report.drawing import Picture

TEMPERATURE_SIGMAS = 4.0
"""Standard deviations that a canonical start may lie off its mean."""
FROM_SCAN = {"lattice_constant": ("lattice constant", "Å"), "bulk_modulus": ("bulk modulus", "GPa")}
WITH_CRITERION = ("C44 clamped", "C44 relaxed")


class ValidationStudy(Study):
    """Lattice constant, bulk modulus, elastic constants, energy conservation and repulsion."""

    name = "validation"
    title = "Validation"

    def measure(self, subject: Subject) -> Measurement:
        """Everything; frames are strained structures with displaced atoms."""
        return Measurement(*measure_everything(subject, self.settings))

    def refer(
        self, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
    ) -> xr.Dataset:
        """The labelled equation of state, and elastic constants of the labeller at its own equilibrium volume."""
        energies = [labelled_energy(atoms) for atoms in references]
        scan = tabulate_scan(references, energies)
        if not references or not has_label(references[0], "stress"):
            reason = "the labeller gives no stress" if references else "the starting structure is not periodic"
            return scan.assign_attrs({f"{SKIPPED}elastic constants": reason})
        try:
            crystal = at_equilibrium(references, energies)
        except PropertyError as error:
            return scan.assign_attrs({f"{SKIPPED}elastic constants": str(error)})
        crystal.info = {"structure_id": "validate-elasticity"}
        with labeller.stored(self.settings.max_labels) as labels:
            elastic = tabulate_elasticity(crystal, labels, self.settings.strain, self.settings.reference_fmax)
        return xr.merge([scan, elastic], join="exact", compat="no_conflicts", combine_attrs="no_conflicts")

    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        """Errors against the labeller, the run at constant energy, and repulsion at short distance."""
        criteria = []
        for key, (name, _) in FROM_SCAN.items():
            if key in reference:
                error = _relative_error(_number(data, key), _number(reference, key))
                criteria.append(Criterion(f"relative error of the {name}", error, getattr(self.settings, key)))
        for name in WITH_CRITERION if "constants" in reference else ():
            error = _relative_error(_constant(data, name), _constant(reference, name))
            criteria.append(Criterion(f"relative error of {name}", error, self.settings.shear_modulus))
        return criteria + self._judge_dynamics(data) + self._judge_compression(data)

    def _judge_dynamics(self, data: xr.Dataset) -> list[Criterion]:
        settings, n_atoms = self.settings, int(data.attrs["n_atoms"])
        run = f"NVE, {n_atoms} atoms"
        drift, mean, ratio = (_number(data, name) for name in ("drift", "mean_temperature", "fluctuation_ratio"))
        # The kinetic temperature of an NVE run follows the energy of its start, for which a canonical
        # ensemble of harmonic atoms has the relative standard deviation 1/sqrt(3 n_atoms).
        spread = TEMPERATURE_SIGMAS / math.sqrt(3 * n_atoms)
        duration = settings.duration / 1000
        return [
            Criterion(f"{run}: missing of {duration:g} ps (ps)", float(data.missing_time) / 1000, 0.0),
            Criterion(
                f"{run}: energy drift in {duration:g} ps (meV/atom)",
                None if drift is None else 1000 * abs(drift),
                settings.drift,
            ),
            Criterion(f"{run}: relative error of the temperature", _relative_error(mean, settings.temperature), spread),
            Criterion(
                f"{run}: relative error of its fluctuation, to a harmonic crystal's",
                _relative_error(ratio, 1.0),
                settings.fluctuation,
            ),
        ]

    def _judge_compression(self, data: xr.Dataset) -> list[Criterion]:
        criteria = []
        for curve in data.curve.values:
            here = data.sel(curve=curve)
            criteria.append(Criterion(f"{curve}: deepest hole (eV)", _number(here, "hole"), self.settings.hole))
            push = float(here.weakest_push)
            if not np.isnan(push):
                pull = max(0.0, -push) if np.isfinite(push) else None
                criteria.append(Criterion(f"{curve}: pull together ({here.push_unit.item()})", pull, 0.0))
        return criteria

    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: Potential, seed: int) -> Acquisition:
        """The strained structures whose forces the committee is least sure of."""
        predicted = potential.predict(measurement.frames)
        scores = np.array([float(np.max(prediction.force_uncertainty)) for prediction in predicted])
        order = np.argsort(-scores, kind="stable")
        taken = order[: self.settings.n_labels].tolist()
        rows = [
            {"frame": k, "force_uncertainty": scores[k], "decision": "taken" if k in taken else "left"}
            for k in order.tolist()
        ]
        return Acquisition([_with_reason(measurement.frames[k], "uncertain") for k in taken], rows)

    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        """Properties beside the labeller's, drift and temperature of the run, and repulsion."""
        rows = [
            Quantity(name, _number(data, key), unit, reference=_number(reference, key))
            for key, (name, unit) in FROM_SCAN.items()
            if key in data
        ]
        rows += [
            Quantity(str(name), _constant(data, name), "GPa", reference=_constant(reference, name))
            for name in (data.constant.values if "constants" in data else ())
        ]
        run, duration = f"NVE, {data.attrs['n_atoms']} atoms", self.settings.duration / 1000
        drift = _number(data, "drift")
        rows += [
            Quantity(f"{run}: energy drift in {duration:g} ps", None if drift is None else 1000 * drift, "meV/atom"),
            Quantity(
                f"{run}: mean temperature", _number(data, "mean_temperature"), "K", reference=self.settings.temperature
            ),
            Quantity(
                f"{run}: fluctuation over a harmonic crystal's", _number(data, "fluctuation_ratio"), "", reference=1.0
            ),
        ]
        for curve in data.curve.values:
            here = data.sel(curve=curve)
            rows.append(Quantity(f"{curve}: weakest push apart", _number(here, "weakest_push"), here.push_unit.item()))
        return rows

    def draw(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
        """Equation of state, compression, energy conservation."""
        from mlip.studies.validation.figures import draw_validation

        return [draw_validation(rounds[-1].data, reference, self.settings.drift)]

    def remarks(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[str]:
        """What was left out, and why."""
        data = rounds[-1].data
        reasons = {**_skipped(data, ""), **_skipped(reference, " of the labeller")}
        texts = [f"Not checked: {name}: {reason}." for name, reason in reasons.items()]
        if data.attrs["failure"]:
            texts.append(f"The run at constant energy ended early: {data.attrs['failure']}.")
        return texts


def _skipped(data: xr.Dataset, whose: str) -> dict[str, str]:
    keys = [key for key in data.attrs if key.startswith(SKIPPED)]
    return {f"{key.removeprefix(SKIPPED)}{whose}": data.attrs[key] for key in keys}


def _with_reason(atoms: Atoms, reason: str) -> Atoms:
    chosen = atoms.copy()
    chosen.info["reason"] = reason
    return chosen


def _number(data: xr.Dataset, name: str) -> float | None:
    """A scalar of ``data``; None where it is missing or not finite."""
    value = float(data[name]) if name in data else math.nan
    return value if math.isfinite(value) else None


def _constant(data: xr.Dataset, name: str) -> float | None:
    """An elastic constant, GPa; None where it is missing."""
    if "constants" not in data:
        return None
    return _number(data.sel(constant=name), "constants")


def _relative_error(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else abs(value - reference) / abs(reference)


STUDY = ValidationStudy
