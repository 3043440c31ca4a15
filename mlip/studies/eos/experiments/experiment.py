"""The comparison of acquisitions as an experiment: frames, labels, table and picture."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms
from matplotlib.axes import Axes

from mlip.io.netcdf import write_netcdf
from mlip.jobs.progress import Progress
from mlip.labels.calculator import label_with
from mlip.potential import Potential, load_potential
from mlip.report.drawing import BLUE, MUTED, ORANGE, Panel, Picture
from mlip.studies.eos.acquisition import spread_evenly
from mlip.studies.eos.experiments.comparison import Plan, compare_acquisitions, summarise_comparison
from mlip.studies.eos.isotherms import measure_isotherms
from mlip.studies.eos.settings import Settings
from mlip.studies.experiments import Page, Task

MAX_STEPS = 400
COLOURS = {"uniform": MUTED, "uncertainty": BLUE, "uncertainty and deviation": ORANGE}


def run(task: Task) -> dict[str, Any]:
    """Make frames, compare the acquisitions, keep the data in ``comparison.nc`` of the part's folder.

    Frames come from dynamics with the labeller itself where ``studies.eos.reference`` is ``dynamics``,
    else with the deployed potential, and then every label goes through the label store.
    """
    settings, plan = Settings(**task.plan["settings"]), Plan(**task.plan["plan"])
    cheap = settings.reference == "dynamics"
    with ExitStack() as stack:
        calculator = task.labeller.direct() if cheap else stack.enter_context(task.labeller.stored())
        driver = None if task.potential is None else load_potential(task.potential, task.device)
        frames = make_frames(task.structures[0], settings, plan, calculator, driver, task.seed, task.progress)
        data = compare_acquisitions(
            frames,
            label_with(calculator),
            # Sixty short trainings; a schedule of the loop's length would take an hour.
            task.train.model_copy(update={"n_steps": min(MAX_STEPS, task.train.n_steps)}),
            plan,
            seed=task.seed,
            scratch=Path(stack.enter_context(tempfile.TemporaryDirectory())),
            referred=cheap,
            isolated=task.isolated_energies,
            progress=task.progress,
        )
    write_netcdf(task.folder / "comparison.nc", data)
    return {"rows": summarise_comparison(data), "data": data.to_dict()}


def report(results: Mapping[str, Mapping[str, Any]]) -> Page:
    """Table of the arms and rounds, learning curves, and where the labels went."""
    (result,) = results.values()
    return Page(format_comparison(result["rows"]), [draw_comparison(xr.Dataset.from_dict(result["data"]))])


def make_frames(
    structure: Atoms,
    settings: Settings,
    plan: Plan,
    calculator: Any,
    driver: Potential | None,
    seed: int,
    progress: Progress,
) -> list[Atoms]:
    """Frames of the experiment's densities at the highest of the study's temperatures.

    Args:
        structure: starting structure.
        settings: section ``studies.eos``.
        plan: the experiment.
        calculator: the labeller.
        driver: drives the dynamics where the labeller is too dear for it.
        seed: seed of the configuration.
        progress: called now and then.
    """
    densities = np.linspace(min(settings.densities), max(settings.densities), plan.n_densities)
    grid = {"densities": tuple(densities.round(6).tolist()), "temperatures": (max(settings.temperatures),)}
    # Many, for where it takes long to settle only the last part of a run counts.
    many = settings.model_copy(update=grid | {"n_frames": 20 * plan.n_test})
    _, frames = measure_isotherms(structure, many, calculator, driver, seed=seed, progress=progress)
    return thin_frames(frames, 5 * plan.n_test)


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
