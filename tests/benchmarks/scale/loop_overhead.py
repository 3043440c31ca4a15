"""What Snakemake and the queue add to a loop: its wall time beside the time in which its jobs ran.

python tests/benchmarks/scale/loop_overhead.py results/copper

Reads a finished loop's benchmark files. It must have run in one go: a part from another day counts as waiting.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One job's rule, iteration (-1 before the first) and times, s."""

    rule: str
    iteration: int
    start: float
    end: float


def read_jobs(results: Path) -> list[Job]:
    """Jobs of the system below ``results``; a file is written when its job ends."""
    found = []
    for path in sorted([*results.glob("iter_*/benchmarks/*.tsv"), *results.glob("label_references/*.tsv")]):
        with path.open(encoding="utf-8") as stream:
            seconds = float(list(csv.DictReader(stream, delimiter="\t"))[-1]["s"])
        inside = path.parent.name == "benchmarks"
        rule = path.stem.partition("-")[0] if inside else "label_references"
        iteration = int(path.parent.parent.name[-2:]) if inside else -1
        end = path.stat().st_mtime
        found.append(Job(rule, iteration, end - seconds, end))
    return found


def busy_seconds(jobs: Iterable[Job]) -> float:
    """Time in which at least one job ran."""
    total, until = 0.0, float("-inf")
    for job in sorted(jobs, key=lambda job: job.start):
        total += max(0.0, job.end - max(job.start, until))
        until = max(until, job.end)
    return total


def critical_seconds(jobs: Iterable[Job]) -> float:
    """The longest job of each step of each iteration, one after the other: steps wait for each other."""
    longest: dict[tuple[str, int], float] = {}
    for job in jobs:
        if job.iteration >= 0:
            key = (job.rule, job.iteration)
            longest[key] = max(longest.get(key, 0.0), job.end - job.start)
    return sum(longest.values())


def measure_overhead(results: Path) -> dict[str, float]:
    """Wall time from the first job to the report, and what of it no job explains.

    Raises:
        ValueError: when the loop has not finished.
    """
    jobs, report = read_jobs(results), results / "summary.json"
    if not jobs or not report.is_file():
        raise ValueError(f"{results}: no finished loop; run it to its report first")
    wall = report.stat().st_mtime - min(job.start for job in jobs)
    # Several jobs of a step take turns where there are fewer cores than jobs: no fault of Snakemake's.
    return {
        "jobs": len(jobs),
        "iterations": 1 + max(job.iteration for job in jobs),
        "wall_seconds": wall,
        "critical_seconds": critical_seconds(jobs),
        "busy_seconds": busy_seconds(jobs),
        "beside_critical_path_seconds": wall - critical_seconds(jobs),
        "no_job_seconds": wall - busy_seconds(jobs),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results/<system> of a finished loop")
    parser.add_argument("--out", type=Path, help="JSON to write; default: print")
    options = parser.parse_args()
    text = json.dumps(measure_overhead(options.results), indent=1) + "\n"
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
