"""Pictures of the potential's errors: learning curve, parity, calibration."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.special import erfinv

from mlip.config.loop import Assess
from mlip.config.system import Config
from mlip.report.drawing import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PALE,
    RASTERISE_ABOVE,
    Panel,
    Picture,
    diagonal,
    legend_above,
    limit_line,
    note,
    plain_numbers,
    positive_axis,
)
from mlip.report.sources import LoopRecord


def learning_curve(config: Config, loop: LoopRecord) -> Picture | None:
    """Force and energy errors on unseen structures, and on the test set, against the labels behind them."""
    earlier = list(zip(loop.iterations, loop.iterations[1:], strict=False))
    fresh = [(b.usable_labels, r.assessment["fresh"]) for b, r in earlier if r.assessment.get("fresh")]
    # Audits judge the present potential; those of earlier versions judged the one before.
    audit = [
        ((r if "certificates" in r.assessment["audit"] else b).usable_labels, r.assessment["audit"])
        for b, r in earlier
        if r.assessment.get("audit")
    ]
    test = [(r.usable_labels, r.assessment["test"]) for r in loop.iterations if r.assessment.get("test")]
    if not fresh and not audit and not test:
        return None
    target = _target(config.at_iteration(loop.last.number).assess, fresh)
    draw = partial(_draw_forces, fresh=fresh, audit=audit, test=test, target=target)
    alt = _trend("Force RMSE in eV/Å", fresh or audit, "force_rmse", test)
    panels = [Panel("Forces", alt, draw)]
    if fresh or test:
        alt = _trend("Energy RMSE in eV/atom", fresh, "energy_rmse", test)
        panels.append(Panel("Energy", alt, partial(_draw_energies, fresh=fresh, test=test)))
    caption = (
        "How the error falls as labels are added. New labels came after the potential was trained and were mostly "
        "chosen because it was unsure of them, so they show more than the usual error; audit frames were drawn at "
        "random and show the usual one."
    )
    if test:
        caption += " The test set is part of the same data, kept out of every training."
    return Picture("learning_curve", "Learning curve", caption, panels)


def _target(settings: Assess, fresh: Points) -> float | None:
    """What new labels' force RMSE has to reach, eV/Å: in loops without such a number, by the latest ones' RMS force."""
    if settings.force_rmse is not None:
        return settings.force_rmse
    latest = next((entry["force_rms"] for _, entry in reversed(fresh) if entry.get("force_rms")), None)
    return None if latest is None else settings.relative_force_rmse * float(latest)


Points = list[tuple[int, dict[str, Any]]]
"""Labels in the training data, and errors of the potential trained on them."""


def _trend(what: str, points: Points, key: str, test: Points) -> str:
    def listed(points: Points) -> str:
        return ", ".join(f"{entry[key]:.3g} at {n} labels" for n, entry in points if entry.get(key) is not None)

    text = f"{what} of unseen structures against labels in the training data: {listed(points) or 'none yet'}"
    return f"{text}; of the test set: {listed(test)}" if test else text


def _draw_test(axes: Axes, test: Points, key: str, scale: float = 1.0) -> list[float]:
    points = [(n, scale * entry[key]) for n, entry in test if entry.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "D--", color=GREEN, markersize=4.5, linewidth=1.2, label="test set")
    return [value for _, value in points]


def _draw_forces(axes: Axes, fresh: Any, audit: Any, test: Points, target: float | None) -> None:
    values = _draw_test(axes, test, "force_rmse")
    if target is not None:
        limit_line(axes, target, f"target {target:.2g}")
        values.append(target)
    if fresh:
        errors = [f["force_rmse"] for _, f in fresh]
        axes.plot([n for n, _ in fresh], errors, "o-", color=BLUE, label="all new labels")
        values += errors
    if audit:
        x, y = np.array([n for n, _ in audit], float), np.array([a["force_rmse"] for _, a in audit])
        ranges = np.array([_interval(a) for _, a in audit])
        error = np.clip([y - ranges[:, 0], ranges[:, 1] - y], 0, None)
        percent = 100 * float(audit[-1][1].get("confidence") or 0)
        label = f"audit, {percent:.0f} % interval" if percent and error.any() else "audit"
        axes.errorbar(x, y, yerr=error, fmt="s-", color=ORANGE, capsize=3, label=label)
        values += [*y, *ranges.ravel()]
    positive_axis(axes, values)
    axes.set(xlabel="labels in the training data", ylabel="force RMSE (eV/Å)")
    _finish_curve(axes)


def _interval(audit: dict[str, Any]) -> tuple[float, float]:
    """The confidence interval; a single audit frame has none."""
    low, high = audit.get("interval") or (None, None)
    return (audit["force_rmse"],) * 2 if low is None or high is None else (low, high)


def _draw_energies(axes: Axes, fresh: Any, test: Points) -> None:
    values = [1000 * f["energy_rmse"] for _, f in fresh]
    if fresh:
        axes.plot([n for n, _ in fresh], values, "o-", color=BLUE, label="all new labels")
    values += _draw_test(axes, test, "energy_rmse", 1000)
    positive_axis(axes, values)
    axes.set(xlabel="labels in the training data", ylabel="energy RMSE (meV/atom)")
    _finish_curve(axes)


def _finish_curve(axes: Axes) -> None:
    """Whole numbers of labels, and the legend above, where no interval can lie behind it."""
    low, high = axes.get_xlim()
    if high - low < 2:  # of a single potential
        axes.set_xlim((low + high) / 2 - 2, (low + high) / 2 + 2)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend_above(axes)


def _last_parity(loop: LoopRecord) -> tuple[int, xr.Dataset] | None:
    for record in reversed(loop.iterations):
        if record.parity is not None and "force_true" in record.parity and record.parity.sizes.get("atom_sample"):
            return record.number, record.parity
    return None


def parity(loop: LoopRecord) -> Picture | None:
    """Predicted against labelled forces and energies of the last structures labelled."""
    found = _last_parity(loop)
    if found is None:
        return None
    number, data = found
    error = data.force_predicted.values - data.force_true.values
    rmse = np.sqrt(np.mean(error**2))
    alt = f"Predicted against true forces of {data.sizes['atom_sample']} atoms; RMSE {rmse:.3g} eV/Å"
    panels = [Panel("Forces", alt, partial(_draw_force_parity, data=data))]
    if "energy_true" in data and data.sizes.get("structure"):
        alt = f"Predicted against true energies of {data.sizes['structure']} structures, with uncertainty bars"
        panels.append(Panel("Energy", alt, partial(_draw_energy_parity, data=data)))
    caption = (
        f"The potential of iteration {number - 1} on the structures labelled in iteration {number}, "
        "none of which it had seen. On the line, prediction and label are equal."
    )
    return Picture("parity", "Predictions against labels", caption, panels)


def _draw_force_parity(axes: Axes, data: xr.Dataset) -> None:
    true, predicted = data.force_true.values, data.force_predicted.values
    audit = data.audit.values.astype(bool) if "audit" in data else np.zeros(len(true), bool)
    for chosen, colour, label in ((~audit, BLUE, "uncertain"), (audit, ORANGE, "audit")):
        if chosen.any():
            x, y = true[chosen].ravel(), predicted[chosen].ravel()
            alpha = 0.55 if x.size < 2000 else 0.25
            raster = x.size > RASTERISE_ABOVE
            axes.plot(x, y, ".", color=colour, markeredgewidth=0, alpha=alpha, rasterized=raster, label=label)
    diagonal(axes, true, predicted)
    axes.set(xlabel="labelled force component (eV/Å)", ylabel="predicted (eV/Å)")
    if audit.any():
        for handle in axes.legend(loc="upper left", markerscale=1.6, handletextpad=0.2).legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    note(axes, f"RMSE {np.sqrt(np.mean((predicted - true) ** 2)):.3g} eV/Å")


def _draw_energy_parity(axes: Axes, data: xr.Dataset) -> None:
    zero = float(data.energy_true.min())
    true, predicted = 1000 * (data.energy_true.values - zero), 1000 * (data.energy_predicted.values - zero)
    std = 1000 * data.energy_std.values if "energy_std" in data else None
    axes.errorbar(true, predicted, yerr=std, fmt="o", color=BLUE, markersize=4.5, elinewidth=1, alpha=0.8)
    diagonal(axes, true, predicted)
    axes.set(xlabel="labelled energy above the lowest (meV/atom)", ylabel="predicted (meV/atom)")
    note(axes, f"RMSE {np.sqrt(np.mean((predicted - true) ** 2)):.3g} meV/atom")


def calibration(loop: LoopRecord) -> Picture | None:
    """Predicted uncertainty of forces against their real errors, in size and in coverage."""
    found = _last_parity(loop)
    if found is None or "force_std" not in found[1]:
        return None
    data = found[1]
    error = np.abs(data.force_predicted.values - data.force_true.values).ravel()
    std = data.force_std.values.ravel()
    usable = np.isfinite(error) & (std > 0)
    if usable.sum() < 10:
        return None
    error, std = error[usable], std[usable]
    share = float(np.mean(error < 1.96 * std))
    bins = "Root-mean-square force error in bins of predicted uncertainty, both in eV/Å, with the ideal diagonal"
    coverage = (
        "Share of force errors inside the predicted interval against the share expected; "
        f"{100 * share:.0f} % of errors lie inside the 95 % interval"
    )
    panels = [
        Panel("Error against uncertainty", bins, partial(_draw_bins, error=error, std=std)),
        Panel("Coverage", coverage, partial(_draw_coverage, error=error, std=std)),
    ]
    caption = (
        "Does the potential know how wrong it is? On the grey diagonal it does. Left, points above it mean errors "
        "larger than predicted (too sure), points below smaller ones (cautious); right, the other way round."
    )
    return Picture("calibration", "Is the uncertainty right?", caption, panels)


def _draw_bins(axes: Axes, error: np.ndarray, std: np.ndarray) -> None:
    order = np.argsort(std)
    bins = np.array_split(order, min(10, max(2, len(order) // 15)))
    x = np.array([np.sqrt(np.mean(std[b] ** 2)) for b in bins])
    y = np.array([np.sqrt(np.mean(error[b] ** 2)) for b in bins])
    raster = len(std) > RASTERISE_ABOVE
    axes.plot(
        std, error, ".", color=PALE, markersize=4, markeredgewidth=0, alpha=0.4 if raster else 1, rasterized=raster
    )
    axes.plot(x, y, "o-", color=BLUE, label="RMS in bins")
    low, high = 0.5 * min(x.min(), y.min()), 2 * max(x.max(), y.max())
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, zorder=0.5)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low / 4, high * 1.5))
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.set(xlabel="predicted standard deviation (eV/Å)", ylabel="force error (eV/Å)")
    axes.legend(loc="lower right", handletextpad=0.4)


def _draw_coverage(axes: Axes, error: np.ndarray, std: np.ndarray) -> None:
    expected = np.linspace(0.02, 0.99, 60)
    width = np.sqrt(2) * erfinv(expected)  # half-width, in standard deviations, of a normal's central interval
    observed = np.array([np.mean(error < w * std) for w in width])
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1)
    axes.plot(100 * expected, 100 * observed, color=BLUE)
    axes.fill_between(100 * expected, 100 * expected, 100 * observed, color=BLUE, alpha=0.12, linewidth=0)
    axes.set(xlabel="expected inside the interval (%)", ylabel="observed (%)", xlim=(0, 100), ylim=(0, 100))
    note(axes, f"95 % interval covers {100 * np.mean(error < 1.96 * std):.0f} %")
