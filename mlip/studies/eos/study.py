"""The equation of state as a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.criteria import Criterion
from mlip.potential import Potential
from mlip.seeds import derive_seed
from mlip.structures.labelled import labelled_energy
from mlip.studies.eos.acquisition import choose_frames, pressure_span, score_states
from mlip.studies.eos.isotherms import measure_isotherms
from mlip.studies.eos.settings import Settings
from mlip.studies.eos.static import measure_static
from mlip.studies.interface import Acquisition, Labelled, Measurement, Quantity, Round, Study, Subject

if TYPE_CHECKING:
    from mlip.report.drawing import Picture

STATIC = {
    "V0": ("equilibrium volume", "Å³/atom"),
    "B0": ("bulk modulus", "GPa"),
    "B0_prime": ("pressure derivative of the bulk modulus", ""),
}


class EquationOfStateStudy(Study):
    """P(ρ, T) from NVT dynamics, E(V) of the static crystal."""

    name = "eos"
    title = "Equation of state"

    def measure(self, subject: Subject) -> Measurement:
        """Isotherms of the first starting structure, and the static curve over ``subject.references``."""
        data, frames = measure_isotherms(
            subject.structures[0],
            self.settings,
            subject.calculator,
            subject.potential,
            seed=subject.seed,
            progress=subject.progress,
        )
        static = measure_static(subject.references, subject.calculator, subject.potential)
        return Measurement(xr.merge([data, static], join="exact", compat="no_conflicts"), frames)

    def refer(
        self, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
    ) -> xr.Dataset:
        """The labels' static curve and, with ``reference: dynamics``, isotherms of the labeller itself."""
        static = _labelled_static(references)
        if self.settings.reference == "none":
            return static
        data, _ = measure_isotherms(
            structures[0],
            self.settings,
            labeller.direct(),
            None,
            # Random numbers of its own: with those of the measurement a labeller would agree with itself exactly.
            seed=derive_seed(seed, "reference"),
            progress=labeller.progress,
        )
        return xr.merge([data, static], join="exact", compat="no_conflicts")

    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        """Errors of the pressure by reference and committee, of static volume and bulk modulus, and stability."""
        settings, span, criteria = self.settings, pressure_span(data, reference), []
        if "pressure" in reference:
            error = _rms(data.pressure - reference.pressure, span)
            criteria.append(Criterion("RMS error of P over its span", error, settings.pressure_error))
        if np.isfinite(data.pressure_model_std).any():
            error = _rms(data.pressure_model_std, span)
            criteria.append(Criterion("RMS committee error of P over its span", error, settings.pressure_error))
        criteria.append(Criterion("share of states that exploded", float((data.stable != 1).mean()), 0.0))
        for parameter, limit in (("V0", settings.volume), ("B0", settings.bulk_modulus)):
            wanted = _static(reference, parameter)
            if wanted is not None:
                parameter_value = _static(data, parameter)
                value = None if parameter_value is None else abs(parameter_value / wanted - 1)
                criteria.append(Criterion(f"relative error of the {STATIC[parameter][0]}", value, limit))
        return criteria

    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: Potential, seed: int) -> Acquisition:
        """Frames of the states where the pressure is uncertain or off."""
        scores = score_states(measurement.data, reference, self.settings.deviation_weight)
        return choose_frames(measurement.frames, scores, self.settings.n_labels)

    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        """The pressure of every state, and V0, B0 and B0' of the static curve."""
        rows = []
        for state in data[["pressure", "pressure_error", "pressure_model_std"]].stack(s=("temperature", "density")).s:
            rho, t = float(state.density), float(state.temperature)
            here = data.sel(density=rho, temperature=t)
            errors = (_number(here.pressure_error), _number(here.pressure_model_std))
            known: tuple[float | None, ...] = ()
            if "pressure" in reference:
                there = reference.sel(density=rho, temperature=t)
                known = _number(there.pressure), _number(there.pressure_error)
            rows.append(Quantity(f"P at ρ/ρ₀ {rho:g}, {t:g} K", _number(here.pressure), "GPa", *errors, *known))
        for parameter, (title, unit) in STATIC.items():
            if "static_value" in data:
                spread = _static(data, parameter, "static_model_std")
                rows.append(
                    Quantity(
                        f"static {title}",
                        _static(data, parameter),
                        unit,
                        model_error=spread,
                        reference=_static(reference, parameter),
                    )
                )
        return rows

    def draw(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
        """Isotherms, their errors, the blocking and the static curve."""
        from mlip.studies.eos.figures import draw_eos

        return draw_eos(rounds, reference)

    def remarks(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[str]:
        """What the naive error would have claimed, what has not settled, and how good the static fits are."""
        data = rounds[-1].data
        ratio = (data.pressure_error / data.pressure_naive_error).values
        texts = [_conditions(data, self.settings)]
        if np.isfinite(ratio).any():
            texts.append(
                "Taking neighbouring samples for independent would make the statistical error "
                f"{1 / np.nanmedian(ratio):.2g} times what it is (median of the states; "
                f"{1 / np.nanmax(ratio):.2g} in the worst)."
            )
        if "pressure" in reference:
            noise = _rms(np.hypot(data.pressure_error, reference.pressure_error), pressure_span(data, reference))
            if noise is not None:
                texts.append(f"Statistical errors alone would make the RMS error of P over its span {noise:.2g}.")
        for name, text in (
            ("settled", "had not equilibrated in the first half of the run"),
            ("blocking_converged", "show no plateau in the blocking, so that their statistical error is a lower bound"),
        ):
            n = int((data[name] == 0).sum())
            if n:
                texts.append(f"{n} of {data.pressure.size} states {text}: raise studies.eos.n_steps.")
        if not np.isfinite(data.pressure_model_std).any():
            texts.append("There is no committee, and so no model error of the pressure.")
        return texts + _static_remarks(data)


def _conditions(data: xr.Dataset, settings: Settings) -> str:
    start, length = float((data.number_density / data.density).mean()), settings.n_steps * settings.timestep / 1000
    off = float(abs(data.measured_temperature - data.temperature).max())
    text = f"Every state is {data.attrs['n_atoms']} atoms for {length:g} ps; ρ₀ is {start:.4g} atoms/Å³."
    return text + (
        f" The mean kinetic temperature is within {off:.2g} K of the wanted one." if np.isfinite(off) else ""
    )


def _labelled_static(references: Sequence[Atoms]) -> xr.Dataset:
    from mlip.studies.eos.static import static_table

    if not references:
        return xr.Dataset()
    n = [len(atoms) for atoms in references]
    energies = [labelled_energy(atoms) / k for atoms, k in zip(references, n, strict=True)]
    return static_table([atoms.get_volume() / k for atoms, k in zip(references, n, strict=True)], energies)


def _rms(values: xr.DataArray, span: float) -> float | None:
    """RMS over the states, over ``span``; None where a state has no value."""
    result = float(np.sqrt(np.mean(values.values**2))) / span
    return result if np.isfinite(result) else None


def _static(data: xr.Dataset, parameter: str, variable: str = "static_value") -> float | None:
    """That of the Birch–Murnaghan fit; None where there is none."""
    if variable not in data:
        return None
    return _number(data[variable].sel(fit="birch_murnaghan", parameter=parameter))


def _number(value: xr.DataArray | float) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


def _static_remarks(data: xr.Dataset) -> list[str]:
    texts = []
    for parameter, (title, unit) in STATIC.items():
        if "static_value" in data and _static(data, parameter) is not None:
            fits = [
                f"{float(data.static_value.sel(fit=fit, parameter=parameter)):.5g} ± "
                f"{float(data.static_interval.sel(fit=fit, parameter=parameter)):.1g}"
                for fit in ("birch_murnaghan", "vinet")
            ]
            texts.append(
                f"Static {title}{f' ({unit})' if unit else ''}, with 95 % intervals of the fit: {fits[0]} by Birch and "
                f"Murnaghan, {fits[1]} by Vinet."
            )
    return texts


STUDY = EquationOfStateStudy
