"""Failures per nanosecond of dynamics by the potentials that :mod:`pool_benchmark` kept: one JSON a potential.

    python tests/benchmarks/selection/md_failures.py results/selection --cases silicon alloy

Every kind of the pool has replicas that start from frames of the teacher's own trajectories and run at the kind's
temperature. One has failed when it is too hot, or two of its atoms have collapsed (:mod:`mlip.dynamics.limits`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pools
from ase import Atoms

from mlip.dynamics.limits import NEAREST
from mlip.dynamics.replicas import LangevinPlan, Trace, batched, run_nvt
from mlip.io.files import write_json
from mlip.potential import load_potential
from mlip.seeds import derive_rng, derive_seed
from mlip.structures.geometry import min_distance_ratio

SAMPLE_EVERY = 20


@dataclass(frozen=True)
class Plan:
    """Steps, and replicas of every kind."""

    n_steps: int = 2000
    n_replicas: int = 2


def run_potential(folder: Path, case_name: str, seed: int, plan: Plan) -> dict[str, Any]:
    """Nanoseconds that replicas ran, and how many failed, by kind; of the potential in ``folder``."""
    case = pools.CASES[case_name]
    replicas: list[Atoms] = []
    for kind in case.kinds:
        for k in range(plan.n_replicas):
            start = pools.run_md(kind, case, 1, derive_seed(seed, case_name, kind.name, "dynamics", k))[0]
            replicas.append(Atoms(start.numbers, start.positions, cell=start.cell, pbc=start.pbc))
    kinds = [kind for kind in case.kinds for _ in range(plan.n_replicas)]
    settings = LangevinPlan(case.timestep, 0.01, plan.n_steps, SAMPLE_EVERY)
    evaluate = batched(load_potential(folder, precision="single"))
    temperatures = [kind.temperature for kind in kinds]
    traces = run_nvt(replicas, evaluate, temperatures, settings, rng=derive_rng(seed, case_name, "dynamics"))
    found: dict[str, dict[str, float]] = {}
    for kind, trace in zip(kinds, traces, strict=True):
        entry = found.setdefault(kind.name, {"ns": 0.0, "failures": 0})
        lived, failed = life(trace)
        entry["ns"] += lived * 1e-6
        entry["failures"] += failed
    return found


def life(trace: Trace) -> tuple[float, int]:
    """Time that a replica was sane, fs, and whether it failed then (1) or lived to the end (0)."""
    for when, atoms in zip(trace.times, trace.frames, strict=True):
        if min_distance_ratio(atoms) < NEAREST:
            return when, 1
    return (trace.times[-1] if trace.times else 0.0), int(not trace.stable)


def run_all(folder: Path, cases: Sequence[str], rules: Sequence[str], plan: Plan, seconds: float) -> None:
    """Every kept potential of ``cases`` and ``rules`` that has no record yet, until the time is over."""
    end = time.monotonic() + seconds
    for potential in sorted((folder / "potentials").iterdir()):
        for case in cases:
            seed, _, rule = potential.name.removeprefix(f"{case}-").partition("-")
            record = folder / "md" / f"{potential.name}.json"
            if not potential.name.startswith(f"{case}-") or rule not in rules or record.exists():
                continue
            if time.monotonic() > end:
                return
            record.parent.mkdir(parents=True, exist_ok=True)
            kinds = run_potential(potential, case, int(seed), plan)
            write_json(record, {"case": case, "seed": int(seed), "rule": rule, "kinds": kinds, "plan": vars(plan)})
            print(record, flush=True)


def main() -> None:
    """Run what has not been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the records of pool_benchmark.py")
    parser.add_argument("--cases", nargs="+", default=["silicon", "alloy"], choices=[*pools.CASES])
    parser.add_argument("--rules", nargs="+", default=["random", "trust-levels", "log-determinant"])
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no potential after so many")
    given = parser.parse_args()
    run_all(given.folder, given.cases, given.rules, Plan(), given.seconds)


if __name__ == "__main__":
    main()
