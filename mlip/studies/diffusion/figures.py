"""Pictures of the diffusion study."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mlip.report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, PALE, PURPLE, YELLOW, Panel, Picture, plain_numbers
from mlip.studies.diffusion.transport import CM2_PER_S, running_integral

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW)
SHOWN = 600
"""Points of a curve."""
PER_SCALE = 1e5
"""Coefficients are drawn in 1e-5 cm²/s."""


def draw_pictures(data: xr.Dataset) -> list[Picture]:
    """Velocity autocorrelation, mean square displacement and force errors of a measurement."""
    if "vacf" not in data:
        return []
    curves = Picture(
        "curves",
        "Correlation functions",
        "The velocity autocorrelation must be gone where its integral is averaged, from the dotted line on and between "
        "the dots. Displacements are fitted between the dots; the dashed line goes on. Bands are standard errors from "
        "independent blocks.",
        [
            Panel(
                "Velocity autocorrelation",
                "Normalised velocity autocorrelation against time",
                partial(_vacf, data=data),
            ),
            Panel(
                "Its running integral",
                "Diffusion coefficient against upper limit of time",
                partial(_integral, data=data),
            ),
            Panel(
                "Mean square displacement", "Mean square displacement against time, with fits", partial(_msd, data=data)
            ),
        ],
    )
    blocks = Picture(
        "blocks",
        "Blocks",
        "The same coefficient from each independent block, by both routes; the bars are the means and their errors.",
        [Panel("Diffusion by block", "Green-Kubo and Einstein estimate of each block", partial(_blocks, data=data))],
    )
    forces = Picture(
        "forces",
        "Force error and diffusion",
        "The force error that the wanted error of D allows, for errors new at each step (the textbook's) and for "
        "errors that last as long as measured here, beside the force itself and what the potential reaches.",
        [Panel("Force errors", "Allowed and actual force errors on a logarithmic axis", partial(_forces, data=data))],
    )
    return [curves, blocks, forces]


def _species(data: xr.Dataset) -> list[tuple[int, str, str]]:
    return [(k, str(s), COLOURS[k % len(COLOURS)]) for k, s in enumerate(data.species.values)]


def _thin(data: xr.Dataset, end: float) -> np.ndarray:
    last = max(2, int(np.searchsorted(data.lag.values, end)))
    return np.unique(np.linspace(0, min(last, len(data.lag) - 1), SHOWN).astype(int))


def _band(axes: Axes, x: np.ndarray, blocks: np.ndarray, colour: str, label: str | None) -> None:
    mean, error = blocks.mean(0), blocks.std(0, ddof=1) / math.sqrt(len(blocks))
    axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.25, linewidth=0)
    axes.plot(x, mean, color=colour, label=label)


def _legend(axes: Axes, data: xr.Dataset) -> None:
    if len(data.species) > 1:
        axes.legend()


def _vacf(axes: Axes, data: xr.Dataset) -> None:
    keep = _thin(data, 1.6 * float(data.plateau.max()))
    for k, symbol, colour in _species(data):
        curve = data.vacf.values[k]
        _band(axes, data.lag.values[keep] / 1000, curve[:, keep] / curve[:, 0].mean(), colour, symbol)
        axes.axvline(float(data.plateau[k, 0]) / 1000, color=colour, linewidth=1, linestyle=(0, (2, 2)))
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set(xlabel="time (ps)", ylabel="<v(0) v(t)> / <v²>")
    _legend(axes, data)


def _integral(axes: Axes, data: xr.Dataset) -> None:
    keep, interval = _thin(data, 1.6 * float(data.plateau.max())), float(data.lag[1])
    scale = CM2_PER_S * PER_SCALE
    for k, symbol, colour in _species(data):
        integral = running_integral(data.vacf.values[k], interval) * scale
        _band(axes, data.lag.values[keep] / 1000, integral[:, keep], colour, symbol)
        value = float(data.diffusion[k]) * scale
        axes.plot(data.plateau.values[k] / 1000, [value, value], color=INK, marker="o", linewidth=1.2, zorder=4)
    axes.set(xlabel="upper limit (ps)", ylabel="D (10⁻⁵ cm²/s)")


def _msd(axes: Axes, data: xr.Dataset) -> None:
    keep = _thin(data, 1.2 * float(data.fit.max()))
    lags = data.lag.values
    for k, symbol, colour in _species(data):
        _band(axes, lags[keep] / 1000, data.msd.values[k][:, keep], colour, symbol)
        ends, mean = data.fit.values[k], data.msd.values[k].mean(0)
        inside = (lags >= ends[0]) & (lags <= ends[1])
        line = np.polynomial.Polynomial.fit(lags[inside], mean[inside], 1)
        axes.plot(lags[keep] / 1000, line(lags[keep]), color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=4)
        axes.plot(ends / 1000, line(ends), "o", color=INK, markersize=5, zorder=4)
    axes.set(xlabel="time (ps)", ylabel="mean square displacement (Å²)")
    _legend(axes, data)


def _blocks(axes: Axes, data: xr.Dataset) -> None:
    scale = CM2_PER_S * PER_SCALE
    n = data.sizes["block"]
    for name, colour, shift, label in (
        ("diffusion_green_kubo", BLUE, -0.12, "Green–Kubo"),
        ("diffusion_einstein", ORANGE, 0.12, "Einstein"),
    ):
        for k, _, _ in _species(data):
            values = data[name].values[k] * scale
            start = k * (n + 3)
            axes.plot(start + np.arange(n) + shift, values, "o", color=colour, label=None if k else label)
            error = values.std(ddof=1) / math.sqrt(n)
            axes.errorbar(start + n + shift, values.mean(), error, color=colour, marker="s", capsize=3)
    centres = [k * (n + 3) + n / 2 for k, _, _ in _species(data)]
    axes.set_xticks(centres, [f"{symbol}, {n} blocks and mean" for _, symbol, _ in _species(data)])
    axes.set_ylabel("D (10⁻⁵ cm²/s)")
    axes.legend()


def _forces(axes: Axes, data: xr.Dataset) -> None:
    rows = [
        ("allowed, textbook", "force_error_textbook", PALE),
        ("allowed, correlated", "force_error_correlated", BLUE),
        ("target", "force_error_target", GREEN),
        ("RMS force", "force_rms", MUTED),
        ("uncertainty, trajectory", "force_uncertainty", ORANGE),
    ]
    labels: list[str] = []
    for k, symbol, _ in _species(data):
        for text, name, colour in rows:
            value = float(data[name][k])
            if math.isfinite(value) and value > 0:
                _dot(axes, len(labels), value, colour)
                labels.append(f"{symbol}: {text}" if len(data.species) > 1 else text)
    value = float(data.attrs.get("test_force_rmse", math.nan))
    if math.isfinite(value) and value > 0:
        _dot(axes, len(labels), value, PURPLE)
        labels.append("RMSE, unseen labels")
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    axes.margins(x=0.2, y=0.15)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("force error per component (eV/Å)")


def _dot(axes: Axes, row: int, value: float, colour: str) -> None:
    axes.plot(value, row, "o", color=colour)
    axes.annotate(f"{value:.3g}", (value, row), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8)
