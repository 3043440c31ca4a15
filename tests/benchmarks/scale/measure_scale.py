"""Measure what labels cost beside themselves: the loop's own label rule on 1 to 64 slots, with a labeller that sleeps.

python tests/benchmarks/scale/measure_scale.py --out results/benchmarks/scale/runs --executor local

Each run is a record of its own; a finished one is not measured again. Executor ``slurm`` is a real
Slurm of virtual nodes, used through the shipped profile; without its programs or root it is skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from ase.build import bulk

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "benchmarks")]

from records import describe_machine  # noqa: E402

from mlip.io.extxyz import write_structures  # noqa: E402
from tests.integration.slurm_cluster import SlurmCluster, missing_programs  # noqa: E402

IDEAL_SECONDS = 30.0  # of every run, if nothing but the labels took time
SHORTEST_LABEL = 0.005  # s
SETTLED = 3  # labels of a shard that are left out of its pace, for files and imports are cold


@dataclass(frozen=True)
class Case:
    """``labels`` dealt to ``jobs`` jobs, of which ``slots`` run at a time."""

    slots: int
    labels: int
    jobs: int
    minute: bool = False
    """Whether labels really take a minute; else all of them together take :data:`IDEAL_SECONDS`."""

    @property
    def seconds(self) -> float:
        """Length of a label."""
        return 60.0 if self.minute else max(SHORTEST_LABEL, IDEAL_SECONDS * self.slots / self.labels)


# The last two: the same labels in four times as many jobs, to tell what a job costs from what a label does.
CASES = [Case(slots, labels, slots) for labels in (1000, 10_000) for slots in (1, 4, 16, 64)]
CASES += [Case(4, 1000, 16), Case(4, 1000, 64)]
REAL = Case(64, 1000, 64, minute=True)
MB_PER_SLURM_JOB = 310
"""Two Snakemakes, the step and the calculator's process: cases for which a machine has too little are left out."""

# Read by every Python of a run: what it used when it ends. The kernel counts how long each thread was
# ready to run and had no core (/proc/PID/schedstat, the second number, ns); threads that ended are left out.
NOTE_USAGE = """
import atexit, json, os, resource, sys, time
from pathlib import Path

def note():
    words = " ".join(sys.argv)
    roles = {"--parsable": "sbatch", "slurm-jobstep": "outer snakemake", "--mode": "inner snakemake",
             "label_structures.py": "step", "--profile": "driver", "--cores": "driver"}
    role = next((role for word, role in roles.items() if word in words), "calculator")
    waited = sum(int(path.read_text().split()[1]) for path in Path("/proc/self/task").glob("*/schedstat"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    entry = {"job": os.environ.get("SLURM_JOB_ID", "none"), "role": role, "cpu": usage.ru_utime + usage.ru_stime,
             "waited": waited / 1e9, "end": time.time()}
    with open(os.environ["SCALE_USAGE"], "a") as stream:
        stream.write(json.dumps(entry) + "\\n")

atexit.register(note)
"""


class VirtualNodes(SlurmCluster):
    """A Slurm whose nodes claim more cores than the machine has: jobs that sleep need none.

    Memory is looked at as often as Slurm does by default. Each of the tests' jobs has two daemons that
    search all processes for it every second, which for 64 jobs takes more than two cores.
    """

    def _configure(self) -> None:
        super()._configure()
        text = self.conf.read_text().replace("JobAcctGatherFrequency=task=1\n", "JobAcctGatherFrequency=task=30\n")
        self.conf.write_text(re.sub(r"\b(CPUs|CoresPerSocket)=\d+", r"\1=32", text))


def main() -> None:
    """Measure the cases that have no record yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--executor", choices=["slurm", "local"], required=True)
    parser.add_argument("--minute", action="store_true", help="only 1000 labels of a minute on 64 slots (half an hour)")
    parser.add_argument("--slots", type=int, nargs="*", help="only cases with so many slots")
    parser.add_argument("--labels", type=int, nargs="*", help="only cases with so many labels")
    parser.add_argument("--jobs", type=int, nargs="*", help="only cases with so many jobs")
    options = parser.parse_args()
    executor = options.executor
    if executor == "slurm" and (missing_programs() or os.geteuid() != 0):
        sys.stdout.write("skipped: a real Slurm needs its programs (Debian: slurm-wlm, munge) and root\n")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    cases = [REAL] if options.minute else CASES
    waiting = [case for case in cases if not path_of(options.out, executor, case).exists()]
    waiting = [case for case in waiting if case.slots in (options.slots or [case.slots])]
    waiting = [case for case in waiting if case.labels in (options.labels or [case.labels])]
    waiting = [case for case in waiting if case.jobs in (options.jobs or [case.jobs])]
    if executor == "slurm":
        fitting = psutil.virtual_memory().available / 1e6 / MB_PER_SLURM_JOB
        waiting = [case for case in waiting if case.slots <= fitting]
    for case in waiting:
        # A fresh Slurm each time: the controller keeps finished jobs, and becomes slower.
        with VirtualNodes() if executor == "slurm" else contextlib.nullcontext() as cluster:
            record = measure(case, cluster)
        path_of(options.out, executor, case).write_text(json.dumps(record, indent=1) + "\n")
        sys.stdout.write(f"{executor} {case}: {record['wall_seconds']:.1f} s\n")
        sys.stdout.flush()


def path_of(out: Path, executor: str, case: Case) -> Path:
    """The record of a case."""
    length = "-minute" if case.minute else ""
    return out / f"{executor}-{case.slots}-slots-{case.labels}-labels-{case.jobs}-jobs{length}.json"


def measure(case: Case, cluster: SlurmCluster | None) -> dict[str, Any]:
    """Run the label rule of one iteration and take the times of its parts."""
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        targets = prepare(folder, case)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", name]
        command += ["--configfile", str(folder / "config.yaml")]
        command += slurm_options(case) if cluster else ["--cores", str(case.slots)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (cluster.environment if cluster else {})
        (folder / "sitecustomize.py").write_text(NOTE_USAGE)
        environment |= {"SCALE_USAGE": str(folder / "usage.jsonl")}
        environment["PYTHONPATH"] = os.pathsep.join([name, str(ROOT), str(Path(__file__).parent)])
        begin, load = time.time(), os.getloadavg()[0]
        driver = run_driver([*command, "--", *targets], environment, folder / "driver.log")
        end = time.time()
        jobs = slurm_times(cluster) if cluster else local_times(folder)
        usage = read_usage(folder / "usage.jsonl")
        requests = read_requests(cluster) if cluster else {}
        cpu_seconds = [float(row["cpu_time"]) for row in benchmark_rows(folder)]
        shards = [shard_times(folder, path, case.seconds) for path in sorted(folder.rglob("shard_*[0-9].json"))]
    return {
        "executor": "slurm" if cluster else "local",
        **asdict(case),
        "label_seconds": case.seconds,
        "wall_seconds": end - begin,
        "ideal_seconds": -(-case.labels // case.slots) * case.seconds,
        "driver": driver,
        "phases": phases(begin, end, jobs),
        "job_start_seconds": [s["begin"] - j["start"] for s, j in matched(shards, jobs)],
        "job_end_seconds": [j["end"] - s["end"] for s, j in matched(shards, jobs)],
        "label_overhead_seconds": [shard["overhead"] for shard in shards],
        "job_cpu_seconds": cpu_seconds,
        "times": [job | shard | {"begun": begin, "finished": end} for shard, job in matched(shards, jobs)],
        "usage": usage,
        "requests": requests,
        "files": {"label_store": case.labels, "results": 2 * case.jobs},
        "load_before": load,
        "cores": len(os.sched_getaffinity(0)),
        "machine": describe_machine(),
    }


def prepare(folder: Path, case: Case) -> list[str]:
    """Write the configuration and the candidates, as if chosen; returns the shards' files."""
    config = {
        "system": "scale",
        "structures": [{"bulk": {"name": "Cu"}}],
        "label": {
            "calculator": "sleeper.Sleeper",
            "parameters": {"seconds": case.seconds},
            "n_shards": case.jobs,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    generator = np.random.default_rng(0)
    structures = []
    for index in range(case.labels):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += generator.normal(scale=0.03, size=(len(atoms), 3))
        atoms.info |= {"structure_id": f"iter_00-rattle-{index:05d}", "origin": "rattle", "reason": "initial"}
        structures.append(atoms)
    iteration = Path("results/scale/iter_00")
    write_structures(folder / iteration / "prepare_structures" / "candidates.extxyz", structures)
    return [f"{iteration}/label_structures/shard_{shard:03d}.json" for shard in range(case.jobs)]


def slurm_options(case: Case) -> list[str]:
    """The shipped profile; squeue because this Slurm has no accounting, little memory because the machine has."""
    options = ["--profile", "slurm", "--slurm-status-command", "squeue", "--slurm-no-account"]
    return [*options, "--jobs", str(case.slots), "--set-resources", "label_structures:mem_mb=500"]


def run_driver(command: list[str], environment: dict[str, str], log: Path) -> dict[str, float]:
    """Run Snakemake; its own memory and CPU time, and those of the commands that it starts (sbatch, squeue).

    Also ``core_share``: what part of a core a process got that wanted one, for others may have been at work.
    """
    peak, cpu, commands, shares = 0.0, 0.0, 0.0, []
    with log.open("wb") as stream:
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, process.memory_info().rss / 1e6)
                times = process.cpu_times()
                cpu, commands = times.user + times.system, times.children_user + times.children_system
            shares.append(core_share())
            time.sleep(1.0 if len(shares) > 10 else 0.1)
    if process.returncode:
        raise SystemExit(f"snakemake failed:\n{log.read_text(errors='replace')[-4000:]}")
    return {"peak_mb": peak, "cpu_seconds": cpu, "command_cpu_seconds": commands, "core_share": float(np.mean(shares))}


def core_share(seconds: float = 0.02) -> float:
    """CPU time over wall time of a loop that does nothing for ``seconds`` of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < seconds:
        pass
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def slurm_times(cluster: SlurmCluster) -> list[dict[str, Any]]:
    """When each job was submitted, started and ended, to a second."""
    found = []
    for line in cluster.command("squeue", "-h", "--states=all", "-o", "%i|%k|%V|%S|%e").splitlines():
        identity, name, *stamps = line.split("|")
        submit, start, end = (datetime.fromisoformat(stamp).timestamp() for stamp in stamps)
        times = {"job": identity, "submit": submit, "start": start, "end": end}
        found.append({"shard": int(name.rsplit("_", 1)[1])} | times)
    return found


def read_requests(cluster: SlurmCluster) -> dict[str, dict[str, float]]:
    """What slurmctld was asked: how often, and for how long each kept it busy on average, s."""
    found = {}
    for name, count, mean in re.findall(
        r"(REQUEST_\w+)\s*\(\s*\d+\)\s*count:(\d+)\s*ave_time:(\d+)", cluster.command("sdiag")
    ):
        found[name] = {"count": int(count), "seconds": int(mean) / 1e6}
    return found


def read_usage(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """CPU time of the Python processes of each job, and how long they waited for a core, s; by job and role."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for line in path.read_text().splitlines():
        note = json.loads(line)
        total = found.setdefault(note["job"], {}).setdefault(note["role"], {"cpu": 0.0, "waited": 0.0, "processes": 0})
        for name, value in (("cpu", note["cpu"]), ("waited", note["waited"]), ("processes", 1)):
            total[name] += value
    return found


def benchmark_rows(folder: Path) -> list[dict[str, Any]]:
    """Snakemake's benchmark of each job, with its shard and when it ended."""
    found = []
    for path in sorted(folder.rglob("benchmarks/label_structures-*.tsv")):
        with path.open(encoding="utf-8") as stream:
            row = list(csv.DictReader(stream, delimiter="\t"))[-1]
        found.append({**row, "shard": int(path.stem[-3:]), "end": path.stat().st_mtime})
    return found


def local_times(folder: Path) -> list[dict[str, Any]]:
    """The same from Snakemake's benchmark files, for jobs that are processes."""
    found = []
    for row in benchmark_rows(folder):
        start = row["end"] - float(row["s"])
        found.append({"shard": row["shard"], "submit": start, "start": start, "end": row["end"]})
    return found


def shard_times(folder: Path, path: Path, seconds: float) -> dict[str, Any]:
    """When a shard's first label began and its last was stored, and what a label took beyond ``seconds``."""
    keys = [record["key"] for record in json.loads(path.read_text())["records"]]
    stored = np.array([(folder / "label_store" / key[:2] / f"{key}.json").stat().st_mtime for key in keys])
    pace = np.diff(stored[min(SETTLED, len(stored) - 2) :]).mean()
    return {
        "shard": int(path.stem[-3:]),
        "begin": float(stored[0] - seconds),
        "end": float(stored[-1]),
        "overhead": float(pace - seconds),
    }


def matched(
    shards: list[dict[str, Any]], jobs: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Shards with their jobs."""
    by_shard = {job["shard"]: job for job in jobs}
    return ((shard, by_shard[shard["shard"]]) for shard in shards)


def phases(begin: float, end: float, jobs: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds until the first job is submitted, over all submissions, and from the last job's end to the driver's."""
    submitted = [job["submit"] for job in jobs]
    return {
        "before_first_job": min(submitted) - begin,
        "submitting": max(submitted) - min(submitted),
        "queued": float(np.mean([job["start"] - job["submit"] for job in jobs])),
        "after_last_job": end - max(job["end"] for job in jobs),
    }


if __name__ == "__main__":
    main()
