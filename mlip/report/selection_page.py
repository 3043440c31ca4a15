"""The page of a loop's selections: why each frame was taken or left, and what other rules and budgets had taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from mlip.config.loop import SelectionMethod
from mlip.io.files import FileContentError
from mlip.io.netcdf import TrajectoryError
from mlip.loop.select_candidates import Verdict
from mlip.report.explain import Selection
from mlip.report.page import DASH, number_text, page_environment
from mlip.report.sources import LoopRecord

MAX_LEFT = 12
"""Frames of an iteration that are shown of those left, the nearest to be taken first."""
LARGEST_POOL = 20_000
"""Environments up to which other rules are tried while a page is written: a few seconds each."""


def render_selection(root: Path, loop: LoopRecord) -> str:
    """The whole page as HTML that needs no other file.

    Args:
        root: ``results/<system>``.
        loop: What is known of its iterations.
    """
    tables = [(record.number, record.decisions) for record in loop.iterations if record.decisions is not None]
    what_if, note = _try_others(root, loop)
    return (
        page_environment()
        .get_template("selection.html")
        .render(
            system=root.name,
            iterations=[_describe_iteration(number, table) for number, table in tables],
            what_if=what_if,
            note=note,
            last=loop.last.number,
            results=root.as_posix(),
        )
    )


def _describe_iteration(number: int, table: pd.DataFrame) -> dict[str, Any]:
    """Rows of the frames taken, in the order of their scores, and of those that were next."""
    decision = table["decision"].astype(str)
    scores = pd.to_numeric(table["score"], errors="coerce") if "score" in table else pd.Series(np.nan, table.index)
    order = table.assign(_score=scores).sort_values("_score", ascending=False, na_position="last")
    taken = [row for name in ("uncertain", "audit") for row in _rows(order[decision.loc[order.index] == name])]
    left = order[(decision.loc[order.index] == "left") & order["_score"].notna()]
    return {
        "number": number,
        "n_frames": len(table),
        "n_taken": int((decision == "uncertain").sum()),
        "n_audits": int((decision == "audit").sum()),
        "taken": taken,
        "left": _rows(left.head(MAX_LEFT)),
        "n_open": len(left),
    }


def _rows(table: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "frame": str(row["structure_id"]),
            "decision": str(row["decision"]),
            "temperature": _whole(row.get("temperature")),
            "error": _root(row.get("expected_squared_error")),
            "novelty": _number(row.get("novelty"), 2),
            "atom": _whole(row.get("atom")),
            "cost": _number(row.get("label_cost"), 3),
            "reason": str(row.get("reason", "")),
        }
        for row in table.to_dict("records")
    ]


def _number(value: Any, digits: int) -> str:
    return number_text(float(value) if value is not None and np.isfinite(value) else None, digits)


def _root(value: Any) -> str:
    return _number(None if value is None else float(value) ** 0.5, 3)


def _whole(value: Any) -> str:
    """Temperatures and atoms; -1 stands for no atom."""
    return DASH if value is None or not np.isfinite(value) or value < 0 else f"{value:.0f}"


def _try_others(root: Path, loop: LoopRecord) -> tuple[list[dict[str, str]], str]:
    """Rows of what the last iteration's scores give with other rules and budgets, or why there are none."""
    try:
        selection = Selection.read(root, loop.last.number)
    except (FileContentError, TrajectoryError, OSError, KeyError, ValueError) as error:
        return [], f"The scores of the last iteration cannot be read, so no other rule was tried: {error}"
    n_rows = len(selection.environments.frames.frame)
    if n_rows > LARGEST_POOL:
        return [], f"{n_rows} environments: other rules are tried by mlip explain, a frame at a time."
    n, rule = selection.settings.n_structures, selection.settings.method
    budgets = (max(n // 2, selection.settings.n_audit), n, 2 * n)
    changes: dict[str, dict[str, Any]] = {f"{rule}, {size} labels": {"n_structures": size} for size in budgets}
    changes |= {f"{name}, {n} labels": {"method": name} for name in get_args(SelectionMethod) if name != rule}
    taken = {name: _taken(selection.decide(**change)) for name, change in changes.items()}
    present = taken[f"{rule}, {n} labels"]
    return [_describe(selection, name, rows, present) for name, rows in taken.items()], ""


def _taken(verdicts: Sequence[Verdict]) -> set[int]:
    return {row for row, verdict in enumerate(verdicts) if verdict.decision == "uncertain"}


def _describe(selection: Selection, name: str, taken: set[int], present: set[int]) -> dict[str, str]:
    """What a changed selection takes: how many, how many of the present ones, their expected error and cost."""
    rows, table = sorted(taken), selection.table
    squared, cost = table.expected_squared_error.values[rows], table.label_cost.values[rows]
    return {
        "name": name,
        "taken": str(len(rows)),
        "common": str(len(present & taken)),
        "error": _root(np.mean(squared) if rows else None),
        "temperature": _whole(np.mean(table.temperature.values[rows]) if rows else None),
        "cost": _number(float(np.sum(cost)) if rows else None, 3),
    }
