"""Pictures of barriers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr
from ase import units
from matplotlib.axes import Axes
from scipy.interpolate import PchipInterpolator

from mlip.report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, PALE, Panel, Picture
from mlip.studies.interface import Round
from mlip.studies.neb.saddle import log_rate_std, log_rates

WIDE = 2.0
"""Bands are so many standard deviations to both sides."""


def draw_barriers(rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
    """A picture of every path: energies with labels by round, uncertainty by round, ln k over 1/T."""
    pictures = []
    for name in map(str, rounds[-1].data.path.values):
        caption = (
            "Left: the last round's path, its band ±2 standard deviations of the energy above the first image; grey are"
            " the paths before, numbers the rounds after which an image was labelled, where it lay then. Middle: the"
            " uncertainty along the path, and the force of the label at the saddle. Right: ln k and what the barrier's"
            " error makes of it."
        )
        panels = [
            Panel("Path", f"Energy along the path {name}", partial(_path, rounds, name)),
            Panel("Certainty", "Largest uncertainty and labelled force by round", partial(_certainty, rounds, name)),
            Panel("Rate", "ln k against inverse temperature", partial(_rate, rounds[-1].data.sel(path=name))),
        ]
        pictures.append(Picture(f"path_{name}", f"Path {name}", caption, panels))
    return pictures


def _path(rounds: Sequence[Round], name: str, axes: Axes) -> None:
    for r in rounds[:-1]:
        _curve(axes, r.data.sel(path=name), PALE, 0.8)
    last = rounds[-1].data.sel(path=name)
    x = last.coordinate.values
    fine = _curve(axes, last, BLUE, 1.8)
    if np.isfinite(last.energy_std).all() and (np.diff(x) > 0).all():
        std = WIDE * np.clip(PchipInterpolator(x, last.energy_std.values)(fine[0]), 0, None)
        axes.fill_between(fine[0], fine[1] - std, fine[1] + std, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(x, last.energy, "o", color=BLUE, markersize=4)
    for r in rounds:
        for row in r.decisions:
            if row.get("path") == name and row.get("decision") == "taken":
                place = float(row["coordinate"]), float(row["energy"])
                axes.plot(*place, "D", color=ORANGE, markersize=4)
                axes.annotate(str(r.number), place, xytext=(3, 3), textcoords="offset points", fontsize=7, color=ORANGE)
    if np.isfinite(last.label_energy):
        axes.plot(x[int(last.top)], last.label_energy, "s", color=INK, mfc="none", label="label at the saddle")
        axes.legend(loc="lower center")
    low, high = float(last.energy.min()), float(last.energy.max())
    room = 0.6 * max(high - low, 0.02)
    limits = {"xlim": (-0.04 * x[-1], 1.04 * x[-1]), "ylim": (low - room, high + room)}
    axes.set(xlabel="length of the path (Å)", ylabel="energy (eV)", **limits)


def _curve(axes: Axes, data: xr.Dataset, colour: str, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the energies of a path, smoothly where its images are apart; returns what was drawn."""
    x, y = data.coordinate.values, data.energy.values
    if (np.diff(x) > 0).all():
        fine = np.linspace(x[0], x[-1], 120)
        x, y = fine, PchipInterpolator(x, y)(fine)
    axes.plot(x, y, color=colour, linewidth=width)
    return x, y


def _certainty(rounds: Sequence[Round], name: str, axes: Axes) -> None:
    numbers = [r.number for r in rounds]
    tables = [r.data.sel(path=name) for r in rounds]
    axes.plot(numbers, [float(t.energy_std.max()) for t in tables], "o-", color=BLUE, label="largest σ (eV)")
    axes.plot(numbers, [float(t.label_force) for t in tables], "s-", color=INK, label="force of the label (eV/Å)")
    axes.plot(numbers, [float(t.label_error) for t in tables], "^-", color=GREEN, label="energy error there (eV)")
    axes.set(xlabel="round", xticks=numbers[:: max(1, len(numbers) // 8)])
    axes.set_yscale("log")
    axes.margins(y=0.35)
    axes.legend(fontsize=7)


def _rate(data: xr.Dataset, axes: Axes) -> None:
    temperatures = np.asarray(data.temperature.values, float)
    span = np.linspace(0.8 * temperatures.min(), 1.25 * temperatures.max(), 60)
    ways = ((0, "barrier", BLUE, "forward"), (1, "reverse", ORANGE, "back"))
    for k, key, colour, text in ways:
        attempt = float(data.attempt.isel(direction=k))
        if np.isfinite(attempt):
            rates = log_rates(float(data[key]), float(np.log(attempt * 1e12)), span.tolist())
            std = log_rate_std(float(data[f"{key}_std"]), span.tolist())
            axes.plot(1000 / span, rates, "-" if k == 0 else "--", color=colour, label=text)
            if np.isfinite(std).all():
                axes.fill_between(
                    1000 / span, rates - WIDE * std, rates + WIDE * std, color=colour, alpha=0.18, linewidth=0
                )
    axes.plot([], [], " ", label=f"k_B T = {1000 * units.kB * temperatures[0]:.3g} meV at {temperatures[0]:g} K")
    axes.set(xlabel="1000 K / T", ylabel="ln k (k in 1/s)")
    axes.legend(fontsize=7)
    axes.tick_params(colors=MUTED)
