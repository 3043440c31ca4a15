"""What is told while labels are computed."""

from __future__ import annotations

from mlip.jobs.progress import Progress
from mlip.labels.labeller import Outcome


def report_label(progress: Progress | None, done: int, planned: int, structure_id: str, outcome: Outcome) -> None:
    """Tell ``progress`` that one more label is finished."""
    if progress is None:
        return
    seconds = 0.0 if outcome.cached else outcome.record["wall_seconds"]
    event = {"done": done, "planned": planned, "structure_id": structure_id}
    event |= {"status": outcome.status, "seconds": seconds, "reason": outcome.reason, "cached": outcome.cached}
    if outcome.record["warnings"]:
        event["warnings"] = "; ".join(outcome.record["warnings"])
    progress(event)
