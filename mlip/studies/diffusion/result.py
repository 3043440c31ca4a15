"""The measured diffusion as a table with units, and what is read off it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from ase import units

from mlip.studies.diffusion.finite_size import Correction
from mlip.studies.diffusion.measurement import ErrorStatistics, ErrorTime, ModelError, Transport, compare_members
from mlip.studies.diffusion.propagation import Allowance, Langevin, allow_force_error
from mlip.studies.diffusion.settings import Settings
from mlip.studies.diffusion.transport import Diffusion

DIFFUSION = "Å²/fs"
FORCE = "eV/Å"


@dataclass(frozen=True)
class SpeciesResult:
    """All that is known of one element's diffusion.

    ``allowance`` is None where diffusion is not established; ``model_error`` and ``uncertainty`` (RMS of the calibrated
    force uncertainty on the trajectory, eV/Å per component) where there is no committee.
    """

    symbol: str
    mass: float
    diffusion: Diffusion
    error_time: ErrorTime
    force_rms: float
    allowance: Allowance | None
    uncertainty: float | None = None
    model_error: ModelError | None = None


def judge_species(transport: Transport, settings: Settings, errors: ErrorStatistics) -> list[SpeciesResult]:
    """One result per element, without model errors.

    Raises:
        DiffusionError: when fewer than two blocks were finished.
    """
    results = []
    for k, kind in enumerate(transport.species):
        diffusion = transport.diffusion(k, settings.window)
        force_rms = math.sqrt(float(np.mean(transport.squared_forces[k])))
        result = SpeciesResult(kind.symbol, kind.mass, diffusion, errors.times[k], force_rms, None)
        if errors.uncertainty is not None:
            result = replace(result, uncertainty=float(errors.uncertainty[k]))
        if diffuses(diffusion) and math.isfinite(errors.times[k].value):
            particle = Langevin.of_diffusion(
                kind.mass, transport.temperature, diffusion.green_kubo.value, settings.timestep
            )
            allowance = allow_force_error(
                particle,
                settings.relative_error,
                correlation_time=errors.times[k].value,
                force_rms=force_rms,
                max_ratio=settings.max_force_ratio,
            )
            result = replace(result, allowance=allowance)
        results.append(result)
    return results


def diffuses(diffusion: Diffusion) -> bool:
    """Whether both estimates are positive beyond their 95 % intervals, of velocities that have decayed."""
    return diffusion.decayed and min(diffusion.green_kubo.interval()[0], diffusion.einstein.interval()[0]) > 0


def tabulate(
    transport: Transport, settings: Settings, results: Sequence[SpeciesResult], size: Correction
) -> xr.Dataset:
    """The data set written: one entry per species, blocks kept apart; NaN is what is not known."""
    scalars = _scalars(transport, results, size)
    curves = [transport.curves(k) for k in range(len(results))]
    ends = {"plateau": [r.diffusion.plateau for r in results], "fit": [r.diffusion.fit for r in results]}
    blocks = {
        "diffusion_green_kubo": [r.diffusion.green_kubo.blocks for r in results],
        "diffusion_einstein": [r.diffusion.einstein.blocks for r in results],
    }
    data = xr.Dataset(
        {
            **{name: ("species", np.array(values, float), {"units": unit}) for name, (values, unit) in scalars.items()},
            **{n: (("species", "block"), np.array(v), {"units": DIFFUSION}) for n, v in blocks.items()},
            **{n: (("species", "end"), np.array(v), {"units": "fs"}) for n, v in ends.items()},
            "vacf": (("species", "block", "lag"), np.array([c.vacf for c in curves]), {"units": "Å²/fs²"}),
            "msd": (("species", "block", "lag"), np.array([c.msd for c in curves]), {"units": "Å²"}),
            "temperature": ("block", np.array(transport.temperatures), {"units": "K"}),
            "energy_drift": ("block", np.array(transport.drifts), {"units": "eV/atom"}),
        },
        coords={
            "species": [r.symbol for r in results],
            "lag": ("lag", curves[0].lags, {"units": "fs"}),
        },
    )
    if transport.shear:
        data["shear_autocorrelation"] = (("block", "lag"), np.array(transport.shear), {"units": "(eV/Å³)²"})
    data.attrs.update(_attributes(transport, settings, results, size))
    return data


def _scalars(
    transport: Transport, results: Sequence[SpeciesResult], size: Correction
) -> dict[str, tuple[list[float], str]]:
    nan = math.nan

    def allowed(name: str) -> list[float]:
        return [nan if r.allowance is None else getattr(r.allowance, name) for r in results]

    def model(name: str) -> list[float]:
        return [nan if r.model_error is None else getattr(r.model_error, name) for r in results]

    values = [r.diffusion.green_kubo.value for r in results]
    added, added_error = (nan, nan) if size.value is None else (size.value, size.error)
    kt = units.kB * transport.temperature
    rates = [v * r.error_time.value / kt**2 for v, r in zip(values, results, strict=True)]
    return {
        "mass": ([r.mass for r in results], "u"),
        "n_atoms": ([float(len(kind.indices)) for kind in transport.species], "1"),
        "diffusion": (values, DIFFUSION),
        "statistical_error": ([r.diffusion.green_kubo.error for r in results], DIFFUSION),
        "model_error": (model("value"), DIFFUSION),
        "model_error_noise": (model("noise"), DIFFUSION),
        "model_error_bound": (model("bound"), DIFFUSION),
        "einstein": ([r.diffusion.einstein.value for r in results], DIFFUSION),
        "einstein_error": ([r.diffusion.einstein.error for r in results], DIFFUSION),
        "discrepancy": ([r.diffusion.discrepancy for r in results], "1"),
        "decayed": ([float(r.diffusion.decayed) for r in results], "1"),
        "diffusion_infinite": ([v + added for v in values], DIFFUSION),
        "size_correction": ([added] * len(results), DIFFUSION),
        "size_correction_error": ([added_error] * len(results), DIFFUSION),
        "error_correlation_time": ([r.error_time.value for r in results], "fs"),
        # Relative error of D over the mean square of the force error: σ²τD/(kT)².
        "error_sensitivity": (rates, "(eV/Å)⁻²"),
        "force_rms": ([r.force_rms for r in results], FORCE),
        "force_uncertainty": ([nan if r.uncertainty is None else r.uncertainty for r in results], FORCE),
        "force_error_textbook": (allowed("textbook"), FORCE),
        "force_error_correlated": (allowed("correlated"), FORCE),
        "force_error_target": (allowed("target"), FORCE),
    }


def _attributes(
    transport: Transport, settings: Settings, results: Sequence[SpeciesResult], size: Correction
) -> dict[str, str | float | int]:
    return {
        "relative_error": settings.relative_error,
        "timestep_fs": settings.timestep,
        "n_atoms": len(transport.atoms),
        "mean_temperature": transport.temperature,
        "volume_per_atom": float(transport.atoms.get_volume() / len(transport.atoms)),
        "error_time_source": results[0].error_time.source,
        "viscosity_mPa_s": math.nan if size.viscosity is None else size.viscosity,
        "viscosity_error_mPa_s": size.viscosity_error,
        "viscosity_source": size.source,
        "failure": "",
    }


def add_model_errors(
    results: Sequence[SpeciesResult], members: Sequence[Transport], calibration: np.ndarray
) -> list[SpeciesResult]:
    """``results`` of the mean with model errors from runs of the members, with the mean's window.

    Where a member's dynamics came apart the model error is infinite.

    Args:
        results: of the mean.
        members: runs of each member.
        calibration: calibrated over raw force spread of each species.
    """
    judged = []
    for k, result in enumerate(results):
        error = ModelError(math.inf, math.nan)
        if not any(m.failure for m in members):
            window = result.diffusion.plateau[0]
            error = compare_members([m.diffusion(k, window).green_kubo for m in members], float(calibration[k]))
        judged.append(replace(result, model_error=error))
    return judged
