"""The comparison of acquisitions from files to files: frames, labels, table and picture."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms
from matplotlib.axes import Axes

from mlip.config.train import Train
from mlip.io.files import write_atomic, write_json
from mlip.io.netcdf import write_netcdf
from mlip.potential import Potential
from mlip.report.drawing import BLUE, MUTED, ORANGE, Panel, Picture, png
from mlip.studies.eos.acquisition import spread_evenly
from mlip.studies.eos.experiments.comparison import Plan, calculator_label, compare_acquisitions, summarise_comparison
from mlip.studies.eos.isotherms import measure_isotherms
from mlip.studies.eos.settings import Settings
from mlip.studies.interface import Labelled

COLOURS = {"uniform": MUTED, "uncertainty": BLUE, "uncertainty and deviation": ORANGE}


def run_comparison(
    structure: Atoms,
    settings: Settings,
    labeller: Labelled,
    train: Train,
    plan: Plan,
    *,
    potential: Potential | None,
    isolated: dict[str, float] | None,
    seed: int,
    out: Path,
) -> xr.Dataset:
    """Make frames, run :func:`compare_acquisitions`, write ``comparison.{nc,json,md,png}`` into ``out``.

    Frames come from dynamics with the labeller itself where ``settings.reference`` is ``dynamics``,
    else with ``potential``, and then every label goes through the label store.

    Args:
        structure: starting structure.
        settings: section ``studies.eos``; the highest temperature counts.
        labeller: the labeller.
        train: section ``train``.
        plan: the experiment.
        potential: drives the dynamics where the labeller is too dear for it.
        isolated: energies of isolated atoms, eV; None fits them.
        seed: seed of the configuration.
        out: folder written.
    """
    densities = np.linspace(min(settings.densities), max(settings.densities), plan.n_densities)
    grid = {"densities": tuple(densities.round(6).tolist()), "temperatures": (max(settings.temperatures),)}
    # Many, for where it takes long to settle only the last part of a run counts.
    own = settings.model_copy(update=grid | {"n_frames": 20 * plan.n_test})
    with ExitStack() as stack:
        cheap = settings.reference == "dynamics"
        calculator = labeller.direct() if cheap else stack.enter_context(labeller.stored())
        driver = None if cheap else potential
        _, frames = measure_isotherms(structure, own, calculator, driver, seed=seed, progress=labeller.progress)
        data = compare_acquisitions(
            thin_frames(frames, 5 * plan.n_test),
            calculator_label(calculator),
            train,
            plan,
            seed=seed,
            scratch=Path(stack.enter_context(tempfile.TemporaryDirectory())),
            referred=cheap,
            isolated=isolated,
            progress=labeller.progress,
        )
    write_netcdf(out / "comparison.nc", data)
    rows = summarise_comparison(data)
    write_json(out / "comparison.json", {"rows": rows})
    write_atomic(out / "comparison.md", format_comparison(rows))
    png(draw_comparison(data), out / "comparison.png")
    return data


def thin_frames(frames: Sequence[Atoms], n: int) -> list[Atoms]:
    """At most ``n`` frames of each density, evenly spread over its own."""
    groups: dict[float, list[Atoms]] = {}
    for frame in frames:
        groups.setdefault(frame.info["density"], []).append(frame)
    return [group[k] for group in groups.values() for k in spread_evenly(len(group), n)]


def format_comparison(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of :func:`summarise_comparison` as a Markdown table."""
    lines = [
        "Geometric means over the seeds; the ratio is to uniform densities at equal labels, with its 95 % interval.",
        "",
        "| choice | labels | RMS error of P (GPa) | ratio to uniform | lower in |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ratio_interval"]
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        cells = [row["arm"], row["labels"], f"{row['pressure_rmse_gpa']:.4g}"]
        cells += ["1", ""] if row["arm"] == "uniform" else [ratio, row["lower_in"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def draw_comparison(data: xr.Dataset) -> Picture:
    """Learning curves, and where the labels went."""
    return Picture(
        "comparison",
        "Acquisition",
        "Error of the pressure against labels, every seed and their geometric mean; labels of each density.",
        [
            Panel("Learning", "RMS pressure error against labels for each choice", partial(_learning, data)),
            Panel("Labels", "Labels against density for each choice", partial(_labels, data)),
        ],
    )


def _learning(data: xr.Dataset, axes: Axes) -> None:
    for arm in data.arm.values:
        curves = data.pressure_rmse.sel(arm=arm).values
        axes.plot(data.n_labels, curves.T, color=COLOURS[arm], linewidth=0.7, alpha=0.4)
        axes.plot(data.n_labels, np.exp(np.log(curves).mean(0)), "o-", color=COLOURS[arm], label=arm)
    axes.set_yscale("log")
    axes.set(xlabel="labels", ylabel="RMS error of the pressure (GPa)")
    axes.legend()


def _labels(data: xr.Dataset, axes: Axes) -> None:
    final = data.labels.isel(round=-1).mean("seed")
    for arm in data.arm.values:
        axes.plot(data.density, final.sel(arm=arm), "o-", color=COLOURS[arm], label=arm)
    axes.set(xlabel="density over that of the start", ylabel="labels, mean of the seeds")
    axes.legend()
