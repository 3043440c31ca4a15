"""Rows of the loop's tables: every number as the text that the template shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlip.config.system import Config
from mlip.report.loop_figures import USUAL
from mlip.report.page import DASH, number_text, shift_text
from mlip.report.sources import LoopRecord
from mlip.report.summary import duration

MAX_REASONS = 12
MAX_EXAMPLES = 8

CLASSES = {
    "rejected": "not physical, or refused by label.guards",
    "unconverged": "the SCF did not converge, not even with label.escalations",
    "timeout": "longer than label.timeout_minutes; tried again at the next run",
    "crashed": "the code ended with an error; tried again at the next run",
    "config_error": "the settings in label cannot work",
}
"""What each class of failed labels means."""


def _sum_of(steps: dict[str, dict[str, Any]], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: sum(row[key] for row in steps.values()) for key in keys}


def list_costs(loop: LoopRecord) -> list[dict[str, str]]:
    """Rows of the table of costs, the sum and the studies last; none where there is no ledger."""
    steps = loop.ledger.by_step()
    if not steps:
        return []
    keys = ("core_seconds", "gpu_seconds", "attempts", "failed", "failed_core_seconds")
    rows = [(name.replace("_", " "), row) for name, row in steps.items()]
    rows.append(("all steps", _sum_of(steps, keys)))
    rows += [
        (f"beside the loop: study {name}", _sum_of(loop.ledger.of_study(name), keys)) for name in loop.ledger.studies
    ]
    return [
        {
            "name": name,
            "core": duration(row["core_seconds"]),
            "gpu": duration(row["gpu_seconds"]) if row["gpu_seconds"] else DASH,
            "attempts": str(row["attempts"]),
            "failed": f"{row['failed']} ({duration(row['failed_core_seconds'])})" if row["failed"] else DASH,
        }
        for name, row in rows
    ]


def describe_budget(config: Config, loop: LoopRecord) -> str:
    """What of each budget is used, in a sentence; empty without a budget."""
    spent, limits = loop.ledger.total(), config.budget
    pairs = [(spent.core_hours, limits.core_hours, "core-hours"), (spent.gpu_hours, limits.gpu_hours, "GPU-hours")]
    used = [f"{value:.3g} of {limit:g} {unit}" for value, limit, unit in pairs if limit is not None]
    return f"Of the budget, {' and '.join(used)} are used." if used else ""


def list_properties(loop: LoopRecord) -> list[dict[str, str]]:
    """Rows of the table beside the equation of state."""
    properties = loop.last.assessment.get("properties") or {}
    several = properties.get("structures") or {}
    scans = {f"structure {number}, ": entry for number, entry in several.items()} or {"": properties}
    return [row for of, entry in scans.items() for row in _property_rows(entry, of)]


def _property_rows(properties: Mapping[str, Any], of: str) -> list[dict[str, str]]:
    """Those of one structure; ``of`` stands before each name."""
    rows = []
    for name, symbol in (("lattice_constant", "lattice constant a₀"), ("bulk_modulus", "bulk modulus B₀")):
        entry = properties.get(name) or {}
        if entry.get("reference") is None:
            continue
        potential, reference, digits = entry.get("potential"), entry["reference"], 4 if entry["unit"] == "Å" else 1
        shift = None if potential is None else potential / reference - 1
        rows.append(
            {
                "name": f"{of}{symbol} ({entry['unit']})",
                "potential": DASH if potential is None else f"{potential:.{digits}f}",
                "reference": f"{reference:.{digits}f}",
                "difference": DASH if shift is None else shift_text(shift),
            }
        )
    return rows


COLUMNS = {
    "number": "iteration",
    "labels": "labels",
    "fresh": "new labels",
    "audit": "audit frames",
    "test": "test set",
    "coverage": "95 % intervals hold (%)",
    "a0": "a₀ error (%)",
    "B0": "B₀ error (%)",
    "walkers": "walkers finished",
    "shift": "atoms unlike data (%)",
    "passed": "criteria met",
    "cost": "core time",
}
ALWAYS = ("number", "labels", "passed", "cost")


def list_iterations(loop: LoopRecord) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the table of iterations; columns in which there is nothing are left out."""
    rows = [_iteration(entry, cost) for entry, cost in zip(loop.history, loop.costs(), strict=True)]
    shown = [key for key in COLUMNS if key in ALWAYS or any(row[key] != DASH for row in rows)]
    return [COLUMNS[key] for key in shown], [[row[key] for key in shown] for row in rows]


def _iteration(entry: dict[str, Any], cost: dict[str, dict[str, Any]]) -> dict[str, str]:
    fresh, audit, test = (entry.get(name) or {} for name in ("fresh", "audit", "test"))
    exploration, criteria = entry.get("exploration") or {}, entry.get("criteria") or []
    walkers = exploration.get("n_walkers") or 0
    finished = walkers - (exploration.get("n_uncertain") or 0) - (exploration.get("n_exploded") or 0)
    return {
        "number": str(entry.get("iteration", DASH)),
        "labels": str(entry.get("labels_total", DASH)),
        "fresh": number_text(fresh.get("force_rmse")),
        "audit": _with_interval(audit),
        "test": _with_interval(test),
        "coverage": _percent((entry.get("calibration") or {}).get("coverage")),
        "a0": _property_error(entry, "lattice_constant"),
        "B0": _property_error(entry, "bulk_modulus"),
        "walkers": f"{finished} of {walkers}" if walkers else DASH,
        "shift": _percent((exploration.get("shift") or {}).get(USUAL)),
        "cost": _duration(cost) if cost else DASH,
        "passed": f"{sum(bool(c.get('passed')) for c in criteria)} of {len(criteria)}" if criteria else DASH,
    }


def _with_interval(errors: dict[str, Any]) -> str:
    low, high = errors.get("interval") or (None, None)
    text = number_text(errors.get("force_rmse"))
    return text if None in (low, high) else f"{text} [{low:.2g}\u2060–\u2060{high:.2g}]"  # word joiners: no break


def _duration(cost: dict[str, dict[str, Any]]) -> str:
    """Of an iteration, in one word: a line of a narrow table must not break in it."""
    return duration(sum(row.get("core_seconds") or 0.0 for row in cost.values())).replace(" ", "\u00a0")


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.0f}"


def _property_error(entry: dict[str, Any], name: str) -> str:
    value = ((entry.get("properties") or {}).get(name) or {}).get("relative_error")
    return DASH if value is None else f"{100 * value:.2f}"


def list_origins(loop: LoopRecord) -> list[dict[str, str]]:
    """Labels of the last data set by what made the structures."""
    origins = loop.origins()
    largest = max(origins.values(), default=1)
    words = {"start": "starting structure", "walker": "frame of a walker"}
    return [
        {"name": words.get(name, name.replace("_", " ")), "count": str(count), "share": f"{100 * count / largest:.1f}"}
        for name, count in origins.items()
    ]


def list_failure_classes(loop: LoopRecord) -> list[dict[str, str]]:
    """Failed labels by class, with what the class means and the most frequent reason."""
    return [
        {"name": name, "count": str(count), "meaning": CLASSES.get(name, ""), "reason": reason}
        for name, count, reason in loop.failure_classes()
    ]


def list_studies(loop: LoopRecord) -> list[dict[str, Any]]:
    """What each study beside the loop found: verdict, place of its page and quantities."""
    verdicts = {True: "met", False: "not met", None: "no reference"}
    return [
        {
            "name": str(study.get("study", study["folder"])).replace("_", " "),
            "verdict": verdicts.get(study.get("passed"), DASH),
            "page": f"studies/{study['folder']}/report.html",
            "quantities": [_quantity(entry) for entry in study["quantities"]],
        }
        for study in loop.studies
    ]


def _quantity(entry: dict[str, Any]) -> dict[str, str]:
    errors = [entry.get("statistical_error"), entry.get("model_error")]
    known = [error for error in errors if error is not None]
    spread = f" ± {np.hypot.reduce(known):.2g}" if known else ""
    return {
        "name": f"{entry.get('name')} ({entry['unit']})" if entry.get("unit") else str(entry.get("name")),
        "value": number_text(entry.get("value"), 4) + spread,
        "reference": number_text(entry.get("reference"), 4),
    }


def list_reasons(loop: LoopRecord) -> list[dict[str, Any]]:
    """Frames by decision and reason over all iterations; numbers in reasons do not split them."""
    counts: Counter[tuple[str, str]] = Counter()
    for record in loop.iterations:
        if record.decisions is not None and "reason" in record.decisions:
            heads = [str(text).partition(":")[0] for text in record.decisions["reason"]]
            reasons = [re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "…", head) for head in heads]
            counts.update(zip(record.decisions["decision"].astype(str), reasons, strict=True))
    order = {"uncertain": 0, "audit": 1}
    rows = sorted(counts.items(), key=lambda item: (order.get(item[0][0], 2), -item[1]))[:MAX_REASONS]
    largest = max(counts.values(), default=1)
    return [
        {"decision": decision, "reason": reason, "count": n, "share": f"{100 * n / largest:.1f}"}
        for (decision, reason), n in rows
    ]


def list_examples(loop: LoopRecord) -> list[dict[str, str]]:
    """Some frames that the last selection took, and some that it left, most uncertain first."""
    table = next((r.decisions for r in reversed(loop.iterations) if r.decisions is not None), None)
    if table is None or not {"force_uncertainty", "reason"} <= set(table.columns):
        return []
    table = table.sort_values("force_uncertainty", ascending=False)
    taken = table[table["decision"] != "left"].head(MAX_EXAMPLES // 2)
    left = table[table["decision"] == "left"].head(MAX_EXAMPLES // 2)
    rows = []
    for part in (taken, left):
        for row in part.to_dict("records"):
            temperature = row.get("temperature")
            hot = temperature is not None and np.isfinite(temperature)
            rows.append(
                {
                    "structure_id": str(row["structure_id"]),
                    "temperature": f"{temperature:.0f}" if hot else DASH,
                    "uncertainty": number_text(row["force_uncertainty"]),
                    "decision": str(row["decision"]),
                    "reason": str(row["reason"]),
                }
            )
    return rows
