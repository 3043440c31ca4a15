"""The pictures of the report, each drawn from what the loop left on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mlip.config.system import Config
from mlip.properties.eos import fit_eos
from mlip.properties.symmetry import PropertyError
from mlip.report.drawing import BLUE, INK, PALE, Panel, Picture, png
from mlip.report.error_figures import calibration, learning_curve, parity
from mlip.report.loop_figures import costs, exploration
from mlip.report.sources import LoopRecord


def build_pictures(config: Config, loop: LoopRecord) -> list[Picture]:
    """The pictures that the files of ``loop`` allow, in the order of the page."""
    pictures = (
        learning_curve(config, loop),
        parity(loop),
        calibration(loop),
        eos(loop),
        costs(loop),
        exploration(config, loop),
    )
    return [picture for picture in pictures if picture is not None]


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """Write each picture as ``<name>.png`` to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        png(picture, folder / f"{picture.name}.png")


def eos(loop: LoopRecord) -> Picture | None:
    """The potential's equation of state against the labeller's."""
    data = loop.last.eos
    if data is None or "energy_reference" not in data or data.sizes.get("volume", 0) < 2:
        return None
    largest = float(np.nanmax(np.abs(data.energy_potential.values - data.energy_reference.values)))
    curve = "Energy per atom against volume: the labeller's points and the potential's curve"
    difference = f"Potential minus labeller against volume, at most {1000 * largest:.2g} meV/atom"
    panels = [
        Panel("Energy", curve, partial(_draw_eos, data=data)),
        Panel("Difference", difference, partial(_draw_difference, data=data)),
    ]
    what = "the starting structures" if len(_scans(data)) > 1 else "the starting structure"
    caption = (
        f"Energy of {what}, squeezed and stretched: the potential against labels; the band is "
        "±2 predicted standard deviations."
    )
    return Picture("eos", "Equation of state", caption, panels)


def _scans(data: xr.Dataset) -> list[xr.Dataset]:
    """The curves of each starting structure; earlier versions had that of the first alone."""
    if "source" not in data:
        return [data]
    return [data.isel(volume=data.source.values == source) for source in np.unique(data.source.values)]


def _draw_eos(axes: Axes, data: xr.Dataset) -> None:
    for first, scan in enumerate(_scans(data)):
        volume = scan.volume.values
        reference, potential = 1000 * scan.energy_reference.values, 1000 * scan.energy_potential.values
        hidden = "_" if first else ""
        axes.plot(*_smooth(volume, reference), color=PALE, linewidth=1)
        axes.plot(*_smooth(volume, potential), color=BLUE, label=f"{hidden}potential")
        axes.plot(volume, reference, "o", color=INK, label=f"{hidden}labels")
    axes.set(xlabel="volume (Å³/atom)", ylabel="energy above minimum (meV/atom)")
    axes.legend(loc="upper center")


def _smooth(volume: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A Birch–Murnaghan curve through the points, or the points where it does not fit."""
    fine = np.linspace(volume.min(), volume.max(), 120)
    try:
        return fine, fit_eos(volume, energy).energy(fine)
    except PropertyError:
        return volume, energy


def _draw_difference(axes: Axes, data: xr.Dataset) -> None:
    axes.axhline(0, color=INK, linewidth=1)
    for scan in _scans(data):
        volume = scan.volume.values
        difference = 1000 * (scan.energy_potential.values - scan.energy_reference.values)
        if "energy_std" in scan:
            std = 1000 * scan.energy_std.values
            axes.fill_between(volume, difference - 2 * std, difference + 2 * std, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(volume, difference, "o-", color=BLUE)
    axes.set(xlabel="volume (Å³/atom)", ylabel="potential − labels (meV/atom)")
    axes.margins(y=0.15)
