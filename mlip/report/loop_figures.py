"""Pictures of the loop itself: where labels and time went, and what exploration met."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mlip.config.system import Config
from mlip.report.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    RASTERISE_ABOVE,
    YELLOW,
    Panel,
    Picture,
    limit_line,
    plain_numbers,
)
from mlip.report.sources import LoopRecord

STEP_COLOURS = {
    "label_structures": ("labels", BLUE),
    "label_references": ("references", PURPLE),
    "train_committee": ("training", ORANGE),
    "explore_walkers": ("exploration", GREEN),
}
USUAL = "95"
"""Quantile, in per cent, of the validation atoms' uncertainties, that explored atoms are compared with."""
REASON_COLOURS = {"initial": PALE, "uncertain": ORANGE, "audit": BLUE, "failed": INK}

Series = dict[str, tuple[list[float], str]]
"""Name -> values per iteration, and the colour."""


def costs(loop: LoopRecord) -> Picture | None:
    """Labels by reason, and core time by step, per iteration."""
    numbers = [record.number for record in loop.iterations]
    panels = []
    labels = _labels_by_reason(loop)
    if labels:
        draw = partial(_draw_bars, numbers=numbers, series=labels, ylabel="labels")
        panels.append(Panel("Labels by why they were chosen", _in_words("Labels per iteration", labels), draw))
    for kind, title in (("core", "Core time by step"), ("gpu", "GPU time by step")):
        unit, times = _times_by_step(loop, kind)
        if times:
            draw = partial(_draw_bars, numbers=numbers, series=times, ylabel=unit)
            panels.append(Panel(title, _in_words(f"Cost per iteration in {unit}", times), draw))
    caption = (
        "Core time is cores held times time, failed attempts included. Reference labels count with the first "
        "iteration; labels found in the store cost nothing again."
    )
    return Picture("costs", "Where labels and time went", caption, panels) if panels else None


def _labels_by_reason(loop: LoopRecord) -> Series:
    counts = loop.labels_by_reason()
    names = [name for name in REASON_COLOURS if any(count[name] for count in counts)]
    return {name: ([float(count[name]) for count in counts], REASON_COLOURS[name]) for name in names}


def _times_by_step(loop: LoopRecord, kind: str) -> tuple[str, Series]:
    """Unit, and per step what succeeded; failed attempts of all steps are a series of their own."""
    costs = loop.costs()
    failed = [sum(row.get(f"failed_{kind}_seconds") or 0.0 for row in rows.values()) for rows in costs]
    spent = [
        {
            name: (row.get(f"{kind}_seconds") or 0.0) - (row.get(f"failed_{kind}_seconds") or 0.0)
            for name, row in rows.items()
        }
        for rows in costs
    ]
    name = {"core": "core", "gpu": "GPU"}[kind]
    unit, scale = f"{name}-seconds", 1
    total = sum(failed) + sum(sum(cost.values()) for cost in spent)
    if total > 3 * 3600:
        unit, scale = f"{name}-hours", 3600
    elif total > 300:
        unit, scale = f"{name}-minutes", 60
    series: Series = {
        name: ([cost.get(step, 0.0) / scale for cost in spent], colour) for step, (name, colour) in STEP_COLOURS.items()
    }
    others = [sum(value for step, value in cost.items() if step not in STEP_COLOURS) / scale for cost in spent]
    series["other steps"] = (others, PALE)
    series["failed attempts"] = ([value / scale for value in failed], INK)
    return unit, {name: entry for name, entry in series.items() if sum(entry[0]) > 0}


def exploration(config: Config, loop: LoopRecord) -> Picture | None:
    """Uncertainty of the explored frames with those chosen, and how the walkers ended."""
    decided = [(record.number, record.decisions) for record in loop.iterations]
    tables = {number: table for number, table in decided if table is not None and "force_uncertainty" in table}
    ends = [(r.number, r.assessment["exploration"]) for r in loop.iterations if r.assessment.get("exploration")]
    panels = []
    if tables:
        window = config.at_iteration(loop.last.number).select
        limits = (window.min_uncertainty, window.max_uncertainty)
        alt = (
            f"Largest force uncertainty in eV/Å of {sum(map(len, tables.values()))} explored frames by iteration, "
            "with the frames sent to the labeller highlighted"
        )
        draw = partial(_draw_uncertainty, tables=tables, limits=limits)
        panels.append(Panel("Uncertainty of explored frames", alt, draw))
    series = _stop_reasons([entry for _, entry in ends])
    if series:
        draw = partial(_draw_bars, numbers=[number for number, _ in ends], series=series, ylabel="walkers")
        panels.append(Panel("How walkers ended", _in_words("Walkers per iteration", series), draw))
    shifts = [(number, entry["shift"]) for number, entry in ends if entry.get("shift")]
    if shifts:
        panels.append(
            Panel(
                "Atoms unlike the data",
                _shift_in_words(shifts),
                partial(_draw_shift, shifts=shifts, numbers=[n for n, _ in ends]),
            )
        )
    caption = "What the walkers met: as the potential learns, uncertainty falls and walkers run to their end."
    if shifts:
        caption += (
            " The last picture shows how unlike the data the explored atoms are: above the line there are more strange "
            "ones than among the validation data, and the errors on data say little of what the walkers met."
        )
    return Picture("exploration", "Exploration", caption, panels) if panels else None


def _stop_reasons(entries: Sequence[dict[str, Any]]) -> Series:
    walkers, uncertain, exploded = (
        [float(entry.get(name) or 0) for entry in entries] for name in ("n_walkers", "n_uncertain", "n_exploded")
    )
    finished = [max(0.0, n - u - x) for n, u, x in zip(walkers, uncertain, exploded, strict=True)]
    series = {"finished": (finished, GREEN), "too uncertain": (uncertain, YELLOW), "exploded": (exploded, INK)}
    return {name: entry for name, entry in series.items() if sum(entry[0]) > 0}


def _shift_in_words(shifts: Sequence[tuple[int, dict[str, float]]]) -> str:
    values = ", ".join(f"{100 * shift[USUAL]:.3g} % in iteration {number}" for number, shift in shifts)
    return f"Explored atoms more uncertain than {USUAL} % of the validation atoms: {values}"


def _draw_shift(axes: Axes, shifts: Sequence[tuple[int, dict[str, float]]], numbers: Sequence[int]) -> None:
    """Explored atoms above the validation data's quantile, which ``100 - USUAL`` per cent of equal ones would be."""
    values = [100 * shift[USUAL] for _, shift in shifts]
    axes.plot([number for number, _ in shifts], values, "o-", color=BLUE, clip_on=False)  # zero lies on the edge
    limit_line(axes, 100 - float(USUAL), "like validation data", side="left")
    axes.set(xlabel="iteration", ylabel=f"atoms above the {USUAL} % quantile (%)")
    axes.set_ylim(0, 1.15 * max(*values, 100 - float(USUAL)))
    _iterations_axis(axes, numbers)


def _in_words(what: str, series: Series) -> str:
    return f"{what}: " + "; ".join(
        f"{name} {', '.join(f'{v:.3g}' for v in values)}" for name, (values, _) in series.items()
    )


def _draw_bars(axes: Axes, numbers: Sequence[int], series: Series, ylabel: str) -> None:
    base = np.zeros(len(numbers))
    for name, (values, colour) in series.items():
        axes.bar(numbers, values, 0.62, bottom=base, color=colour, label=name)
        base += values
    axes.set(xlabel="iteration", ylabel=ylabel, ylim=(0, 1.28 * base.max()))
    if all(value == int(value) for values, _ in series.values() for value in values):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _iterations_axis(axes, numbers)
    axes.legend(ncols=3, loc="upper right", handlelength=0.9, handletextpad=0.4, columnspacing=1.0)


def _draw_uncertainty(axes: Axes, tables: dict[int, pd.DataFrame], limits: tuple[float | None, float | None]) -> None:
    rng = np.random.default_rng(0)  # only the sideways spread of the points
    many = sum(map(len, tables.values())) > RASTERISE_ABOVE
    for kind, colour, size in (("left", PALE, 5), ("uncertain", ORANGE, 9), ("audit", BLUE, 9)):
        chosen = {
            n: table.loc[table["decision"] == kind, "force_uncertainty"].to_numpy(float) for n, table in tables.items()
        }
        x = np.concatenate([n + rng.uniform(-0.27, 0.27, len(values)) for n, values in chosen.items()])
        y = np.concatenate(list(chosen.values()))
        axes.plot(
            x, y, ".", color=colour, markersize=size, markeredgewidth=0, rasterized=many and kind == "left", label=kind
        )
    axes.set_yscale("log")
    plain_numbers(axes.yaxis)
    low, high = limits
    if low:
        limit_line(axes, low, "certain enough", side="left")  # early frames, on the left, are rarely there
    if high is not None:
        limit_line(axes, high, "left above")
    bottom, top = axes.get_ylim()
    axes.set(xlabel="iteration", ylabel="largest force uncertainty (eV/Å)", ylim=(bottom, top * (top / bottom) ** 0.15))
    _iterations_axis(axes, list(tables))
    axes.legend(ncols=3, loc="upper left", handletextpad=0.1, columnspacing=1.0)


def _iterations_axis(axes: Axes, numbers: Sequence[int]) -> None:
    axes.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(False, axis="x")
