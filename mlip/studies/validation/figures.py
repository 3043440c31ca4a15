"""The picture of a validation: equation of state, compression, energy conservation."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mlip.properties.eos import fit_eos
from mlip.properties.symmetry import PropertyError
from mlip.report.drawing import BLUE, GREEN, MUTED, ORANGE, PURPLE, Panel, Picture, limit_line

STYLES = [(colour, line) for line in ("-", "--", ":", "-.") for colour in (BLUE, ORANGE, GREEN, PURPLE)]


def draw_validation(data: xr.Dataset, reference: xr.Dataset, drift: float) -> Picture:
    """The three panels; ``drift`` is the allowed one, meV/atom."""
    return Picture(
        "validation",
        "Validation",
        "Energy over volume with its fits, energy on the way to short distances, and the total energy of the run.",
        [
            Panel("Equation of state", "Energy against volume", partial(_draw_scan, data, reference)),
            Panel("Compression", "Energy against shortest distance", partial(_draw_compression, data)),
            Panel("Constant energy", "Change of the total energy against time", partial(_draw_dynamics, data, drift)),
        ],
    )


def _draw_scan(data: xr.Dataset, reference: xr.Dataset, axes: Axes) -> None:
    for curve, name, mark, colour in ((reference, "labels", "o", MUTED), (data, "potential", "x", BLUE)):
        if "energy" not in curve:
            continue
        volumes, energies = curve.volume.values, curve.energy.values
        grid, lowest = np.linspace(volumes.min(), volumes.max(), 60), energies.min()
        try:
            fitted = fit_eos(volumes, energies)
            lowest = fitted.e0
            axes.plot(grid, 1000 * (fitted.energy(grid) - lowest), color=colour, linewidth=1)
        except PropertyError:
            pass  # Without a minimum there is nothing to draw but the points.
        axes.plot(volumes, 1000 * (energies - lowest), mark, color=colour, label=name)
    if not axes.lines:
        axes.text(0.5, 0.5, "not periodic", transform=axes.transAxes, ha="center", color=MUTED)
        return
    axes.set(xlabel="volume (Å³/atom)", ylabel="energy above minimum (meV/atom)")
    axes.legend()


def _draw_compression(data: xr.Dataset, axes: Axes) -> None:
    for k, curve in enumerate(data.curve.values):
        here, (colour, line) = data.sel(curve=curve), STYLES[k % len(STYLES)]
        name = str(curve).partition(",")[0]
        axes.plot(here.distance, here.compression_energy, linestyle=line, color=colour, label=name)
    # Linear near zero, where a hole would be seen, logarithmic where the curves diverge.
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set(xlabel="shortest distance (Å)", ylabel="energy above start (eV)")
    axes.legend(fontsize=8)


def _draw_dynamics(data: xr.Dataset, drift: float, axes: Axes) -> None:
    axes.plot(data.time / 1000, 1000 * data.total_energy, color=BLUE, linewidth=0.8)
    for limit in (-drift, drift):
        limit_line(axes, limit)
    axes.set(xlabel="time (ps)", ylabel="change of total energy (meV/atom)")
