"""Jobs and costs of a running loop, from the attempts that jobs note and, where it answers, Slurm's queue."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlip.config.system import Config
from mlip.jobs.attempts import Attempt, read_attempts
from mlip.jobs.ledger import Cost, Ledger, forecast_iteration, read_ledger
from mlip.jobs.processes import is_alive
from mlip.jobs.slurm.comments import job_of
from mlip.jobs.slurm.queue import QueuedJob

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


@dataclass(frozen=True)
class JobCounts:
    """How many jobs are where; failed ones are those whose last attempt failed.

    Attributes:
        queued: None without a queue to look into.
        failed_attempts: also of jobs that have succeeded since.
    """

    queued: int | None
    running: int
    failed: int
    failed_attempts: int


@dataclass(frozen=True)
class Spending:
    """What the loop has cost until now, and at most will.

    Attributes:
        to_come: as if no iteration left converged; None before the first one is finished.
        by_study: beside the total, which is the loop's.
    """

    total: Cost
    by_iteration: dict[int, Cost]
    to_come: Cost | None
    by_study: dict[str, Cost] = field(default_factory=dict)


def read_costs(
    config: Config,
    root: Path,
    *,
    current: int,
    n_labels: int,
    ended: bool,
    queue: Sequence[QueuedJob] | None,
    now: float,
) -> tuple[JobCounts, Spending]:
    """Jobs and costs of the loop.

    Args:
        config: Configuration of the system.
        root: ``results/<system>``.
        current: Iteration under way.
        n_labels: Labels that it plans.
        ended: Whether the loop has ended.
        queue: The loop's jobs in Slurm's queue; None where there is none.
        now: Time in seconds since the epoch.
    """
    attempts = read_attempts(root)
    running = [attempt for attempt in attempts if attempt.state == "open" and is_running(attempt, queue)]
    ledger = read_ledger(root, attempts)
    costs = {number: _of_iteration(ledger, number) for number in ledger.iterations if number is not None}
    total, studies = ledger.total(), ledger.studies
    for attempt in running:
        silence = max(0.0, now - attempt.began - attempt.seconds)  # since the last line in its log
        more = Cost(silence * attempt.cores, silence * attempt.gpus)
        if attempt.study:
            studies[attempt.study] = studies.get(attempt.study, Cost()) + more
            continue
        total += more
        if attempt.iteration is not None:
            costs[attempt.iteration] = costs.get(attempt.iteration, Cost()) + more
    to_come = None
    if current > 0 and not ended:
        each = forecast_iteration(root, ledger, current - 1, n_labels)
        to_come = _less(each.times(config.max_iterations - current), costs.get(current, Cost()), each)
    return _count_jobs(config.system, attempts, running, queue), Spending(total, costs, to_come, studies)


def _of_iteration(ledger: Ledger, number: int) -> Cost:
    return sum((entry.cost for entry in ledger.entries if entry.iteration == number), Cost())


def _less(cost: Cost, spent: Cost, each: Cost) -> Cost:
    """``cost`` without what the iteration under way, expected to cost ``each``, has spent of it."""
    return Cost(
        cost.core_seconds - min(spent.core_seconds, each.core_seconds),
        cost.gpu_seconds - min(spent.gpu_seconds, each.gpu_seconds),
    )


def is_running(attempt: Attempt, queue: Sequence[QueuedJob] | None) -> bool:
    """Whether an attempt without an end still runs: Slurm knows, or the process is looked for on this machine.

    Of another machine's nothing is known, so it is believed.
    """
    if attempt.slurm_job and queue is not None:
        return attempt.slurm_job in {job.id for job in queue}
    if attempt.host != socket.gethostname():
        return True
    return is_alive(attempt.pid)


def _count_jobs(
    system: str, attempts: Sequence[Attempt], running: Sequence[Attempt], queue: Sequence[QueuedJob] | None
) -> JobCounts:
    last = {attempt.job: attempt for attempt in attempts}
    alive = {attempt.job for attempt in running} | {job_of(job.comment, system) for job in queue or ()}
    failed = [a for a in attempts if a.state in ("failed", "lost") or (a.state == "open" and a not in running)]
    local = sum(attempt.slurm_job not in {job.id for job in queue or ()} for attempt in running)
    waiting = None if queue is None else sum(job.state in WAITING for job in queue)
    return JobCounts(
        queued=waiting,
        running=local + len(queue or ()) - (waiting or 0),
        failed=sum(attempt in failed and job not in alive for job, attempt in last.items()),
        failed_attempts=len(failed),
    )
