"""MD speed of several packages, in turns: every round runs every package once, each in a fresh process."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import records


def run_once(case: dict[str, Any], device: str, repeat: int, walkers: int, seconds: float) -> dict[str, Any]:
    """One process of run_md.py."""
    command = [case["python"], str(Path(__file__).with_name("run_md.py")), "--package", case["package"]]
    command += ["--model", case["model"], "--repeat", str(repeat), "--walkers", str(walkers)]
    command += ["--seconds", str(seconds), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(
    cases: list[dict[str, Any]], device: str, repeats: list[int], walkers: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """A row for each case and size; µs per atom and step, least and median over all timed blocks."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for repeat in repeats:
            for case in cases:
                result = run_once(case, device, repeat, walkers, seconds)
                found.setdefault((case["variant"], repeat), []).append(result)
                sys.stderr.write(f"round {turn} {case['variant']} {json.dumps(result)}\n")
    rows = []
    for (variant, _), results in found.items():
        package = next(case["package"] for case in cases if case["variant"] == variant)
        row = {"variant": variant, "package": package, "device": device, "walkers": walkers}
        row |= {"n_atoms": results[0]["n_atoms"], "rounds": results}
        row["setup_seconds"] = max(r["setup_seconds"] for r in results)
        row["peak_mib"] = max(r["peak_mib"] for r in results)
        for clock in ("cpu_us", "wall_us"):
            values = [value for r in results for value in r[clock]]
            row[clock] = {"min": min(values), "median": statistics.median(values)}
        rows.append(row)
    return rows


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", required=True, help="name of the measurement")
    parser.add_argument("--cases", type=json.loads, required=True, help="[{variant, package, python, model}, ...]")
    parser.add_argument("--repeats", type=int, nargs="+", required=True)
    parser.add_argument("--walkers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = measure(given.cases, given.device, given.repeats, given.walkers, given.rounds, given.seconds)
    records.write_record(given.out, {"kind": given.kind, "device": given.device, "rows": rows})


if __name__ == "__main__":
    main()
