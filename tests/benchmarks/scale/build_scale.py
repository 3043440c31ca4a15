"""Tables and a picture of how the loop scales, from the records of finished measurements.

python tests/benchmarks/scale/build_scale.py --results results/benchmarks/scale [--update-docs docs]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT)]

from mlip.report.drawing import BLUE, GREEN, INK, ORANGE, Panel, Picture, limit_line, png  # noqa: E402

Record = dict[str, Any]
MINUTE = 60.0  # s, the label that overheads are told for
MOST = 5.0  # per cent of it that labels may cost beside themselves at 64 slots


def lost_seconds(record: Record) -> float:
    """Wall time that the labels' own does not explain. It does not depend on how long a label takes."""
    return record["wall_seconds"] - record["ideal_seconds"]


def rounds(record: Record) -> int:
    """Labels that a slot computes one after the other."""
    return -(-record["labels"] // record["slots"])


def measured_overhead(record: Record) -> float:
    """Per cent that the measured losses would add to labels of a minute."""
    return 100 * lost_seconds(record) / (MINUTE * rounds(record))


POLLING = 20.0
"""Seconds between two looks at the queue in the shipped profile: the longest that a job's end goes unnoticed."""


def seconds_without_waiting(record: Record) -> float:
    """Wall time that a run would have taken had every process got a core whenever it wanted one, s.

    The kernel says how long each process was ready and had none. Jobs are submitted one after the other,
    so what the driver and its commands waited is shared out among the submissions, of which none
    becomes shorter than their CPU time. What Slurm's own daemons and srun waited is not known, and stays in.
    """
    driver = sum(role["waited"] for role in record["usage"].get("none", {}).values())
    busy = record["driver"]["cpu_seconds"] + record["driver"]["command_cpu_seconds"]
    ends = []
    for place, job in enumerate(sorted(record["times"], key=lambda job: job["submit"]), start=1):
        share = place / len(record["times"])
        own = sum(role["waited"] for role in record["usage"].get(job.get("job"), {}).values())
        submitted = max(job["submit"] - job["begun"] - driver * share, busy * share)
        ends.append(submitted + job["end"] - job["submit"] - own)
    return max(ends) + record["phases"]["after_last_job"]


def overhead_without_waiting(record: Record) -> float:
    """Per cent that the loss of such a run would add to labels of a minute."""
    return 100 * (seconds_without_waiting(record) - record["ideal_seconds"]) / (MINUTE * rounds(record))


def cluster_overhead(slots: int, labels: int, costs: dict[str, float]) -> tuple[float, float]:
    """Per cent that a slot loses of labels of a minute on a cluster with a core for each slot; one job a slot.

    First with the end of the last job noticed at once, then as late as can be.
    """
    in_a_row = -(-labels // slots)
    lost = costs["driver"] + slots * costs["driver_job"] + costs["slurm_job"] + costs["job_cpu_seconds"]
    lost += in_a_row * costs["label_cpu_seconds"]
    wave = MINUTE * in_a_row
    return 100 * lost / wave, 100 * (lost + POLLING) / wave


def cluster_table(costs: dict[str, float]) -> str:
    """Slots and labels of the issue, on a cluster."""
    rows = ["| slots | labels | labels a slot | noticed at once | noticed as late as can be |", "|---" * 5 + "|"]
    for labels in (1000, 10_000):
        for slots in (1, 4, 16, 64):
            best, worst = cluster_overhead(slots, labels, costs)
            rows.append(f"| {slots} | {labels} | {-(-labels // slots)} | {best:.2f} % | {worst:.2f} % |")
    return "\n".join(rows)


def fit_driver(records: list[Record]) -> dict[str, float]:
    """CPU seconds of the driver with its commands, at all and for each job: from runs on Slurm, where there are two."""
    own = [r for r in records if r["executor"] == "slurm"] or records
    points = sorted({r["jobs"]: r["driver"]["cpu_seconds"] + r["driver"]["command_cpu_seconds"] for r in own}.items())
    if len(points) < 2 or own is records:
        points = sorted({r["jobs"]: r["driver"]["cpu_seconds"] for r in records}.items())
    fit = statistics.linear_regression(*zip(*points, strict=True))
    return {"driver": fit.intercept, "driver_job": max(0.0, fit.slope)}  # below what can be told


def fit_costs(records: list[Record]) -> dict[str, float]:
    """CPU seconds of a job and of a label in it: least squares of relative errors over all jobs."""
    points = [(1 / cpu, r["labels"] / r["jobs"] / cpu) for r in records for cpu in r["job_cpu_seconds"]]
    (job, label), *_ = np.linalg.lstsq(np.array(points), np.ones(len(points)))
    return {"job_cpu_seconds": float(job), "label_cpu_seconds": float(label)}


def snakemakes_seconds(records: list[Record]) -> float:
    """CPU seconds of the two Snakemakes in which a Slurm job runs: the mean of all jobs."""
    jobs = [roles for r in records for job, roles in r["usage"].items() if job != "none" and r["executor"] == "slurm"]
    roles = ("outer snakemake", "inner snakemake")
    return statistics.fmean(sum(job[role]["cpu"] for role in roles if role in job) for job in jobs)


def scale_table(records: list[Record]) -> str:
    """One row a run."""
    rows = [
        (
            "| executor | slots | labels | jobs | a label, s | ideal, s | wall, s | labels/s | driver MB | driver CPU s"
            " | core share | overhead at 60 s | of that not the wait for a core |"
        ),
        "|---" * 13 + "|",
    ]
    for r in records:
        driver = r["driver"]
        cells = [r["executor"], r["slots"], r["labels"], r["jobs"], f"{r['label_seconds']:.3f}"]
        cells += [f"{r['ideal_seconds']:.0f}", f"{r['wall_seconds']:.0f}", f"{r['labels'] / r['wall_seconds']:.1f}"]
        cells += [f"{driver['peak_mb']:.0f}", f"{driver['cpu_seconds']:.1f}", f"{driver['core_share']:.2f}"]
        cells += [f"{measured_overhead(r):.2f} %"]
        cells += [f"{overhead_without_waiting(r):.2f} %" if r["executor"] == "slurm" else "–"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def phase_table(records: list[Record]) -> str:
    """Where the time beside the labels went."""
    rows = [
        (
            "| executor | slots | labels | jobs | before the first job | submitting | a job's start | of a label |"
            " a job's end | after the last job |"
        ),
        "|---" * 10 + "|",
    ]
    for r in records:
        cells: list[object] = [r["executor"], r["slots"], r["labels"], r["jobs"]]
        cells += [f"{r['phases'][name]:.1f} s" for name in ("before_first_job", "submitting")]
        cells += [f"{statistics.fmean(r['job_start_seconds']):.1f} s"]
        cells += [f"{1e3 * statistics.fmean(r['label_overhead_seconds']):.0f} ms"]
        cells += [f"{statistics.fmean(r['job_end_seconds']):.1f} s", f"{r['phases']['after_last_job']:.1f} s"]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def usage_table(records: list[Record]) -> str:
    """What the processes of a Slurm job took, and how long they waited for a core."""
    rows = ["| slots | labels | a label, s | process | CPU, s | waited for a core, s |", "|---" * 6 + "|"]
    for r in (r for r in records if r["executor"] == "slurm"):
        jobs = [roles for job, roles in r["usage"].items() if job != "none"]
        for role in ("outer snakemake", "inner snakemake", "step", "calculator"):
            found = [roles[role] for roles in jobs if role in roles]
            cells = [r["slots"], r["labels"], f"{r['label_seconds']:.3g}", role]
            cells += [f"{statistics.fmean(entry[what] for entry in found):.1f}" for what in ("cpu", "waited")]
            rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def minute_sentence(records: list[Record]) -> str:
    """The run whose labels really take a minute, in words."""
    r = next((r for r in records if r["label_seconds"] == MINUTE), None)
    if r is None:
        return "No run with labels that really take a minute has been measured."
    looks = r["requests"].get("REQUEST_JOB_INFO", {"count": 0, "seconds": 0.0})
    start, end = statistics.fmean(r["job_start_seconds"]), r["phases"]["after_last_job"]
    return (
        f"Measured on a real Slurm: {r['labels']} labels that really sleep for a minute, {r['jobs']} jobs on"
        f" {r['slots']} slots, took {r['wall_seconds']:.0f} s where the labels alone take {r['ideal_seconds']:.0f} s,"
        f"\n  an overhead of {measured_overhead(r):.1f} %. All jobs start together on {r['cores']} cores, which others"
        f" used too: from a job's start to its first label it took {start:.0f} s.\n  Without the time in which its"
        " processes were ready and had no core, which the kernel counts, the run takes"
        f" {seconds_without_waiting(r):.0f} s, an overhead of {overhead_without_waiting(r):.1f} %;\n  {end:.0f} s of"
        f" it passed after the last job's end. slurmctld answered {looks['count']:.0f} questions after jobs, in"
        f" {1e3 * looks['seconds']:.1f} ms each."
    )


def plan_table(plans: list[Record]) -> str:
    """Planning against its limits."""
    rows = ["| iterations | label jobs an iteration | wall, s | CPU, s | memory, MB | limit, s |", "|---" * 6 + "|"]
    for p in plans:
        limit = "–" if p["limit_seconds"] is None else f"{p['limit_seconds']:.0f}"
        cells = [p["iterations"], p["shards"], f"{p['wall_seconds']:.1f}", f"{p['cpu_seconds']:.1f}"]
        rows.append("| " + " | ".join(map(str, [*cells, f"{p['peak_mb']:.0f}", limit])) + " |")
    return "\n".join(rows)


def loop_table(loops: dict[str, Record]) -> str:
    """Whole loops."""
    rows = [
        "| loop | iterations | jobs | wall, s | longest jobs one after the other, s | no job ran, s |",
        "|---" * 6 + "|",
    ]
    for name, r in loops.items():
        cells = [name, r["iterations"], r["jobs"], f"{r['wall_seconds']:.0f}", f"{r['critical_seconds']:.0f}"]
        rows.append("| " + " | ".join(map(str, [*cells, f"{r['no_job_seconds']:.0f}"])) + " |")
    return "\n".join(rows)


def draw_overhead(axes: Axes, records: list[Record], costs: dict[str, float]) -> None:
    """Overhead of labels of a minute against slots."""
    for labels, colour in ((1000, BLUE), (10_000, ORANGE)):
        own = [r for r in records if r["labels"] == labels and r["jobs"] == r["slots"]]
        for executor, marker in (("local", "o"), ("slurm", "s")):
            chosen = sorted((r for r in own if r["executor"] == executor), key=lambda r: r["slots"])
            chosen = [r for r in chosen if not r["minute"]]
            if not chosen:
                continue
            slots = [r["slots"] for r in chosen]
            name = f"{labels} labels, {executor}"
            axes.plot(slots, [measured_overhead(r) for r in chosen], marker=marker, color=colour, label=name)
        slots = [1, 4, 16, 64]
        axes.plot(slots, [cluster_overhead(s, labels, costs)[1] for s in slots], color=colour, linestyle=":")
    limit_line(axes, MOST, "5 %")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("slots")
    axes.set_ylabel("overhead of a label of 60 s, %")
    axes.legend()


def draw_throughput(axes: Axes, records: list[Record]) -> None:
    """Labels a second against slots, beside what labels without any overhead would give."""
    for executor, colour in (("local", BLUE), ("slurm", GREEN)):
        chosen = [r for r in records if r["executor"] == executor and r["labels"] == 1000 and r["jobs"] == r["slots"]]
        chosen = [r for r in chosen if not r["minute"]]
        chosen.sort(key=lambda r: r["slots"])
        if chosen:
            axes.plot([r["slots"] for r in chosen], [60 * r["slots"] / (MINUTE * (1 + measured_overhead(r) / 100))
                      for r in chosen], marker="o", color=colour, label=executor)  # fmt: skip
    axes.plot([1, 64], [1, 64], color=INK, linewidth=0.8, label="ideal")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("slots")
    axes.set_ylabel("labels of 60 s a minute, 1000 labels")
    axes.legend()


def build(results: Path, report: Path) -> str:
    """The page; the picture goes into ``report``."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (results / "runs").glob("*.json")]
    records.sort(key=lambda r: (r["executor"], r["labels"], r["slots"], r["jobs"], r["label_seconds"]))
    costs = fit_costs([r for r in records if not r["minute"]])
    costs |= fit_driver(records)
    plan = json.loads((results / "plan.json").read_text(encoding="utf-8"))
    costs["slurm_job"] = snakemakes_seconds(records)
    loops = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((results / "loops").glob("*.json"))}
    panels = [
        Panel("Overhead", "", partial(draw_overhead, records=records, costs=costs)),
        Panel("Throughput", "", partial(draw_throughput, records=records)),
    ]
    png(Picture("scale", "", "", tuple(panels)), report / "images" / "scale.png")
    text = (Path(__file__).parent / "scale.md").read_text(encoding="utf-8")
    values = {
        "scale_table": scale_table(records),
        "phase_table": phase_table(records),
        "usage_table": usage_table(records),
        "minute": minute_sentence(records),
        "plan_table": plan_table(plan["plans"]),
        "loop_table": loop_table(loops) if loops else "No loop was measured.",
        "job_cpu": f"{costs['job_cpu_seconds']:.1f}",
        "label_cpu": f"{1e3 * costs['label_cpu_seconds']:.0f}",
        "label_share": f"{100 * costs['label_cpu_seconds'] / MINUTE:.2f}",
        "cluster_table": cluster_table(costs),
        "driver": f"{costs['driver']:.1f}",
        "driver_job": f"{costs['driver_job']:.2f}",
        "slurm_job": f"{costs['slurm_job']:.1f}",
        "few": " to ".join(f"{value:.1f}" for value in cluster_overhead(64, 1000, costs)),
        "many": " to ".join(f"{value:.1f}" for value in cluster_overhead(64, 10_000, costs)),
        "driver_mb": f"{max(r['driver']['peak_mb'] for r in records):.0f}",
        "machine": f"{plan['machine']['processor']}, {max(r['cores'] for r in records)} cores,"
        f" of which a process got {min(r['driver']['core_share'] for r in records):.2f} to"
        f" {max(r['driver']['core_share'] for r in records):.2f} while this was measured",
    }
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def main() -> None:
    """Write the report and, on request, the page in the documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/benchmarks/scale"))
    parser.add_argument("--update-docs", type=Path, help="copy the page and its picture into this folder")
    options = parser.parse_args()
    report = options.results / "report"
    text = build(options.results, report)
    (report / "scale.md").write_text(text, encoding="utf-8")
    if options.update_docs is not None:
        shutil.copy(report / "scale.md", options.update_docs / "scale.md")
        shutil.copy(report / "images" / "scale.png", options.update_docs / "images" / "scale.png")


if __name__ == "__main__":
    main()
