"""Where a loop is, from its files alone: no Snakemake, no torch, and any file may be half-written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlip.config import Config

State = Literal["done", "started", "failed", "waiting"]

STEPS = (
    "prepare_structures",
    "label_references",
    "label_structures",
    "collect_dataset",
    "train_committee",
    "explore_walkers",
    "score_frames",
    "select_candidates",
    "assess_potential",
)
FIRST_ONLY = ("prepare_structures", "label_references")
OUTPUTS = {
    "prepare_structures": "candidates.extxyz",
    "collect_dataset": "dataset.json",
    "train_committee": "potential.json",
    "score_frames": "frames.nc",
    "select_candidates": "decisions.csv",
    "assess_potential": "assessment.json",
}
MAX_ROWS = 8
MAX_FAILURES = 5


@dataclass(frozen=True)
class StepStatus:
    """One step of one iteration: its state and, where it has several outputs, how many are there."""

    name: str
    state: State
    done: int = 0
    planned: int = 1
    message: str = ""
    """Last line of the log of a step that failed."""


@dataclass(frozen=True)
class IterationStatus:
    """The steps of one iteration and its labels."""

    number: int
    steps: tuple[StepStatus, ...]
    labels_done: int = 0
    labels_planned: int = 0

    @property
    def finished(self) -> bool:
        """Whether every step is done."""
        return all(step.state == "done" for step in self.steps)

    @property
    def started(self) -> bool:
        """Whether anything happened yet."""
        return any(step.state != "waiting" for step in self.steps)


@dataclass(frozen=True)
class Status:
    """A whole loop. Forces in eV/Å, times in seconds; ``None`` where nothing is known yet."""

    system: str
    max_iterations: int
    iterations: tuple[IterationStatus, ...]
    current: int
    """Number of the iteration under way, or of the last one when the loop has ended."""
    force_rmse: float | None = None
    force_rmse_interval: tuple[float, float] | None = None
    uncertainty: float | None = None
    stop_reason: str | None = None
    """Why the loop ended; None while it has not."""
    next_steps: tuple[str, ...] = ()
    seconds_left: float | None = None
    """At most: the loop may converge earlier."""
    failures: tuple[dict[str, Any], ...] = field(default=())
    """Failed labels: iteration, structure_id, status, reason."""
    report: Path | None = None

    @property
    def labels_done(self) -> int:
        """Labels finished, failed ones included, over all iterations."""
        return sum(iteration.labels_done for iteration in self.iterations)

    @property
    def labels_planned(self) -> int:
        """Labels of all iterations whose structures are chosen."""
        return sum(iteration.labels_planned for iteration in self.iterations)


def read_status(config: Config, results: Path, now: float | None = None) -> Status:
    """Where the loop of ``config`` is.

    Args:
        config: Configuration of the system.
        results: Folder that holds ``<system>/iter_NN``.
        now: Time in seconds since the epoch; the clock's when None.
    """
    root = results / config.system
    iterations = tuple(_iteration(config, root, number) for number in range(config.max_iterations))
    assessments = [_read(_assessment_path(root, entry.number)) for entry in iterations]
    stop_at, stop_reason = _find_stop(config, iterations, assessments)
    if stop_at is not None:
        iterations = iterations[: stop_at + 1]
    open_ones = [entry.number for entry in iterations if not entry.finished]
    current = open_ones[0] if open_ones else iterations[-1].number
    rmse, interval, uncertainty = _errors(assessments)
    report = root / "report.html"
    ended = stop_reason is not None
    return Status(
        system=config.system,
        max_iterations=config.max_iterations,
        iterations=iterations,
        current=current,
        force_rmse=rmse,
        force_rmse_interval=interval,
        uncertainty=uncertainty,
        stop_reason=stop_reason,
        next_steps=_next_steps(root, iterations[current], ended),
        seconds_left=0.0
        if ended
        else _forecast(root, config.max_iterations, current, time.time() if now is None else now),
        failures=tuple(_failures(root, range(len(iterations)))),
        report=report if report.exists() else None,
    )


# Steps ---------------------------------------------------------------------------------------


def _iteration(config: Config, root: Path, number: int) -> IterationStatus:
    settings = config.at_iteration(number)
    steps = []
    for name in STEPS:
        if name in FIRST_ONLY and number > 0:
            continue
        steps.append(_step(root, number, name, _outputs(root, number, name, settings)))
    done, planned = _count_labels(root, number, settings.label.n_shards)
    return IterationStatus(number, tuple(steps), done, planned)


def _outputs(root: Path, number: int, name: str, settings: Config) -> list[Path]:
    folder = _folder(root, number) / name
    if name == "label_references":
        return [root / name / "references.extxyz"]
    if name == "label_structures":
        return [folder / f"shard_{k:03d}.json" for k in range(settings.label.n_shards)]
    if name == "explore_walkers":
        return [folder / f"walker_{k:02d}.nc" for k in range(settings.n_walkers)]
    return [folder / OUTPUTS[name]]


def _step(root: Path, number: int, name: str, outputs: list[Path]) -> StepStatus:
    done = sum(path.exists() for path in outputs)
    if done == len(outputs):
        return StepStatus(name, "done", done, len(outputs))
    logs = _logs(root, number, name)
    for log in logs:
        message = _error_in(log)
        if message and not _output_of(log, outputs).exists():
            return StepStatus(name, "failed", done, len(outputs), message)
    return StepStatus(name, "started" if done or logs else "waiting", done, len(outputs))


def _logs(root: Path, number: int, name: str) -> list[Path]:
    if name == "label_references":
        return sorted((root / "logs").glob(f"{name}*.log"))
    return sorted((root / "logs" / f"iter_{number:02d}").glob(f"{name}*.log"))


def _output_of(log: Path, outputs: list[Path]) -> Path:
    """The output that a job's log belongs to: ``label_structures-003.log`` to ``shard_003.json``."""
    part = log.stem.partition("-")[2]
    return next((path for path in outputs if part and path.stem.endswith(f"_{part}")), outputs[0])


def _error_in(log: Path) -> str:
    """The last line of a log that holds a traceback, else nothing."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 20_000))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines and any(line.startswith("Traceback (most recent") for line in lines) else ""


def _next_steps(root: Path, iteration: IterationStatus, ended: bool) -> tuple[str, ...]:
    if not ended:
        return tuple(step.name for step in iteration.steps if step.state != "done")[:2]
    outputs = {"deploy_potential": root / "potential" / "potential.json", "report_system": root / "report.html"}
    return tuple(name for name, path in outputs.items() if not path.exists())


# Labels ----------------------------------------------------------------------------------------


def _count_labels(root: Path, number: int, n_shards: int) -> tuple[int, int]:
    """Labels finished and planned in one iteration, running shards included."""
    folder = _folder(root, number) / "label_structures"
    done = planned = 0
    for shard in range(n_shards):
        finished = _read(folder / f"shard_{shard:03d}.json")
        running = _read(folder / f"shard_{shard:03d}.progress.json")
        done += len(_records(finished)) if finished else _whole(running.get("done"))
        planned += _whole(finished.get("planned")) if finished else _whole(running.get("planned"))
    if number == 0:
        candidates = _folder(root, 0) / "prepare_structures" / "candidates.extxyz"
    else:
        candidates = _folder(root, number - 1) / "select_candidates" / "candidates.extxyz"
    return done, max(planned, _count_frames(candidates))


def _count_frames(path: Path) -> int:
    """Whole structures in an extended XYZ file; 0 where there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    frames = position = 0
    while position < len(lines) and lines[position].strip().isdigit():
        position += int(lines[position]) + 2
        frames += position <= len(lines)
    return frames


def _failures(root: Path, numbers: Iterable[int]) -> list[dict[str, Any]]:
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for number in numbers:
        folder = _folder(root, number)
        shards = sorted((folder / "label_structures").glob("shard_[0-9][0-9][0-9].json"))
        failed = [record for path in shards for record in _records(_read(path)) if record.get("status") != "ok"]
        listed = _read(folder / "collect_dataset" / "dataset.json").get("failures")
        for record in failed + [
            entry for entry in (listed if isinstance(listed, list) else []) if isinstance(entry, dict)
        ]:
            iteration, name = _whole(record.get("iteration", number)), str(record.get("structure_id", "?"))
            entry = {"iteration": iteration, "structure_id": name}
            found.setdefault(
                (iteration, name),
                entry | {"status": str(record.get("status", "?")), "reason": str(record.get("reason") or "")},
            )
    return sorted(found.values(), key=lambda entry: entry["iteration"])


# Progress ----------------------------------------------------------------------------------------


def _find_stop(
    config: Config, iterations: tuple[IterationStatus, ...], assessments: list[dict[str, Any]]
) -> tuple[int | None, str | None]:
    for entry, assessment in zip(iterations, assessments, strict=True):
        if assessment.get("stop") is True:
            return entry.number, str(assessment.get("reason") or "stopped")
    if iterations[-1].finished:
        return iterations[-1].number, f"iteration limit: all {config.max_iterations} iterations used"
    return None, None


def _errors(assessments: list[dict[str, Any]]) -> tuple[float | None, tuple[float, float] | None, float | None]:
    """Latest force RMSE (audit if there is one), its interval, and mean uncertainty of the exploration."""
    uncertainty = None
    for assessment in reversed(assessments):
        exploration, audit, fresh = (_mapping(assessment, name) for name in ("exploration", "audit", "fresh"))
        uncertainty = _number(exploration.get("mean_uncertainty")) if uncertainty is None else uncertainty
        rmse = _number(audit.get("force_rmse"))
        if rmse is not None:
            ends = audit.get("interval")
            values = [_number(end) for end in ends] if isinstance(ends, list) and len(ends) == 2 else [None, None]
            low, high = values
            return rmse, None if low is None or high is None else (low, high), uncertainty
        rmse = _number(fresh.get("force_rmse"))
        if rmse is not None:
            return rmse, None, uncertainty
    return None, None, uncertainty


def _forecast(root: Path, max_iterations: int, current: int, now: float) -> float | None:
    """Seconds left at most, from the time that finished iterations took.

    The first iteration labels other structures than the later ones, so it counts only as long
    as it is the only one. The median keeps a break between two runs out.
    """
    ends = [_mtime(_folder(root, 0) / "prepare_structures" / "candidates.extxyz")]
    ends += [_mtime(_assessment_path(root, number)) for number in range(current)]
    spans = [b - a for a, b in zip(ends, ends[1:], strict=False) if a is not None and b is not None and b > a]
    if not spans:
        return None
    spans = sorted(spans[1:] or spans)
    typical = spans[len(spans) // 2]
    began = ends[-1] if ends[-1] is not None else now
    return max(0.0, typical * (max_iterations - current) - min(max(0.0, now - began), typical))


# Files ------------------------------------------------------------------------------------------


def _folder(root: Path, number: int) -> Path:
    return root / f"iter_{number:02d}"


def _assessment_path(root: Path, number: int) -> Path:
    return _folder(root, number) / "assess_potential" / "assessment.json"


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is missing, half-written or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _mapping(values: dict[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _records(shard: dict[str, Any]) -> list[dict[str, Any]]:
    records = shard.get("records")
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
