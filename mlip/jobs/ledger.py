"""What a loop has cost: core-seconds and GPU-seconds of every step and iteration.

A job costs the cores and GPUs that it holds, for as long as it holds them, whether it uses them
or not, and in failed attempts too. Three sources, each a file beside the results, are joined:

- the attempts that jobs note themselves (:mod:`mlip.jobs.attempts`);
- Snakemake's benchmark of the last success, which also covers the start of the process, and is
  all there is for jobs that noted nothing;
- Slurm's accounts, where sacct works: they know what a killed job took, and whole nodes given
  for a few cores. They are kept in ``ledger/slurm.json``, for sacct forgets.

Nothing is spent twice: a label found in the store costs nothing again, and a step that is run
again adds to what it has cost before.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlip.io.files import write_json
from mlip.io.layout import ONCE, STEPS, Job, accounts_path, benchmark_path, find_benchmarks, ledger_path, shard_paths
from mlip.io.partial import number_or_none, read_benchmark, read_object, records_of
from mlip.jobs.attempts import Attempt, AttemptState, read_attempts
from mlip.jobs.slurm.comments import job_of
from mlip.jobs.slurm.queue import JobAccount, find_runs, read_accounts

DAY = 86400.0
UNKNOWN = "other jobs"
"""Slurm jobs of this loop that ended before they could say what they were."""


@dataclass(frozen=True)
class Cost:
    """An amount of computing time."""

    core_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.core_seconds + other.core_seconds, self.gpu_seconds + other.gpu_seconds)

    def times(self, factor: float) -> Cost:
        """This amount ``factor`` times."""
        return Cost(self.core_seconds * factor, self.gpu_seconds * factor)

    @property
    def core_hours(self) -> float:
        """Core-hours."""
        return self.core_seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """GPU-hours."""
        return self.gpu_seconds / 3600


@dataclass(frozen=True)
class Entry:
    """The cost of one attempt of a job."""

    job: Job
    state: AttemptState
    cost: Cost
    seconds: float
    cores: int

    @property
    def iteration(self) -> int | None:
        """Of the job."""
        return self.job.iteration

    @property
    def step(self) -> str:
        """Of the job."""
        return self.job.step

    @property
    def part(self) -> str:
        """Of the job."""
        return self.job.part


@dataclass(frozen=True)
class Ledger:
    """The costs of a loop, attempt by attempt, and beside them those of its studies.

    Attributes:
        of_studies: not in any of the loop's sums: a study is asked for apart, and no budget ends it.
    """

    entries: tuple[Entry, ...]
    of_studies: tuple[Entry, ...] = ()

    def total(self, last: int | None = None) -> Cost:
        """All that the loop has spent, or only up to iteration ``last``."""
        return _sum(e.cost for e in self.entries if last is None or e.iteration is None or e.iteration <= last)

    @property
    def studies(self) -> dict[str, Cost]:
        """What each study has cost."""
        names = sorted({entry.job.study for entry in self.of_studies})
        return {name: _sum(e.cost for e in self.of_studies if e.job.study == name) for name in names}

    def of_iteration(self, iteration: int | None) -> dict[str, dict[str, Any]]:
        """Core-seconds, GPU-seconds, attempts, and the part of them that failed, by step."""
        return self._by_step(entry for entry in self.entries if entry.iteration == iteration)

    def by_step(self) -> dict[str, dict[str, Any]]:
        """The same over all iterations."""
        return self._by_step(self.entries)

    def of_study(self, name: str) -> dict[str, dict[str, Any]]:
        """The same for the steps of a study."""
        return self._by_step(entry for entry in self.of_studies if entry.job.study == name)

    @property
    def iterations(self) -> list[int | None]:
        """Iterations that cost something; None, for what belongs to none of them, comes first."""
        return sorted({e.iteration for e in self.entries}, key=lambda number: -1 if number is None else number)

    def _by_step(self, entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
        steps: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            steps[entry.step].append(entry)
        names = [name for name in STEPS if name in steps] + sorted(set(steps) - set(STEPS))
        return {name: _row(steps[name]) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """The content of ``ledger.json``; see docs/design.md."""
        total = self.total()
        return {
            "core_seconds": round(total.core_seconds, 3),
            "gpu_seconds": round(total.gpu_seconds, 3),
            "steps": self.by_step(),
            "iterations": [{"iteration": n, "steps": self.of_iteration(n)} for n in self.iterations],
            "studies": {name: self.of_study(name) for name in self.studies},
        }


def _sum(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def _row(entries: list[Entry]) -> dict[str, Any]:
    failed = [entry for entry in entries if entry.state in ("failed", "lost")]
    total, wasted = _sum(e.cost for e in entries), _sum(e.cost for e in failed)
    return {
        "core_seconds": round(total.core_seconds, 3),
        "gpu_seconds": round(total.gpu_seconds, 3),
        "attempts": len(entries),
        "failed": len(failed),
        "failed_core_seconds": round(wasted.core_seconds, 3),
        "failed_gpu_seconds": round(wasted.gpu_seconds, 3),
    }


def read_ledger(root: Path, attempts: list[Attempt] | None = None) -> Ledger:
    """What the files under ``root`` (``results/<system>``) say; damaged ones are left out.

    Args:
        root: Folder of the system.
        attempts: Those of :func:`mlip.jobs.attempts.read_attempts`, where they have been read already.
    """
    attempts = read_attempts(root) if attempts is None else attempts
    last = {attempt.job: number for number, attempt in enumerate(attempts)}
    entries = []
    for number, attempt in enumerate(attempts):
        if attempt.state == "done" and last[attempt.job] == number:
            attempt = _with_benchmark(root, attempt)
        cost = Cost(attempt.seconds * attempt.cores, attempt.seconds * attempt.gpus)
        entries.append(Entry(attempt.job, attempt.state, cost, attempt.seconds, attempt.cores))
    entries = _with_accounts(root, attempts, entries)
    entries += [_from_benchmark(path, job) for path, job in find_benchmarks(root) if job not in last]
    loop, studies = ([e for e in entries if bool(e.job.study) == beside] for beside in (False, True))
    return Ledger(tuple(loop), tuple(studies))


# Benchmark files -------------------------------------------------------------------------------


def _with_benchmark(root: Path, attempt: Attempt) -> Attempt:
    """Its benchmark's wall time, which begins a little earlier; one of an earlier run does not count."""
    path = benchmark_path(root, attempt.job)
    try:
        current = path.stat().st_mtime >= attempt.began
    except OSError:
        return attempt
    return replace(attempt, seconds=max(attempt.seconds, read_benchmark(path)[0])) if current else attempt


def _from_benchmark(path: Path, job: Job) -> Entry:
    """A job that noted no attempt; a benchmark tells no cores, so the CPU time it saw stands for them."""
    wall, cpu = read_benchmark(path)
    return Entry(job, "done", Cost(max(wall, cpu)), wall, 1)


# Slurm's accounts --------------------------------------------------------------------------------


def update_accounts(root: Path) -> bool:
    """Ask sacct about the loop's jobs and keep what it says; whether it answered (or nothing was to be asked)."""
    attempts = [attempt for attempt in read_attempts(root) if attempt.slurm_job]
    if not attempts:
        return True
    # A job waits in the queue before it begins, so a failed one may be older than any attempt.
    since = min(attempt.began for attempt in attempts) - 30 * DAY
    known = _read_accounts(root)
    listed = read_object(accounts_path(root)).get("runs")
    new = find_runs({attempt.slurm_job for attempt in attempts} - {job.id for job in known}, since)
    runs = (new or set()) | {str(name) for name in (listed if isinstance(listed, list) else [])}
    told = read_accounts(runs, since) if new is not None else None
    if told is None:
        return False
    kept = {f"{job.id} {job.start}": dataclasses.asdict(job) for job in [*known, *told]}
    write_json(accounts_path(root), {"runs": sorted(runs), "jobs": list(kept.values())})
    return True


def _read_accounts(root: Path) -> list[JobAccount]:
    listed = read_object(accounts_path(root)).get("jobs")
    jobs = []
    for row in listed if isinstance(listed, list) else []:
        if not isinstance(row, dict):
            continue
        numbers = [number_or_none(row.get(name)) for name in ("seconds", "cores", "gpus")]
        seconds, cores, gpus = (0.0 if number is None else number for number in numbers)
        identity, start, state, comment = (str(row.get(name, "")) for name in ("id", "start", "state", "comment"))
        jobs.append(JobAccount(identity, start, state, seconds, int(cores), int(gpus), comment))
    return jobs


def _with_accounts(root: Path, attempts: list[Attempt], entries: list[Entry]) -> list[Entry]:
    """The entries with what Slurm says beyond them: the last attempt of a Slurm job takes the difference."""
    accounts: dict[str, list[JobAccount]] = defaultdict(list)
    for account in _read_accounts(root):
        accounts[account.id].append(account)
    mine: dict[str, list[int]] = defaultdict(list)
    for number, attempt in enumerate(attempts):
        if attempt.slurm_job:
            mine[attempt.slurm_job].append(number)
    entries = list(entries)
    for identity, jobs in accounts.items():
        given = _sum(Cost(job.seconds * job.cores, job.seconds * job.gpus) for job in jobs)
        numbers = mine.get(identity)
        if numbers:
            noted = _sum(entries[number].cost for number in numbers)
            more = Cost(*(max(0.0, a - b) for a, b in zip(_pair(given), _pair(noted), strict=True)))
            entries[numbers[-1]] = replace(entries[numbers[-1]], cost=entries[numbers[-1]].cost + more)
        elif given.core_seconds > 0:
            job = job_of(jobs[-1].comment, root.name) or Job(None, UNKNOWN)
            entries.append(Entry(job, "lost", given, sum(j.seconds for j in jobs), jobs[-1].cores))
    return entries


def _pair(cost: Cost) -> tuple[float, float]:
    return cost.core_seconds, cost.gpu_seconds


# Forecast ----------------------------------------------------------------------------------------


def forecast_iteration(root: Path, ledger: Ledger, iteration: int, n_labels: int) -> Cost:
    """What the iteration after ``iteration`` will cost, if it labels ``n_labels`` structures and nothing fails.

    Labels cost what those of the latest iteration cost when they were computed, found in the
    store or not; every other step what it cost in ``iteration``.
    """
    others = _sum(e.cost for e in _last_successes(ledger, iteration) if e.step not in ("label_structures", *ONCE))
    return others + label_cost(root, ledger, iteration).times(n_labels)


def _last_successes(ledger: Ledger, iteration: int) -> list[Entry]:
    latest = {e.job: e for e in ledger.entries if e.iteration == iteration and e.state == "done"}
    return list(latest.values())


def label_cost(root: Path, ledger: Ledger, last: int) -> Cost:
    """Mean cost of a label in the latest iteration, up to ``last``, that has any."""
    for number in range(last, -1, -1):
        records = [r for path in shard_paths(root, number) for r in records_of(read_object(path))]
        if not records:
            continue
        jobs = [e for e in ledger.entries if (e.iteration, e.step) == (number, "label_structures")]
        cores = max((entry.cores for entry in jobs), default=1)
        gpus = max((e.cost.gpu_seconds / e.seconds for e in jobs if e.seconds), default=0.0)
        wall = sum(number_or_none(r.get("wall_seconds")) or 0.0 for r in records) / len(records)
        busy = sum(number_or_none(r.get("core_seconds")) or 0.0 for r in records) / len(records)
        return Cost(max(busy, wall * cores), wall * gpus)
    return Cost()


def write_ledger(root: Path) -> Ledger:
    """Write ``ledger.json``, after asking Slurm; it is derived from the other files and may be deleted."""
    update_accounts(root)
    ledger = read_ledger(root)
    write_json(ledger_path(root), ledger.as_dict())
    return ledger


def count_costs(root: Path, iteration: int, n_labels: int) -> tuple[Cost, Cost]:
    """What all iterations up to ``iteration`` have cost, and what the next one will if it labels ``n_labels``.

    Later iterations, which an earlier run went further with, do not count: their results are there to be used.
    Writes ``ledger.json``.
    """
    ledger = write_ledger(root)
    return ledger.total(iteration), forecast_iteration(root, ledger, iteration, n_labels)
