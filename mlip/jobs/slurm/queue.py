"""What Slurm says of jobs: those in the queue, and what finished ones were given.

Every question has a time limit, and no answer is None, never an error: accounting may be down,
and most machines have no Slurm.
"""

from __future__ import annotations

import datetime
import getpass
import re
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mlip.jobs.slurm.comments import job_of

TIMEOUT = 15.0
"""Seconds after which Slurm is taken to be away."""


RUN_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
"""End of the names of jobs that Snakemake submits: a name for each run of Snakemake."""
SACCT = ("--noheader", "--parsable2", "--allocations", "--duplicates")
AT_ONCE = 500
"""Jobs asked for at once: a command line has its limits."""


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue.

    Attributes:
        state: ``PENDING``, ``RUNNING``, … as squeue says it.
    """

    id: str
    state: str
    comment: str


@dataclass(frozen=True)
class JobAccount:
    """What a job was given; a job that Slurm queued again has one of these per start."""

    id: str
    start: str
    state: str
    seconds: float
    cores: int
    gpus: int
    comment: str


def read_queue(folder: Path, system: str, known: Collection[str] = ()) -> list[QueuedJob] | None:
    """Jobs in the queue that belong to a loop; None where squeue does not answer.

    Args:
        folder: Working directory of the loop; jobs that Snakemake submitted from there are its own.
        system: Its system.
        known: Numbers of jobs that are known to be the loop's, wherever they were submitted.
    """
    lines = _ask("squeue", "--noheader", "--user", _user(), "--format=%A|%T|%j|%Z|%k")
    if lines is None:
        return None
    here, jobs = folder.resolve(), []
    for identity, state, name, place, comment in (line.split("|", 4) for line in lines if line.count("|") >= 4):
        ours = job_of(comment, system) is not None or not comment.startswith("rule_")
        if identity in known or (ours and RUN_NAME.search(name) and Path(place) == here):
            jobs.append(QueuedJob(identity, state, comment))
    return jobs


def find_runs(jobs: Collection[str], since: float) -> set[str] | None:
    """Names of the runs of Snakemake that submitted these jobs; None where sacct does not answer.

    All jobs of a run have its name. One of another name is the job that Snakemake was started
    in, and left out.

    Args:
        jobs: Numbers of the jobs.
        since: Seconds since the epoch; what ended before is not looked for.
    """
    names: set[str] = set()
    ordered = sorted(jobs)
    for first in range(0, len(ordered), AT_ONCE):
        chosen = ",".join(ordered[first : first + AT_ONCE])
        lines = _ask("sacct", *SACCT, "--format=JobName%100", _start(since), f"--jobs={chosen}")
        if lines is None:
            return None
        names.update(filter(RUN_NAME.search, map(str.strip, lines)))
    return names


def read_accounts(runs: Collection[str], since: float) -> list[JobAccount] | None:
    """What all jobs of these runs were given, also those that ended before they could say anything; None as above."""
    if not runs:
        return []
    what = "JobIDRaw,Start,State,ElapsedRaw,AllocCPUS,AllocTRES,Comment"
    lines = _ask("sacct", *SACCT, f"--format={what}", _start(since), f"--name={','.join(sorted(runs))}")
    return None if lines is None else [account for account in map(_account, lines) if account is not None]


def _start(since: float) -> str:
    """sacct takes the local time."""
    local = datetime.datetime.fromtimestamp(since, tz=datetime.UTC).astimezone()
    return f"--starttime={local.strftime('%Y-%m-%dT%H:%M:%S')}"


def _account(line: str) -> JobAccount | None:
    fields = line.split("|", 6)
    if len(fields) < 7 or not (fields[3].isdigit() and fields[4].isdigit()):
        return None
    identity, start, state, seconds, cores, granted, comment = fields
    word = state.split()[0] if state else "UNKNOWN"  # "CANCELLED by 0"
    return JobAccount(identity, start, word, float(seconds), int(cores), _gpus_in(granted), comment)


def _gpus_in(granted: str) -> int:
    """GPUs in sacct's AllocTRES, which lists them in all and by type: ``gres/gpu=2,gres/gpu:a100=2``."""
    total = re.search(r"\bgres/gpu=(\d+)", granted)
    return int(total.group(1)) if total else sum(map(int, re.findall(r"\bgres/gpu:[^=,]+=(\d+)", granted)))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without the user's name
        return "root"


def _ask(program: str, *arguments: str) -> list[str] | None:
    """The lines that a program prints; None where it is missing, fails or takes too long."""
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None
