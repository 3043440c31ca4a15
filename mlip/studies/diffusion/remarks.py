"""What a measurement of diffusion means, in sentences for its page."""

from __future__ import annotations

import math

import xarray as xr

from mlip.studies.diffusion.settings import Settings
from mlip.studies.diffusion.transport import AGREEMENT, CM2_PER_S, Estimate

DRIFT = 1e-3
"""Drift of the total energy over a block, eV/atom, above which it is mentioned."""


def list_remarks(data: xr.Dataset, settings: Settings) -> list[str]:
    """One sentence or a few per finding."""
    if "diffusion" not in data:
        return [f"There is no diffusion coefficient: {data.attrs['failure']}."]
    remarks = []
    for k in range(data.sizes["species"]):
        species = data.isel(species=k)
        remarks += [*_quality(species, settings), *_force_error(species, settings), *_members(species)]
    remarks += [*_unseen(data), _size(data), *_temperature(data, settings)]
    drift = float(abs(data.energy_drift).max())
    if drift > DRIFT:
        remarks.append(
            f"The total energy drifted by up to {1000 * drift:.2g} meV/atom within a block: the time step is too long, "
            "or the forces are not the derivatives of the energy."
        )
    return remarks


def explain_failure(data: xr.Dataset, settings: Settings) -> str:
    """Why there is no diffusion coefficient, and how to come by one."""
    return (
        f"{data.attrs['failure']}; the potential needs labels of this state ({settings.temperature:g} K, relative "
        f"volume {settings.volume:+g}), or studies.diffusion.timestep ({settings.timestep:g} fs) is too long"
    )


def explain_missing_target(data: xr.Dataset, settings: Settings) -> str:
    """Why no force target follows from the wanted error of D, species by species, and what would mend it."""
    reasons = [_missing(data.isel(species=k), settings) for k in range(data.sizes["species"])]
    return f"no force target follows: {'; '.join(reasons)}"


def _missing(species: xr.Dataset, settings: Settings) -> str:
    symbol = str(species.species.values)
    routes = [Estimate(species[name].values).interval() for name in ("diffusion_green_kubo", "diffusion_einstein")]
    low, high = (bound * CM2_PER_S * 1e5 for bound in min(routes))
    if low <= 0:
        return (
            f"D({symbol}), {low:.2g} to {high:.2g} 10⁻⁵ cm²/s with 95 % confidence, cannot be told from none; is it a "
            f"solid at {settings.temperature:g} K and relative volume {settings.volume:+g}? If not, raise "
            f"studies.diffusion.n_blocks ({settings.n_blocks}) or block_length ({settings.block_length:g} fs)"
        )
    if not float(species.decayed):
        return (
            f"the integral of the velocity autocorrelation of {symbol} does not become flat within a quarter of a "
            f"block; raise studies.diffusion.block_length ({settings.block_length:g} fs)"
        )
    return f"no force acts on {symbol}, and so no error of one"


def _quality(species: xr.Dataset, settings: Settings) -> list[str]:
    symbol, value, error = str(species.species.values), float(species.diffusion), float(species.statistical_error)
    remarks = []
    if not float(species.decayed):
        remarks.append(
            f"The integral of the velocity autocorrelation of {symbol} has no flat part: make block_length longer. "
            "Neither estimate is to be trusted."
        )
    discrepancy = float(species.discrepancy)
    routes = f"Green–Kubo and Einstein differ by {discrepancy:.1f} of their common error for {symbol}"
    if discrepancy <= AGREEMENT:
        remarks.append(f"{routes}: they agree.")
    else:
        remarks.append(
            f"{routes}: they DISAGREE, and D is not established; blocks are too short, or something is wrong."
        )
    if not math.isfinite(float(species.force_error_correlated)):
        return remarks  # why is told beside the criterion that lacks its target
    if error > settings.relative_error * value:
        remarks.append(
            f"The statistical error of D({symbol}) is {100 * error / value:.1f} %, more than the wanted "
            f"{100 * settings.relative_error:g} %: more blocks are needed for a verdict of that sharpness."
        )
    return remarks


def _force_error(species: xr.Dataset, settings: Settings) -> list[str]:
    symbol, white = str(species.species.values), float(species.force_error_textbook)
    correlated, rms = float(species.force_error_correlated), float(species.force_rms)
    if not math.isfinite(correlated):
        return []
    time = float(species.error_correlation_time)
    text = (
        f"For an error of {100 * settings.relative_error:g} % in D({symbol}) the textbook's force error, new at each "
        f"step, may be {white:.3g} eV/Å; errors that last {time:.3g} fs, as measured from {_source(species)}, may be "
        f"{correlated:.3g} eV/Å. The RMS force itself is {rms:.3g} eV/Å."
    )
    if white >= rms:
        text += " A potential without any forces would pass the textbook's number: it decides nothing here."
    target = float(species.force_error_target)
    if target < correlated:
        text += f" The target is held at {settings.max_force_ratio:g} of the RMS force, {target:.3g} eV/Å."
    remarks = [text]
    uncertainty = float(species.force_uncertainty)
    if math.isfinite(uncertainty):
        relative = uncertainty**2 * float(species.error_sensitivity)
        remarks.append(
            f"The force uncertainty in this dynamics, {uncertainty:.3g} eV/Å, propagates to {100 * relative:.2g} % of "
            f"D({symbol}) if it acts like a random force."
        )
    return remarks


def _unseen(data: xr.Dataset) -> list[str]:
    n = data.attrs.get("test_structures")
    if n is None:
        return []
    text = f"The force RMSE on unseen labels is that of {n} structure{'' if n == 1 else 's'} of the loop, "
    return [text + "which need not be like this liquid; the force uncertainty is that of its own dynamics."]


def _members(species: xr.Dataset) -> list[str]:
    value, noise, mean = (float(species[name]) for name in ("model_error", "model_error_noise", "diffusion"))
    symbol = str(species.species.values)
    if math.isinf(value):
        return [f"The dynamics of a member of the committee came apart: the model error of D({symbol}) has no bound."]
    if not noise >= value:
        return []
    text = f"The members of the committee differ in D({symbol}) by no more than their statistical error, "
    return [text + f"{100 * noise / mean:.2g} %: that is all that can be claimed; raise member_blocks for less."]


def _source(species: xr.Dataset) -> str:
    return str(species.attrs["error_time_source"])


def _temperature(data: xr.Dataset, settings: Settings) -> list[str]:
    values = data.temperature.values
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if abs(float(values.mean()) - settings.temperature) <= AGREEMENT * error:
        return []
    text = (
        f"The blocks ran at {values.mean():.4g} K, more than {AGREEMENT:g} errors off the {settings.temperature:g} K "
    )
    return [text + "wanted: equilibration is too short, or the time step too long."]


def _size(data: xr.Dataset) -> str:
    source = data.attrs["viscosity_source"]
    if not math.isfinite(float(data.size_correction[0])):
        return f"Finite-size correction: {source}."
    return (
        f"Finite-size correction (Yeh and Hummer) with the viscosity {data.attrs['viscosity_mPa_s']:.3g} mPa·s: "
        f"{source}. The criterion on the reference compares without it."
    )
