"""The status of a loop as text: a line, a page, and a page that is drawn again and again."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable

from mlip.io.layout import STEPS
from mlip.status.loop import IterationStatus, LoopStatus, StepStatus
from mlip.status.studies import StudyStatus

SHORT = {
    "prepare_structures": "prep",
    "label_references": "refs",
    "label_isolated_atoms": "atoms",
    "collect_dataset": "data",
}
"""Names that keep the table within 80 columns."""
MAX_ROWS = 8
MAX_FAILURES = 5
PAUSE, PAUSE_QUEUE = 3.0, 15.0
"""Seconds between two looks; longer where each look asks Slurm."""
REST = 10
"""At least this many times what a look takes lies between two."""


def progress_line(status: LoopStatus) -> str:
    """The loop in one line; the forecast comes last."""
    step = next((s.name for s in status.iterations[status.current].steps if s.state != "done"), "")
    where = f"iter_{status.current:02d} (of {status.max_iterations})"
    if step and status.stop_reason is None:
        where += f" {step}"
    parts = [where, f"labels {status.labels_done}/{status.labels_planned}"]
    if status.force_rmse is not None:
        parts.append(f"force RMSE {status.force_rmse:.2g} eV/Å" + _interval(status.force_rmse_interval))
    if status.uncertainty is not None:
        parts.append(f"uncertainty {status.uncertainty:.2g} eV/Å")
    if status.stop_reason is not None:
        return " · ".join([*parts, f"ended: {status.stop_reason}"])
    left = "time left unknown" if status.seconds_left is None else f"≤ {_duration(status.seconds_left)} left"
    return " · ".join([*parts, left])


def render_status(status: LoopStatus) -> str:
    """The loop as plain text of at most 30 lines: progress, jobs, costs, steps, failures, studies, what comes next."""
    lines = [status.system, progress_line(status), *_jobs_line(status), *_cost_line(status), "", *_table(status)]
    lines += _error_lines(status)
    broken = [s for entry in status.iterations for s in entry.steps if s.state == "failed"]
    lines += [f"✗ {s.name}: {s.message}" for s in broken[:2]]
    if status.failures:
        lines.append(f"failed labels: {len(status.failures)}")
        lines += [
            _shorten(f"  {f['structure_id']}: {f['status']}: {f['reason']}") for f in status.failures[-MAX_FAILURES:]
        ]
    lines += [_study_line(status, study) for study in status.studies]
    lines.append("next: " + (", ".join(status.next_steps) if status.next_steps else "nothing"))
    if status.report is not None:
        lines.append(f"report: {status.report}")
    return "\n".join(lines)


def _error_lines(status: LoopStatus) -> list[str]:
    """What the force RMSE rests on, and which errors disagree with it."""
    if not status.force_rmse_on:
        return []
    return textwrap.wrap(" · ".join(filter(None, [f"error: on {status.force_rmse_on}", status.disagreement])), 110)


def _jobs_line(status: LoopStatus) -> list[str]:
    jobs = status.jobs
    if jobs is None:
        return []
    parts = [f"{jobs.running} running", f"{status.jobs_done} done", f"{jobs.failed} failed"]
    if jobs.queued is not None:
        parts.insert(0, f"{jobs.queued} queued")
    if jobs.failed_attempts:
        parts[-1] += f" (failed attempts so far: {jobs.failed_attempts})"
    return ["jobs: " + " · ".join(parts)]


def _cost_line(status: LoopStatus) -> list[str]:
    """What was spent of each budget, and what may still come; GPUs only where there are any."""
    if status.spending is None:
        return []
    total, later, parts = status.spending.total, status.spending.to_come, []
    for unit, spent, limit, left in (
        ("core-hours", total.core_hours, status.budget.core_hours, None if later is None else later.core_hours),
        ("GPU-hours", total.gpu_hours, status.budget.gpu_hours, None if later is None else later.gpu_hours),
    ):
        if unit == "GPU-hours" and not spent and limit is None:
            continue
        text = f"{spent:.3g} {unit}" if limit is None else f"{spent:.3g} of {limit:g} {unit}"
        if left is not None:
            left = left if limit is None else min(left, max(0.0, limit - spent))
            text += f", ≤ {left:.2g} to come"
        parts.append(text)
    return ["cost: " + " · ".join(parts)]


def _study_line(status: LoopStatus, study: StudyStatus) -> str:
    """Where a study is; its cost is not part of the loop's."""
    parts = [f"study {study.name}: round {study.round} of {study.rounds}"]
    if study.labels_planned:
        parts.append(f"labels {study.labels_done}/{study.labels_planned}")
    cost = status.spending.by_study.get(study.name) if status.spending else None
    if cost is not None:
        parts.append(
            f"{cost.core_hours:.3g} core-hours" + (f", {cost.gpu_hours:.3g} GPU-hours" * bool(cost.gpu_seconds))
        )
    end = f"✗ {study.next_step}: {study.message}" if study.message else study.next_step and f"next: {study.next_step}"
    return _shorten(" · ".join([*parts, end or "done"]))


COLUMNS = ("error", "uncert.", "core-h")
"""Beside the steps: force RMSE as the report chooses it, mean force uncertainty (both eV/Å), core-hours."""


def _table(status: LoopStatus) -> list[str]:
    """A row per iteration, a column per step; the latest iterations when there are many."""
    shown = [entry for entry in status.iterations if entry.started or entry.number == status.current][-MAX_ROWS:]
    names = [name for name in STEPS if any(step.name == name for entry in shown for step in entry.steps)]
    rows = [["", *(SHORT.get(name) or name.split("_")[0] for name in names), *COLUMNS]]
    for entry in shown:
        steps = {step.name: step for step in entry.steps}
        cells = [_cell(entry, steps.get(name)) for name in names]
        rows.append([f"iter_{entry.number:02d}", *cells, *_numbers(status, entry)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    waiting = len(status.iterations) - 1 - shown[-1].number
    return lines + ([f"{'':<{widths[0]}} … up to {waiting} more"] if waiting > 0 else [])


def _cell(iteration: IterationStatus, step: StepStatus | None) -> str:
    if step is None:
        return ""
    mark = {"done": "✓", "started": "…", "failed": "✗", "waiting": "·"}[step.state]
    if step.name == "label_structures" and iteration.labels_planned and step.state != "waiting":
        return f"{mark} {iteration.labels_done}/{iteration.labels_planned}"
    return f"{mark} {step.done}/{step.planned}" if step.planned > 1 and step.state in ("started", "failed") else mark


def _numbers(status: LoopStatus, iteration: IterationStatus) -> list[str]:
    cost = status.spending.by_iteration.get(iteration.number) if status.spending else None
    values = (iteration.force_rmse, iteration.uncertainty, cost and cost.core_hours)
    return ["" if value is None else f"{value:.2g}" for value in values]


def _interval(interval: tuple[float, float] | None) -> str:
    return f" [{interval[0]:.2g}–{interval[1]:.2g}]" if interval else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _shorten(line: str, width: int = 110) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def watch_status(read: Callable[[], LoopStatus], *, pause: Callable[[float], None] = time.sleep) -> None:
    """Draw the status in place until the loop has ended; where output is no terminal, print it whenever it changes.

    Args:
        read: Gives the present status.
        pause: Waits for a number of seconds.
    """
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        shown = ""
        while True:
            began = time.monotonic()
            status = read()
            text = render_status(status)
            if live.console.is_terminal:
                live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            elif text != shown:
                sys.stdout.write(f"{text}\n\n")
                sys.stdout.flush()
            shown = text
            if status.stop_reason is not None and not status.next_steps:
                return
            least = PAUSE if status.jobs is None or status.jobs.queued is None else PAUSE_QUEUE
            pause(max(least, REST * (time.monotonic() - began)))
