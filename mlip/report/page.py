"""From results to the page: every number as the text that the template shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mlip.config.system import Config
from mlip.report.drawing import Picture, svg
from mlip.report.loop_figures import USUAL
from mlip.report.sources import LoopRecord
from mlip.report.summary import duration, format_error

MAX_FAILURES = 25
MAX_WARNINGS = 12
MAX_REASONS = 12
MAX_EXAMPLES = 8
DASH = "–"


def page_environment(*folders: Path) -> Environment:
    """Templates of this folder, the style sheet among them, and of ``folders``."""
    return Environment(
        loader=FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(
    config: Config, root: Path, loop: LoopRecord, summary: dict[str, Any], pictures: Sequence[Picture]
) -> str:
    """The whole page as HTML that needs no other file."""
    failures = loop.failures()
    return (
        page_environment()
        .get_template("template.html")
        .render(
            summary=summary,
            verdict=_verdict(summary),
            tiles=_tiles(loop, summary),
            criteria=[describe_criterion(entry) for entry in loop.last.assessment.get("criteria") or []],
            potential=(root / "potential").as_posix(),
            pictures=[embed_picture(picture) for picture in pictures],
            properties=_properties(loop),
            iterations=[_iteration(entry, cost) for entry, cost in zip(loop.history, loop.costs(), strict=True)],
            costs=_costs(loop),
            budget=_budget(config, loop),
            warnings=[
                {"text": text, "labels": count, "iterations": ", ".join(map(str, numbers))}
                for text, count, numbers in loop.warnings()[:MAX_WARNINGS]
            ],
            damaged=loop.damaged()[:MAX_WARNINGS],
            failures=failures[:MAX_FAILURES],
            n_failures=len(failures),
            reasons=_reasons(loop),
            examples=_examples(loop),
            footer=_footer(config, loop),
        )
    )


def _verdict(summary: dict[str, Any]) -> dict[str, str]:
    if summary["converged"]:
        return {
            "kind": "good",
            "mark": "✓",
            "headline": "Converged",
            "text": "Every criterion is met.",
        }
    return {"kind": "warn", "mark": "!", "headline": "Not converged", "text": summary["reason"]}


def _tiles(loop: LoopRecord, summary: dict[str, Any]) -> list[dict[str, str]]:
    interval = summary["force_rmse_interval"]
    confidence = (loop.last.assessment.get("audit") or {}).get("confidence")
    span = f"{interval[0]:.2g}–{interval[1]:.2g} at {100 * confidence:.0f} %" if interval and confidence else ""
    labels = f"{summary['failed_labels']} failed" if summary["failed_labels"] else "none failed"
    return [
        {"name": "force RMSE, unseen", "value": format_error(summary["force_rmse"]), "unit": "eV/Å", "note": span},
        _property_tile("lattice constant", "Å", summary["a0"], summary["a0_reference"], 4),
        _property_tile("bulk modulus", "GPa", summary["B0"], summary["B0_reference"], 1),
        {"name": "labels", "value": str(summary["labels"]), "unit": "", "note": labels},
        _time_tile(summary["core_seconds"], summary["gpu_seconds"]),
    ]


def _property_tile(name: str, unit: str, value: float | None, reference: float | None, digits: int) -> dict[str, str]:
    if value is None:
        return {"name": name, "value": DASH, "unit": "", "note": ""}
    note = f"{100 * (value / reference - 1):+.2f} % from labeller" if reference else ""
    return {"name": name, "value": f"{value:.{digits}f}", "unit": unit, "note": note}


def _time_tile(seconds: dict[str, float], gpus: dict[str, float]) -> dict[str, str]:
    total = sum(seconds.values())
    value, unit = duration(total).split()
    share = 100 * seconds.get("label_structures", 0.0) / total if total else 0.0
    note = f"{share:.0f} % of it labels" if total else ""
    note += f"; GPU time {duration(sum(gpus.values()))}" if gpus else ""
    return {"name": "core time", "value": value, "unit": unit, "note": note}


def _sum_of(steps: dict[str, dict[str, Any]], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: sum(row[key] for row in steps.values()) for key in keys}


def _costs(loop: LoopRecord) -> list[dict[str, str]]:
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


def _budget(config: Config, loop: LoopRecord) -> str:
    """What of each budget is used, in a sentence; empty without a budget."""
    spent, limits = loop.ledger.total(), config.budget
    pairs = [(spent.core_hours, limits.core_hours, "core-hours"), (spent.gpu_hours, limits.gpu_hours, "GPU-hours")]
    used = [f"{value:.3g} of {limit:g} {unit}" for value, limit, unit in pairs if limit is not None]
    return f"Of the budget, {' and '.join(used)} are used." if used else ""


def describe_criterion(entry: dict[str, Any]) -> dict[str, Any]:
    """A criterion of an assessment or a study as the texts of its row."""
    value, target, passed = entry.get("value"), entry["target"], bool(entry.get("passed"))
    # Criteria say only whether they passed; from that follows on which side of the target they should be.
    at_least = None not in (value, target) and value != target and (value > target) == passed
    return {
        "name": entry["name"].replace("_", " "),
        "value": _number(value),
        "target": DASH if target is None else f"{'≥' if at_least else '≤'} {_number(target)}",
        "passed": passed,
        "remedy": entry.get("remedy", ""),
    }


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"


def embed_picture(picture: Picture) -> dict[str, Any]:
    """A picture with its panels as SVG."""
    panels = [
        {"title": panel.title, "svg": Markup(svg(panel, f"{picture.name}{k}"))}
        for k, panel in enumerate(picture.panels)
    ]
    return {"name": picture.name, "title": picture.title, "caption": picture.caption, "panels": panels}


def _properties(loop: LoopRecord) -> list[dict[str, str]]:
    """Rows of the table beside the equation of state."""
    rows = []
    for name, symbol in (("lattice_constant", "lattice constant a₀"), ("bulk_modulus", "bulk modulus B₀")):
        entry = (loop.last.assessment.get("properties") or {}).get(name) or {}
        if entry.get("reference") is None:
            continue
        potential, reference, digits = entry.get("potential"), entry["reference"], 4 if entry["unit"] == "Å" else 1
        shift = None if potential is None else 100 * (potential / reference - 1)
        rows.append(
            {
                "name": f"{symbol} ({entry['unit']})",
                "potential": DASH if potential is None else f"{potential:.{digits}f}",
                "reference": f"{reference:.{digits}f}",
                "difference": DASH if shift is None else f"{shift:+.2f} %",
            }
        )
    return rows


def _iteration(entry: dict[str, Any], cost: dict[str, dict[str, Any]]) -> dict[str, str]:
    fresh, audit, test = (entry.get(name) or {} for name in ("fresh", "audit", "test"))
    calibration, exploration = entry.get("calibration") or {}, entry.get("exploration") or {}
    properties = entry.get("properties") or {}
    criteria = entry.get("criteria") or []

    def error(name: str) -> str:
        value = (properties.get(name) or {}).get("relative_error")
        return DASH if value is None else f"{100 * value:.2f}"

    coverage, shift = calibration.get("coverage"), (exploration.get("shift") or {}).get(USUAL)
    walkers = exploration.get("n_walkers") or 0
    finished = walkers - (exploration.get("n_uncertain") or 0) - (exploration.get("n_exploded") or 0)
    return {
        "number": str(entry.get("iteration", DASH)),
        "labels": str(entry.get("labels_total", DASH)),
        "fresh": _number(fresh.get("force_rmse")),
        "audit": format_error(audit.get("force_rmse"), audit.get("interval")),
        "test": _number(test.get("force_rmse")),
        "coverage": DASH if coverage is None else f"{100 * coverage:.0f}",
        "a0": error("lattice_constant"),
        "B0": error("bulk_modulus"),
        "walkers": f"{finished} of {walkers}" if walkers else DASH,
        "shift": DASH if shift is None else f"{100 * shift:.0f}",
        "cost": duration(sum(row.get("core_seconds") or 0.0 for row in cost.values())) if cost else DASH,
        "passed": f"{sum(bool(c.get('passed')) for c in criteria)} of {len(criteria)}" if criteria else DASH,
    }


def _reasons(loop: LoopRecord) -> list[dict[str, Any]]:
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


def _examples(loop: LoopRecord) -> list[dict[str, str]]:
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
                    "uncertainty": _number(row["force_uncertainty"]),
                    "decision": str(row["decision"]),
                    "reason": str(row["reason"]),
                }
            )
    return rows


def _footer(config: Config, loop: LoopRecord) -> str:
    packages = loop.last.provenance.get("packages") or {}
    shown = [f"{name} {packages[name]}" for name in ("ouroboros", "gpaw", "torch", "ase") if packages.get(name)]
    parts = [
        f"labels by {config.label.calculator}",
        f"committee of {config.train.committee_size}",
        f"seed {config.seed}",
    ]
    return " · ".join(parts + [text for text in shown if "not installed" not in text])
