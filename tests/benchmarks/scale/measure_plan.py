"""Time and memory of `snakemake -n` for a fresh loop of 20 iterations, and of a loop's overhead.

python tests/benchmarks/scale/measure_plan.py --out results/benchmarks/scale/plan.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "benchmarks")]

from records import describe_machine  # noqa: E402

CASES = {10: None, 100: 10.0, 1000: 30.0}
"""Label jobs an iteration, and the most seconds that planning should take."""
ITERATIONS = 20


def measure_plan(n_shards: int) -> dict[str, float]:
    """Wall time, CPU time and memory of the whole command."""
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        label = {"calculator": "ase.calculators.emt.EMT", "n_shards": n_shards}
        config = {"system": "plan", "max_iterations": ITERATIONS, "structures": [{"bulk": {"name": "Cu"}}]}
        (Path(name) / "config.yaml").write_text(yaml.safe_dump(config | {"label": label}))
        command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", name, "--configfile", f"{name}/config.yaml"]
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return {
        "iterations": ITERATIONS,
        "shards": n_shards,
        "wall_seconds": wall,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": after.ru_maxrss / 1024,  # of the largest child so far: cases grow
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    options = parser.parse_args()
    plans = [measure_plan(n_shards) | {"limit_seconds": limit} for n_shards, limit in CASES.items()]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"plans": plans, "machine": describe_machine()}, indent=1) + "\n")
