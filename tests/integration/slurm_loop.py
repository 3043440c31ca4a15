"""A loop on the tests' Slurm: started, watched, hurt and compared with an undisturbed one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from mlip.io.extxyz import read_structures
from tests.integration.slurm_cluster import SlurmCluster, SlurmJob, missing_programs
from tests.workflow.conftest import ROOT, TINY

MISSING = missing_programs()
SLURM_MARKS = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurm-wlm, munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root"),
    pytest.mark.skipif(
        not os.environ.get("MLIP_TEST_SLURM"), reason="takes minutes on real daemons; `make test-slurm` runs it"
    ),
]

# These only save time: jobs of seconds on a local disk need no patience. All else is the shipped profile's.
PROFILE = ["--profile", "slurm", "--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"]
PROFILE += ["--seconds-between-status-checks", "2", "--max-status-checks-per-second", "1"]

DATASET = "results/tiny/iter_00/collect_dataset/train.extxyz"
CANDIDATES = "results/tiny/iter_00/select_candidates/candidates.extxyz"

# EMT in place of DFT, because only plumbing is tested. It keeps a diary of what it computes; in a
# job's second label it waits as long as a test holds it, and needs more memory or time than the
# job has where a test says so.
CALCULATOR = """
import hashlib, os, time
from pathlib import Path
from ase.calculators.emt import EMT

FOLDER = Path(os.environ["STAND_IN_FOLDER"])
JOB = os.environ.get("SLURM_JOB_ID", "none")
SHARD = b"label_structures" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes()

def note(word, atoms):
    key = hashlib.sha256(atoms.positions.round(6).tobytes() + atoms.cell.array.round(6).tobytes()).hexdigest()[:12]
    with (FOLDER / "diary.txt").open("a") as diary:
        diary.write(f"{time.time()} {word} {key} {JOB}\\n")

class HeldEMT(EMT):
    n_labels = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        atoms = self.atoms if atoms is None else atoms
        note("begins", atoms)
        while HeldEMT.n_labels == 1 and SHARD and (FOLDER / "hold").exists():
            time.sleep(0.05)
        if (FOLDER / f"hungry-{JOB}").exists():
            ballast = bytearray(os.urandom(1 << 20) * 1200)
            time.sleep(30)
        if (FOLDER / f"endless-{JOB}").exists():
            time.sleep(600)
        super().calculate(atoms, properties, system_changes)
        HeldEMT.n_labels += 1
        note("ends", atoms)
"""
# Read by every Python of the loop. Where a test says so, the clock of node2 is ahead.
CUSTOMIZATION = """
import os, time
from pathlib import Path
if os.environ.get("SLURMD_NODENAME") == "node2" and (Path(os.environ["STAND_IN_FOLDER"]) / "skewed").exists():
    true_time = time.time
    time.time = lambda: true_time() + 240
"""


class SlurmLoop:
    """The tiny loop in ``folder``, with a labeller that tests can hold up; ``changes`` go into its configuration."""

    def __init__(self, folder: Path, cluster: SlurmCluster | None, **changes: object) -> None:
        self.folder, self.cluster = folder, cluster
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "held_emt.py").write_text(CALCULATOR)
        (folder / "sitecustomize.py").write_text(CUSTOMIZATION)
        self.config_file = folder / "config.yaml"
        self.write_config(yaml.safe_load(TINY.read_text()) | changes)
        self.results = folder / "results" / "tiny"
        search_path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.environment = os.environ | {"PYTHONPATH": search_path, "STAND_IN_FOLDER": str(folder)}
        if cluster is not None:
            self.environment |= cluster.environment
            (folder / "hold").touch()
        self._earlier = {job.id for job in cluster.jobs()} if cluster else set()
        self.drivers: list[Driver] = []

    def write_config(self, config: dict) -> None:
        config["label"]["calculator"] = "held_emt.HeldEMT"
        self.config = config
        self.config_file.write_text(yaml.safe_dump(config))

    def start(self, *arguments: str, target: str = "all") -> Driver:
        """Start Snakemake and return at once."""
        log = self.folder / f"driver-{len(self.drivers)}.txt"
        command = [sys.executable, "-m", "snakemake", target, "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.folder), "--configfile", str(self.config_file), *arguments]
        with log.open("w") as stream:
            process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, env=self.environment)
        self.drivers.append(Driver(process, log))
        return self.drivers[-1]

    def jobs(self, rule: str, wildcards: str = "") -> list[SlurmJob]:
        """This loop's jobs of ``rule``, finished ones included, the oldest first."""
        assert self.cluster is not None
        jobs = [job for job in self.cluster.jobs() if job.id not in self._earlier]
        return [job for job in jobs if job.rule == rule and job.name.endswith(wildcards)]

    def labels_done(self, shard: int) -> int:
        path = self.results / "iter_00" / "label_structures" / f"shard_{shard:03d}.progress.json"
        return json.loads(path.read_text())["done"] if path.exists() else 0

    def wait_for_first_labels(self, driver: Driver, n_jobs: int) -> None:
        """Until this many label jobs are held up in their second label."""
        shards = range(self.config["label"]["n_shards"])
        driver.wait_until(lambda: sum(self.labels_done(shard) == 1 for shard in shards) == n_jobs, "first labels")

    def release(self) -> None:
        """Let all calculations go on from now on."""
        (self.folder / "hold").unlink()

    def records(self, shard: int) -> list[dict]:
        path = self.results / "iter_00" / "label_structures" / f"shard_{shard:03d}.json"
        return json.loads(path.read_text())["records"]

    def finished_labels(self) -> dict[Path, int]:
        """When each record of the label store was written; the same again means: neither lost nor computed anew."""
        return {path: path.stat().st_mtime_ns for path in (self.folder / "label_store").glob("??/*.json")}

    def diary(self) -> list[tuple[str, str, str]]:
        """What the labeller did: ``begins`` or ``ends``, structure, job."""
        lines = (self.folder / "diary.txt").read_text().splitlines()
        return [(word, key, job) for _, word, key, job in (line.split() for line in lines)]

    def computed_twice(self) -> set[str]:
        """Structures whose calculation came to its end more than once."""
        ended = [key for word, key, _ in self.diary() if word == "ends"]
        return {key for key in ended if ended.count(key) > 1}


class Driver:
    """A running Snakemake."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 300) -> None:
        """Until ``condition`` holds while this driver runs."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                pytest.fail(f"the loop ended before {what}:\n{self.output[-6000:]}")
            if time.monotonic() > end:
                pytest.fail(f"not within {seconds} s: {what}\n{self.output[-6000:]}")
            time.sleep(0.1)

    def finish(self, seconds: float = 420) -> str:
        """The output of a driver that must succeed."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            pytest.fail(f"not finished within {seconds} s:\n{self.output[-6000:]}")
        if code:
            pytest.fail(f"the loop failed:\n{self.output[-8000:]}")
        return self.output

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it where a test failed, as Ctrl-C would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


def submitted(output: str) -> set[str]:
    return set(re.findall(r"submitted with SLURM jobid (\d+)", output))


def assert_same_structures(one: Path, other: Path) -> None:
    """Same structures in the same order, bit for bit, with the same labels where they have any."""
    first, second = read_structures(one), read_structures(other)
    assert [a.info["structure_id"] for a in first] == [b.info["structure_id"] for b in second]
    for a, b in zip(first, second, strict=True):
        assert a == b
        assert a.info.get("label_key") == b.info.get("label_key")
        if a.calc is not None or b.calc is not None:
            assert a.get_potential_energy() == b.get_potential_energy()
            np.testing.assert_array_equal(a.get_forces(), b.get_forces())


def assert_same_dataset(loop: SlurmLoop, other: SlurmLoop) -> None:
    for name in ("train", "valid", "test", "new"):
        path = Path("iter_00") / "collect_dataset" / f"{name}.extxyz"
        assert_same_structures(loop.results / path, other.results / path)
