"""Every attempt of every job, noted beside the results when it starts and when it ends.

Snakemake's benchmark files know the last success of a job alone: a job that failed, was killed
or is done again leaves nothing there. So each job keeps a list of its attempts under
``results/<system>/ledger/``, one small file a job, two lines of JSON an attempt. It is no output
of any rule: nothing deletes it and it is no reason to run anything. An attempt that was killed
ends with the last sign of life in its log, and where Slurm keeps accounts, with those
(:mod:`mlip.jobs.ledger`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlip.io.layout import Job, attempts_path, find_attempts, job_at, log_of_attempts

AttemptState = Literal["done", "failed", "lost", "open"]


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job. Times in seconds since the epoch.

    Attributes:
        iteration: None for steps that belong to no iteration.
        part: shard or walker, in a study after the round (``01-000``); empty where a step is one job.
        seconds: how long it took; for one that is open or lost, up to its last sign of life.
        study: the study whose step it is; empty for the loop's own.
        slurm_job: number of the Slurm job that it ran in, which may be the one that Snakemake itself was started in.
    """

    step: str
    iteration: int | None
    part: str
    began: float
    cores: int
    gpus: int
    seconds: float
    state: AttemptState
    host: str = ""
    pid: int = 0
    study: str = ""
    slurm_job: str = ""

    @property
    def job(self) -> Job:
        """What it is an attempt of."""
        return Job(self.iteration, self.step, self.part, self.study)


@contextlib.contextmanager
def note_attempt(log: Path, threads: int, resources: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Note the attempt that runs inside the context; enter it before the log is opened.

    Args:
        log: The job's log.
        threads: Its threads.
        resources: Its Snakemake resources: Slurm's tasks and CPUs, GPUs.

    A note that cannot be written, on a full disk say, is left out: it stops no calculation.
    """
    path = attempts_path(log)
    if path is None:
        yield
        return
    resources = resources or {}
    cores, gpus = count_cores(threads, resources), _count_gpus(resources)
    _close_lost(path)
    began = time.monotonic()
    start = {"event": "start", "time": time.time(), "cores": cores, "gpus": gpus}
    _append(path, start | {"host": socket.gethostname(), "pid": os.getpid()} | _slurm())
    done = False
    try:
        yield
        done = True
    finally:
        end = {"event": "end", "seconds": round(time.monotonic() - began, 3), "ok": done}
        _append(path, end | {"gpus": max(gpus, _gpus_in_use())})


def count_cores(threads: int, resources: Mapping[str, Any]) -> int:
    """Cores of a job: its threads, or where it has MPI ranks (``tasks``), those; in Slurm, both multiplied."""
    tasks = int(resources.get("tasks") or 1)
    if _slurm():
        return tasks * int(resources.get("cpus_per_task") or threads)
    return max(threads, tasks)


def _count_gpus(resources: Mapping[str, Any]) -> int:
    from mlip.jobs.resources import count_gpus

    return count_gpus(resources)


def _gpus_in_use() -> int:
    """1 where this process has used a GPU that no resource asked for, as on a workstation."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return int(cuda is not None and cuda.is_initialized())


def _slurm() -> dict[str, str]:
    identity = os.environ.get("SLURM_JOB_ID")
    return {"slurm_job": identity} if identity else {}


def _close_lost(path: Path) -> None:
    """Give an earlier attempt that never ended the time of the last line in its log, soon overwritten."""
    earlier = read_attempts_of(path)
    if earlier and earlier[-1].state == "open":
        _append(path, {"event": "lost", "seconds": round(earlier[-1].seconds, 3)})


def _append(path: Path, event: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as stream:
            whole = True
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                whole = stream.read() == b"\n"
            # A line that an earlier attempt left half-written spoils no other.
            stream.write((b"" if whole else b"\n") + json.dumps(event).encode() + b"\n")


# Reading ------------------------------------------------------------------------------------------


def read_attempts(root: Path) -> list[Attempt]:
    """Every attempt noted under ``root`` (``results/<system>``), job by job, in their order."""
    return [attempt for path in find_attempts(root) for attempt in read_attempts_of(path)]


def read_attempts_of(path: Path) -> list[Attempt]:
    """The attempts of one job; lines that are damaged are left out, and one without an end is ``open``."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    job = job_at(path)
    attempts: list[Attempt] = []
    for event in filter(None, map(_event, lines)):
        if event.get("event") == "start":
            attempts.append(_started(event, job))
        elif attempts and attempts[-1].state == "open":
            attempts[-1] = _ended(attempts[-1], event)
    if attempts and attempts[-1].state == "open":
        attempts[-1] = replace(attempts[-1], seconds=_sign_of_life(log_of_attempts(path), attempts[-1].began))
    return attempts


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _started(event: dict[str, Any], job: Job) -> Attempt:
    return Attempt(
        **job._asdict(),
        began=_number(event.get("time")),
        cores=int(_number(event.get("cores"))) or 1,
        gpus=int(_number(event.get("gpus"))),
        seconds=0.0,
        state="open",
        host=str(event.get("host", "")),
        pid=int(_number(event.get("pid"))),
        slurm_job=str(event.get("slurm_job", "")),
    )


def _ended(attempt: Attempt, event: dict[str, Any]) -> Attempt:
    state: AttemptState = "lost" if event.get("event") == "lost" else "done" if event.get("ok") is True else "failed"
    gpus = max(attempt.gpus, int(_number(event.get("gpus"))))
    return replace(attempt, seconds=_number(event.get("seconds")), state=state, gpus=gpus)


def _number(value: Any) -> float:
    """``value`` where it is a number that makes sense here, else 0."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
    return float(value) if usable else 0.0


def _sign_of_life(log: Path, began: float) -> float:
    """Seconds from ``began`` to the last line in the log."""
    try:
        return max(0.0, log.stat().st_mtime - began)
    except OSError:
        return 0.0
