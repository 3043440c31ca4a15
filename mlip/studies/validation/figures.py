"""The figure of a validation: equation of state, compression, energy conservation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#a8568b", "#5d6672"


def draw_validation(curves: Mapping[str, Any], path: Path) -> None:
    """Draw the ``curves`` of ``validation.json`` side by side into the PNG file ``path``."""
    figure = Figure(figsize=(13.2, 3.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    _draw_eos(axes[0], curves["eos"])
    _draw_compression(axes[1], curves["compression"])
    _draw_dynamics(axes[2], curves["nve"])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e2e6eb", linewidth=0.8)
        panel.set_axisbelow(True)
    figure.savefig(path, dpi=160)


def _draw_eos(axes: Axes, eos: Mapping[str, Any] | None) -> None:
    axes.set_title("Equation of state", loc="left", fontweight="bold")
    if eos is None:
        axes.text(0.5, 0.5, "not periodic", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.plot(eos["volumes"], np.multiply(eos["reference"], 1000), "o", color=GREY, label="labels")
    axes.plot(eos["fit_volumes"], np.multiply(eos["fit_reference"], 1000), color=GREY, linewidth=1)
    axes.plot(eos["volumes"], np.multiply(eos["potential"], 1000), "x", color=BLUE, label="potential")
    if eos["fit_potential"] is not None:
        axes.plot(eos["fit_volumes"], np.multiply(eos["fit_potential"], 1000), color=BLUE, linewidth=1)
    axes.set_xlabel("volume (Å³/atom)")
    axes.set_ylabel("energy above minimum (meV/atom)")
    axes.legend(frameon=False)


def _draw_compression(axes: Axes, curves: list[Mapping[str, Any]]) -> None:
    axes.set_title("Compression", loc="left", fontweight="bold")
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    for index, curve in enumerate(curves):
        energies = np.array([np.nan if x is None else x for x in curve["energies"]])
        style = ("-", "--", ":", "-.")[index // len(colours) % 4]
        axes.plot(curve["distances"], energies, style, color=colours[index % len(colours)], label=curve["name"])
    # Linear near zero, where a hole would be seen, logarithmic where the curves diverge.
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_xlabel("shortest distance (Å)")
    axes.set_ylabel("energy above start (eV)")
    axes.legend(frameon=False, fontsize=8)


def _draw_dynamics(axes: Axes, nve: Mapping[str, Any]) -> None:
    axes.set_title("Constant-energy dynamics", loc="left", fontweight="bold")
    times = np.divide(nve["times_fs"], 1000)
    axes.plot(times, np.multiply(nve["energy_per_atom"], 1000), color=BLUE, linewidth=0.8)
    for limit in (-1, 1):
        axes.axhline(limit, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_xlabel("time (ps)")
    axes.set_ylabel("change of total energy (meV/atom)")
