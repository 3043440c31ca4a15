"""Where a loop is, from its files alone: no Snakemake, no torch, and any file may be half-written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from mlip.config.loop import Budget
from mlip.config.system import Config
from mlip.io.layout import (
    ONCE,
    STEPS,
    assessment_path,
    candidates_path,
    log_folder,
    output_path,
)
from mlip.io.partial import count_labels, error_in, mapping, modified, number_or_none, read_failures, read_object
from mlip.jobs.slurm.queue import QueuedJob
from mlip.report.headline import choose_of_assessments, compare_errors
from mlip.status.costs import JobCounts, Spending, read_costs
from mlip.status.studies import StudyStatus, read_studies

StepState = Literal["done", "started", "failed", "waiting"]

SIGNS = {
    "import_data": "data.json",
    "relabel_data": "comparison.json",
    "prepare_structures": "candidates.extxyz",
    "label_references": "references.extxyz",
    "label_isolated_atoms": "isolated_atoms.json",
    "label_structures": "shard_{shard}.json",
    "collect_dataset": "dataset.json",
    "train_committee": "potential.json",
    "explore_walkers": "walker_{walker}.nc",
    "score_frames": "frames.nc",
    "select_candidates": "decisions.csv",
    "assess_potential": "assessment.json",
}
"""The output of each step that tells that it is done."""
SHARED = ("label_references", "label_isolated_atoms")
"""Steps that belong to no iteration; the first one waits for them."""
CHEAP_LABEL = 2.0
"""Seconds a label, below which other steps take the time and labels forecast nothing."""


@dataclass(frozen=True)
class StepStatus:
    """One step of one iteration: its state and, where it has several outputs, how many are there.

    Attributes:
        message: last line of the log of a step that failed.
    """

    name: str
    state: StepState
    done: int = 0
    planned: int = 1
    message: str = ""


@dataclass(frozen=True)
class IterationStatus:
    """The steps of one iteration and its labels.

    Attributes:
        force_rmse: the error that this iteration's assessment alone would show first, eV/Å.
        uncertainty: mean force uncertainty of the explored frames, eV/Å.
    """

    number: int
    steps: tuple[StepStatus, ...]
    labels_done: int = 0
    labels_planned: int = 0
    force_rmse: float | None = None
    uncertainty: float | None = None

    @property
    def finished(self) -> bool:
        """Whether every step is done."""
        return all(step.state == "done" for step in self.steps)

    @property
    def started(self) -> bool:
        """Whether anything happened yet."""
        return any(step.state != "waiting" for step in self.steps)


@dataclass(frozen=True)
class LoopStatus:
    """A whole loop. Forces in eV/Å, times in seconds; ``None`` where nothing is known yet.

    Attributes:
        current: number of the iteration under way, or of the last one when the loop has ended.
        force_rmse: the error that the report shows first (:func:`mlip.report.headline.choose_of_assessments`).
        force_rmse_on: the structures on which it was measured, such as ``12 test structures``.
        disagreement: in words, which errors are far apart; empty where they agree.
        stop_reason: why the loop ended; None while it has not, or while a part of it is being done again.
        seconds_left: at most: the loop may converge earlier.
        failures: failed labels: iteration, structure_id, status, reason.
        studies: studies that have begun.
        jobs: jobs and costs; None where they were not asked for.
    """

    system: str
    max_iterations: int
    iterations: tuple[IterationStatus, ...]
    current: int
    force_rmse: float | None = None
    force_rmse_interval: tuple[float, float] | None = None
    force_rmse_on: str = ""
    disagreement: str = ""
    uncertainty: float | None = None
    stop_reason: str | None = None
    next_steps: tuple[str, ...] = ()
    seconds_left: float | None = None
    failures: tuple[dict[str, Any], ...] = field(default=())
    report: Path | None = None
    budget: Budget = field(default_factory=Budget)
    studies: tuple[StudyStatus, ...] = ()
    jobs: JobCounts | None = None
    spending: Spending | None = None

    @property
    def jobs_done(self) -> int:
        """Jobs up to the current iteration whose output is there."""
        return sum(step.done for entry in self.iterations[: self.current + 1] for step in entry.steps)

    @property
    def labels_done(self) -> int:
        """Labels finished, failed ones included, up to the current iteration."""
        return sum(iteration.labels_done for iteration in self.iterations[: self.current + 1])

    @property
    def labels_planned(self) -> int:
        """Labels planned up to the current iteration; later ones may never be computed."""
        return sum(iteration.labels_planned for iteration in self.iterations[: self.current + 1])


def read_status(
    config: Config,
    results: Path,
    now: float | None = None,
    *,
    costs: bool = True,
    queue: Sequence[QueuedJob] | None = None,
) -> LoopStatus:
    """Where the loop of ``config`` is.

    Args:
        config: Configuration of the system.
        results: Folder ``results/<system>``; it need not exist yet.
        now: Time in seconds since the epoch; the clock's when None.
        costs: Whether to count jobs and costs as well.
        queue: The loop's jobs in Slurm's queue; None where there is none.
    """
    root = results
    now = time.time() if now is None else now
    iterations = _read_iterations(config, root)
    assessments = [read_object(assessment_path(root, entry.number)) for entry in iterations]
    iterations = tuple(map(_with_errors, iterations, assessments))
    stop_at, stop_reason = _find_stop(config, iterations, assessments)
    if stop_at is not None:
        iterations = iterations[: stop_at + 1]
    open_ones = [entry.number for entry in iterations if not entry.finished]
    current = open_ones[0] if open_ones else iterations[-1].number
    error = choose_of_assessments(assessments)
    report = output_path(root, "report_system", "report.html")
    ended = stop_reason is not None
    planned = iterations[current].labels_planned
    counted = costs and read_costs(config, root, current=current, n_labels=planned, ended=ended, queue=queue, now=now)
    return LoopStatus(
        system=config.system,
        max_iterations=config.max_iterations,
        iterations=iterations,
        current=current,
        force_rmse=error.rmse if error else None,
        force_rmse_interval=error.interval if error else None,
        force_rmse_on=error.rests_on if error else "",
        disagreement=compare_errors(assessments),
        uncertainty=_uncertainty(assessments),
        stop_reason=stop_reason,
        next_steps=_next_steps(root, iterations[current], ended),
        seconds_left=0.0 if ended else _forecast(config, root, iterations[current], now),
        failures=tuple(read_failures(root, range(len(iterations)))),
        report=report if report.exists() else None,
        budget=config.budget,
        studies=read_studies(config, root),
        jobs=counted[0] if counted else None,
        spending=counted[1] if counted else None,
    )


# Steps ---------------------------------------------------------------------------------------


def _read_iterations(config: Config, root: Path) -> tuple[IterationStatus, ...]:
    """Every planned iteration; the file system is asked only up to the first one not begun."""
    iterations: list[IterationStatus] = []
    for number in range(config.max_iterations):
        if iterations and not iterations[-1].started:
            iterations.append(
                IterationStatus(number, iterations[-1].steps if number > 1 else _iteration(config, root, 1).steps)
            )
        else:
            iterations.append(_iteration(config, root, number))
    return tuple(iterations)


def _iteration(config: Config, root: Path, number: int) -> IterationStatus:
    settings = config.at_iteration(number)
    steps = []
    for name in STEPS:
        if (name in ONCE and number > 0) or not _is_planned(name, config):
            continue
        steps.append(_step(root, number, name, _outputs(root, number, name, settings)))
    done, planned = count_labels(root, number, config.n_shards_at(number))
    return IterationStatus(number, tuple(steps), done, planned)


def _is_planned(name: str, config: Config) -> bool:
    """Whether the loop has this step: not all have data to begin with."""
    checked = any(source.settings == "check" for source in config.data)
    return {"import_data": bool(config.data), "relabel_data": checked}.get(name, True)


def _outputs(root: Path, number: int, name: str, settings: Config) -> list[Path]:
    parts = {"label_structures": settings.n_shards_at(number), "explore_walkers": settings.n_walkers}.get(name, 1)
    return [output_path(root, name, SIGNS[name], iteration=number, shard=k, walker=k) for k in range(parts)]


def _step(root: Path, number: int, name: str, outputs: list[Path]) -> StepStatus:
    done = sum(path.exists() for path in outputs)
    if done == len(outputs):
        return StepStatus(name, "done", done, len(outputs))
    logs = _logs(root, number, name)
    for log in logs:
        message = error_in(log)
        if message and not _output_of(log, outputs).exists():
            return StepStatus(name, "failed", done, len(outputs), message)
    return StepStatus(name, "started" if done or logs else "waiting", done, len(outputs))


def _logs(root: Path, number: int, name: str) -> list[Path]:
    return sorted(log_folder(root, None if name in SHARED else number).glob(f"{name}*.log"))


def _output_of(log: Path, outputs: list[Path]) -> Path:
    """The output that a job's log belongs to: ``label_structures-003.log`` to ``shard_003.json``."""
    part = log.stem.partition("-")[2]
    return next((path for path in outputs if part and path.stem.endswith(f"_{part}")), outputs[0])


def _next_steps(root: Path, iteration: IterationStatus, ended: bool) -> tuple[str, ...]:
    if not ended:
        return tuple(step.name for step in iteration.steps if step.state != "done")[:2]
    outputs = {"deploy_potential": "potential.json", "report_system": "report.html"}
    return tuple(step for step, name in outputs.items() if not output_path(root, step, name).exists())


# Progress ----------------------------------------------------------------------------------------


def _find_stop(
    config: Config, iterations: tuple[IterationStatus, ...], assessments: list[dict[str, Any]]
) -> tuple[int | None, str | None]:
    for entry, assessment in zip(iterations, assessments, strict=True):
        if not entry.finished:  # also when an earlier run had ended: something is being done again
            break
        if assessment.get("stop") is True:
            return entry.number, str(assessment.get("reason") or "stopped")
    if all(entry.finished for entry in iterations):
        return iterations[-1].number, f"iteration limit: all {config.max_iterations} iterations used"
    return None, None


def _with_errors(iteration: IterationStatus, assessment: dict[str, Any]) -> IterationStatus:
    error = choose_of_assessments([assessment])
    uncertainty = _uncertainty([assessment])
    return replace(iteration, force_rmse=error.rmse if error else None, uncertainty=uncertainty)


def _uncertainty(assessments: list[dict[str, Any]]) -> float | None:
    """Latest mean force uncertainty of the exploration, eV/Å."""
    found = (number_or_none(mapping(entry, "exploration").get("mean_uncertainty")) for entry in reversed(assessments))
    return next((value for value in found if value is not None), None)


def _forecast(config: Config, root: Path, iteration: IterationStatus, now: float) -> float | None:
    """Seconds left at most, from the time that finished iterations took.

    The first iteration labels other structures than the later ones, so it counts only as long
    as it is the only one. The median keeps a break between two runs out. Before any iteration
    is finished, the rate of its labels stands for everything.
    """
    current = iteration.number
    ends = [modified(candidates_path(root, 0))]
    ends += [modified(assessment_path(root, number)) for number in range(current)]
    spans = [b - a for a, b in pairwise(ends) if a is not None and b is not None and b > a]
    if not spans:
        return _forecast_from_labels(config, iteration, ends[0], now)
    spans = sorted(spans[1:] or spans)
    typical = spans[len(spans) // 2]
    began = ends[-1] if ends[-1] is not None else now
    return max(0.0, typical * (config.max_iterations - current) - min(max(0.0, now - began), typical))


def _forecast_from_labels(config: Config, iteration: IterationStatus, began: float | None, now: float) -> float | None:
    if began is None or not 0 < iteration.labels_done < iteration.labels_planned or now <= began:
        return None
    if (now - began) / iteration.labels_done < CHEAP_LABEL:
        return None
    later = sum(config.at_iteration(number).select.n_structures for number in range(config.max_iterations - 1))
    return (now - began) / iteration.labels_done * (max(0, iteration.labels_planned - iteration.labels_done) + later)
