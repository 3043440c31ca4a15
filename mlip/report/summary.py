"""The machine-readable summary of a loop, and the short table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlip.report.headline import choose_force_error, rests_on

if TYPE_CHECKING:
    from mlip.config.system import Config
    from mlip.report.sources import LoopRecord


def build_summary(config: Config, loop: LoopRecord, reason: str | None = None) -> dict[str, Any]:
    """The content of ``summary.json``; see docs/design.md.

    The force RMSE is the one that the page shows first (:func:`mlip.report.headline.choose_of_assessments`).
    """
    last, error = loop.last.assessment, choose_force_error(loop)
    properties = last.get("properties") or {}
    lattice, bulk = properties.get("lattice_constant") or {}, properties.get("bulk_modulus") or {}
    summary = {
        "system": config.system,
        "iterations": len(loop.iterations),
        "labels": last.get("labels_total", sum(len(record.labels) for record in loop.iterations)),
        "failed_labels": last.get("failed_total", len(loop.failures())),
        "force_rmse": error.rmse if error else None,
        "force_rmse_interval": list(error.interval) if error and error.interval else None,
        "force_rmse_on": {"set": error.basis, "structures": error.n_structures, "iteration": error.iteration}
        if error
        else None,
        "converged": bool(last.get("converged", False)),
        "reason": reason or _reason(config, loop),
        "retrained": loop.retrained or None,
        "a0": lattice.get("potential"),
        "B0": bulk.get("potential"),
        "a0_reference": lattice.get("reference"),
        "B0_reference": bulk.get("reference"),
        "core_seconds": loop.core_seconds(),
        "gpu_seconds": loop.gpu_seconds(),
        "ledger": loop.ledger.as_dict(),
        "budget": config.budget.model_dump(mode="json"),
        "history": loop.history,
    }
    return _finite(summary)


def _reason(config: Config, loop: LoopRecord) -> str:
    """Why the loop ended; the last allowed iteration ends it whatever its assessment says."""
    last = loop.last.assessment
    if last.get("stop") and last.get("reason"):
        return str(last["reason"])
    failed = [_missed(c) for c in last.get("criteria") or [] if not c.get("passed")]
    missed = f"; not met: {', '.join(failed)}" if failed else ""
    if loop.last.number + 1 >= config.max_iterations:
        return f"iteration limit: {loop.last.number + 1} of {config.max_iterations} iterations used{missed}"
    return f"unfinished: {loop.last.number + 1} of at most {config.max_iterations} iterations done{missed}"


def _missed(criterion: Mapping[str, Any]) -> str:
    remedy = criterion.get("remedy")
    return f"{criterion.get('name')} ({remedy})" if remedy else str(criterion.get("name"))


def _finite(value: Any) -> Any:
    """``value`` with NaN and infinities, which JSON lacks, as None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def summary_table(summary: dict[str, Any]) -> str:
    """A short plain-text table of ``summary`` for the terminal."""
    costs, gpus = summary.get("core_seconds") or {}, summary.get("gpu_seconds") or {}
    total = sum(costs.values())
    largest = sorted(costs.items(), key=lambda item: -item[1])[:3]
    verdict = "converged" if summary.get("converged") else "not converged" + _suffix(summary.get("reason"))
    rows = [
        ("result", verdict),
        ("iterations", str(summary.get("iterations"))),
        ("labels", f"{summary.get('labels')} ({summary.get('failed_labels') or 0} failed)"),
        ("force RMSE", _force_text(summary)),
    ]
    for name, key, unit, digits in (("lattice constant", "a0", "Å", 4), ("bulk modulus", "B0", "GPa", 1)):
        value, reference = summary.get(key), summary.get(f"{key}_reference")
        rows += [] if value is None and reference is None else [(name, _against(value, reference, unit, digits))]
    spent = ", ".join(f"{name} {duration(s)}" for name, s in largest if s > 0)
    rows.append(("core time", duration(total) + _suffix(spent)))
    if gpus:
        rows.append(("GPU time", duration(sum(gpus.values()))))
    width = max(len(name) for name, _ in rows)
    lines = [str(summary.get("system")), "─" * 60]
    return "\n".join(lines + [f"{name:<{width}}  {value}" for name, value in rows])


def _force_text(summary: dict[str, Any]) -> str:
    text = format_error(summary.get("force_rmse"), summary.get("force_rmse_interval")) + " eV/Å"
    basis = summary.get("force_rmse_on")
    return f"{text} on {rests_on(basis['set'], basis['structures'])}" if basis else text


def format_error(value: float | None, interval: list[float] | None = None) -> str:
    """A number with its interval, e.g. ``0.123 [0.101–0.150]``; ``–`` without a value."""
    if value is None:
        return "–"
    text = f"{value:.3g}"
    return f"{text} [{interval[0]:.3g}–{interval[1]:.3g}]" if interval and None not in interval else text


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use: ``42 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _suffix(text: str | None) -> str:
    return f" ({text})" if text else ""


def _against(value: float | None, reference: float | None, unit: str, digits: int) -> str:
    if value is None:
        return "–"
    text = f"{value:.{digits}f} {unit}"
    if reference:
        text += f" (reference {reference:.{digits}f}, {100 * (value / reference - 1):+.2f} %)"
    return text
