"""Pictures of the study's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mlip.report.drawing import BLUE, MUTED, ORANGE, Panel, Picture
from mlip.studies.interface import Round

COLOURS = {"clamped": BLUE, "relaxed": ORANGE}
MARKERS = {"clamped": "o", "relaxed": "+"}
MAX_BARS = 12


def draw_elasticity(rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
    """Energy over strain, constants of all rounds, and the influence ranking where there is one."""
    data = rounds[-1].data
    paths = [
        Panel(str(path), f"Energy against {path} strain", partial(_energies, data=data, reference=reference, path=path))
        for path in data.path.values
    ]
    constants = Panel(
        "Constants", "Elastic constants by round", partial(_constants, rounds=rounds, reference=reference)
    )
    pictures = [
        Picture(
            "strain_energy",
            "Energy of strain",
            "Energy per volume along each strain path, clamped and relaxed atoms; lines are the reference's.",
            paths[:6],
        ),
        Picture(
            "constants",
            "Constants by round",
            "Dots are the rounds, from left to right, bars the committee's standard deviation in the last one; grey "
            "lines are the reference.",
            [constants],
        ),
    ]
    if "influence" in data:
        panels = [
            Panel(name, f"Influence on {name}", partial(_influence, data=data, name=name)) for name in _distinct(data)
        ]
        caption = (
            f"What leaving out a training structure would change, by the last layer's closed form: the {MAX_BARS} "
            "largest changes of each constant, orange where the label does not fit the others'."
        )
        pictures.append(Picture("influence", "Influence of the training structures", caption, panels))
    return pictures


def _energies(axes: Axes, data: xr.Dataset, reference: xr.Dataset, path: str) -> None:
    for state in data.state.values:
        energies = data.energy_density.sel(state=state, path=path)
        axes.plot(
            data.amplitude, energies * 1e3, MARKERS[str(state)], color=COLOURS[str(state)], label=str(state), mfc="none"
        )
        if "energy_density" in reference and path in reference.path.values and state in reference.state.values:
            true = reference.energy_density.sel(state=state, path=path)
            fit = np.polynomial.Polynomial.fit(reference.amplitude, true * 1e3, min(4, len(true) - 1))
            axes.plot(*fit.linspace(80), color=COLOURS[str(state)], linewidth=1)
    axes.locator_params(axis="x", nbins=5)
    axes.set(xlabel="strain", ylabel="energy (meV/Å³)")
    axes.legend()


def _constants(axes: Axes, rounds: Sequence[Round], reference: xr.Dataset) -> None:
    last = rounds[-1].data
    labels, place = [], 0
    for state in last.state.values:
        for name in last.constant.values:
            values = [float(r.data.constants.sel(state=state, constant=name)) for r in rounds]
            offsets = place + np.linspace(-0.25, 0.25, len(rounds)) if len(rounds) > 1 else [place]
            error = float(last.model_error.sel(state=state, constant=name)) if "model_error" in last else 0.0
            axes.plot(offsets, values, "o-", color=COLOURS[str(state)], linewidth=1)
            axes.errorbar(offsets[-1], values[-1], yerr=error, color=COLOURS[str(state)])
            if "constants" in reference and state in reference.state.values and name in reference.constant.values:
                true = float(reference.constants.sel(state=state, constant=name))
                axes.plot([place - 0.4, place + 0.4], [true, true], color=MUTED)
            labels.append(f"{name}\n{state}")
            place += 1
    axes.set_xticks(range(place), labels, fontsize=8)
    axes.set_ylabel("GPa")


def _influence(axes: Axes, data: xr.Dataset, name: str) -> None:
    values = data.influence.sel(influenced=name)
    order = np.argsort(-np.abs(values.values))[:MAX_BARS]
    colours = [ORANGE if data.suspect.values[k] else BLUE for k in order]
    axes.barh(range(len(order)), values.values[order], color=colours)
    axes.set_yticks(range(len(order)), [str(data.structure.values[k]) for k in order], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="change if left out (GPa)")


def _distinct(data: xr.Dataset) -> list[str]:
    """Influenced constants, without those that symmetry keeps from relaxing."""
    names: list[str] = []
    for name in map(str, data.influenced.values):
        influence = data.influence.sel(influenced=name).values
        if not any(np.allclose(influence, data.influence.sel(influenced=n).values, rtol=1e-3) for n in names):
            names.append(name)
    return names


def draw_omission(influenced: str, predicted: np.ndarray, measured: Mapping[str, np.ndarray]) -> Picture:
    """Predicted against found changes of the constant ``influenced``, a panel for each kind of omission.

    Args:
        influenced: the constant, e.g. "C44 relaxed".
        predicted: change when a structure is left out, by the last layer's influence, [n_seeds, n], GPa.
        measured: the same, as measured by each kind of omission, [n_seeds, n], GPa.
    """
    return Picture(
        "influence",
        f"Influence on {influenced}",
        "Each point is a structure left out: means of the seeds, bars are their standard deviations. On the grey line "
        "the last layer's influence predicts what is found.",
        [
            Panel(truth, f"Change found by {truth}", partial(_omitted, predicted=predicted, measured=changes))
            for truth, changes in measured.items()
        ],
    )


def _omitted(axes: Axes, predicted: np.ndarray, measured: np.ndarray) -> None:
    axes.errorbar(
        predicted.mean(0),
        measured.mean(0),
        measured.std(0),
        predicted.std(0),
        "o",
        color=BLUE,
        markersize=4,
        linewidth=0.8,
    )
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.8)
    axes.set(xlabel="predicted change (GPa)", ylabel="change found (GPa)")
