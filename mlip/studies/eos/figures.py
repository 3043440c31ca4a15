"""Pictures of the equation of state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import cycle

import numpy as np
import xarray as xr
from ase import units
from matplotlib.axes import Axes

from mlip.report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, PALE, PURPLE, YELLOW, Panel, Picture
from mlip.studies.eos.static import FITS
from mlip.studies.interface import Round

LINES = (BLUE, ORANGE, GREEN, PURPLE, YELLOW)


def draw_eos(rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
    """Isotherms with both errors, errors by round, the blocking, and the static curve where there is one."""
    last = rounds[-1].data
    isotherms = Picture(
        "isotherms",
        "Isotherms",
        "Bars are statistical errors, bands the committee's, both ±2 standard deviations; open diamonds are "
        "the reference, in the colour of the temperature.",
        [
            Panel("Pressure", "Pressure against density for each temperature", partial(_isotherms, last, reference)),
            Panel(
                "Difference from the reference" if "pressure" in reference else "Errors",
                "Pressure less reference against density, with both errors",
                partial(_differences, last, reference),
            ),
        ],
    )
    errors = Picture(
        "errors",
        "Where the errors come from",
        "Left: the error of the mean rises with the size of the blocks until these are independent; the dot is what "
        "is used, orange where there is no plateau. Right: RMS over the states of each kind of error, round by round.",
        [
            Panel("Blocking", "Error of the mean pressure against block size", partial(_blocking, last)),
            Panel("Rounds", "RMS pressure errors against rounds", partial(_rounds, rounds, reference)),
        ],
    )
    pictures = [isotherms, errors]
    if "static_energy" in last and np.isfinite(last.static_value).any():
        caption = (
            "The crystal without motion, above the lowest of each one's points, with the fits of Birch and Murnaghan "
            "and of Vinet to the potential's."
        )
        panel = Panel("Energy", "Energy per atom against volume per atom", partial(_static, last, reference))
        pictures.append(Picture("static", "Static curve", caption, [panel]))
    return pictures


def _isotherms(data: xr.Dataset, reference: xr.Dataset, axes: Axes) -> None:
    for colour, t in zip(cycle(LINES), data.temperature.values, strict=False):
        here = data.sel(temperature=t)
        rho = here.density.values
        _band(axes, rho, here.pressure.values, here.pressure_model_std.values, colour)
        axes.errorbar(rho, here.pressure, 2 * here.pressure_error, fmt="o-", color=colour, label=f"{t:g} K", capsize=2)
        if "pressure" in reference:
            there = reference.sel(temperature=t)
            axes.errorbar(
                rho,
                there.pressure,
                2 * there.pressure_error,
                fmt="D",
                color=colour,
                mfc="white",
                markersize=5,
                zorder=4,
            )
    axes.set(xlabel="density over that of the start", ylabel="pressure (GPa)")
    axes.legend()


def _differences(data: xr.Dataset, reference: xr.Dataset, axes: Axes) -> None:
    axes.axhline(0, color=INK, linewidth=1)
    # Points of one density beside each other.
    apart = 0.025 * float(np.ptp(data.density.values))
    for k, (colour, t) in enumerate(zip(cycle(LINES), data.temperature.values, strict=False)):
        here = data.sel(temperature=t)
        rho, difference, error = here.density.values, np.zeros(here.sizes["density"]), here.pressure_error.values
        if "pressure" in reference:
            there = reference.sel(temperature=t)
            difference = here.pressure.values - there.pressure.values
            error = np.hypot(error, there.pressure_error.values)
        _band(axes, rho, difference, here.pressure_model_std.values, colour)
        beside = rho + (k - (data.sizes["temperature"] - 1) / 2) * apart
        axes.errorbar(beside, difference, 2 * error, fmt="o", color=colour, capsize=2, label=f"{t:g} K")
    ylabel = "pressure − reference (GPa)" if "pressure" in reference else "error of the pressure (GPa)"
    axes.set(xlabel="density over that of the start", ylabel=ylabel)
    axes.legend()


def _band(axes: Axes, x: np.ndarray, middle: np.ndarray, std: np.ndarray, colour: str) -> None:
    if np.isfinite(std).any():
        axes.fill_between(x, middle - 2 * std, middle + 2 * std, color=colour, alpha=0.18, linewidth=0)


def _blocking(data: xr.Dataset, axes: Axes) -> None:
    states = data.stack(state=("temperature", "density"))
    for k in range(states.sizes["state"]):
        one = states.isel(state=k)
        sizes, errors = one.block_sizes.values, one.block_errors.values
        if np.isfinite(errors).any():
            axes.plot(sizes, errors, color=PALE, linewidth=1, zorder=1)
            place = int(np.nanargmin(np.abs(errors - float(one.pressure_error))))
            axes.plot(sizes[place], errors[place], "o", color=BLUE if one.blocking_converged else ORANGE, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="samples in a block", ylabel="error of the mean pressure (GPa)")
    axes.set_ylim(bottom=0)


def _rounds(rounds: Sequence[Round], reference: xr.Dataset, axes: Axes) -> None:
    def rms(values: xr.DataArray) -> float:
        return float(np.sqrt(np.nanmean(np.asarray(values, float) ** 2)))

    numbers = [r.number for r in rounds]
    if "pressure" in reference:
        deviation = [rms(r.data.pressure - reference.pressure) for r in rounds]
        axes.plot(numbers, deviation, "D-", color=INK, label="deviation from the reference")
    if any(np.isfinite(r.data.pressure_model_std).any() for r in rounds):
        axes.plot(numbers, [rms(r.data.pressure_model_std) for r in rounds], "o-", color=BLUE, label="committee")
    axes.plot(numbers, [rms(r.data.pressure_error) for r in rounds], "s-", color=MUTED, label="statistical")
    axes.set(xlabel="round", ylabel="RMS error of the pressure (GPa)", xticks=numbers)
    axes.set_ylim(bottom=0)
    axes.legend()


def _static(data: xr.Dataset, reference: xr.Dataset, axes: Axes) -> None:
    volumes = data.volume.values
    fine = np.linspace(volumes.min(), volumes.max(), 120)
    lowest = float(np.nanmin(data.static_energy))
    for colour, style, form in ((BLUE, "-", "birch_murnaghan"), (ORANGE, "--", "vinet")):
        e0, v0, b0, b0_prime = data.static_value.sel(fit=form).values
        curve = FITS[form](fine, e0, v0, b0 * units.GPa, b0_prime) - lowest
        axes.plot(fine, 1000 * curve, style, color=colour, label=form.replace("_", "–").title())
    axes.plot(volumes, 1000 * (data.static_energy - lowest), "o", color=BLUE, label="potential")
    if "static_energy" in reference:
        energies = reference.static_energy - float(reference.static_energy.min())
        axes.plot(reference.volume, 1000 * energies, "D", color=INK, markersize=3.5, label="labeller")
    axes.set(xlabel="volume (Å³/atom)", ylabel="energy above minimum (meV/atom)")
    axes.legend()
