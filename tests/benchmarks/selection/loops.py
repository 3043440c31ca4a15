"""Whole loops, and the labels that each rule of selection needs in them: one JSON a loop, resumable.

    python tests/benchmarks/selection/loops.py results/selection --seconds 7200

The teacher is Stillinger and Weber's silicon. Crystal, melt, surface and vacancy are explored by walkers of the present
potential, two thirds of whose frames are crystal. Loops of a seed start with the same prepared labels; every iteration
labels a batch, trains from scratch and explores anew, whatever its errors: no loop stops for having converged. It is
tried on frames of the teacher's own trajectories. DP-GEN's scheme is a draw among the frames whose largest force
deviation lies between two levels; these are tuned on another seed, where every pair of :data:`QUANTILES` has a loop.

The steps run one after the other in this process (:mod:`small_loop`): with one Python a job they would take four times
as long. With ``--workflow`` they run by `mlip run`, in Snakemake.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.io import write
from pool_benchmark import macro, measure
from pools import LONG, Case, Kind, diamond, run_md, silicon_slab, vacancy
from small_loop import SmallLoop

from mlip.calculators.stillinger_weber import StillingerWeber
from mlip.config.system import load_config
from mlip.io.files import write_json
from mlip.io.layout import output_path
from mlip.io.netcdf import read_netcdf
from mlip.potential import load_potential
from mlip.seeds import derive_seed

SEEDS = range(5)
TUNING_SEED = 100
SCHEMES = ("log-determinant", "trust-levels", "random")
QUANTILES = ((0.0, 0.9), (0.5, 0.95), (0.8, 1.0))
"""Of the deviations in the first iteration's frames of the tuning seed: DP-GEN's levels that are tried."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the loops: ``n_batch`` labels an iteration, after which the last iteration is ``last``."""

    n_prepared: int = 12
    n_batch: int = 8
    last: int = 3
    last_random: int = 6
    last_tuning: int = 1
    n_steps: int = 800
    md_steps: int = 300
    n_test: int = 12

    def iterations(self, scheme: str) -> int:
        """Number of the last iteration of ``scheme``; the informed rule needs fewer."""
        return self.last if scheme == "log-determinant" else self.last_random


SHORT = Plan(n_prepared=8, n_batch=2, last=1, last_random=1, last_tuning=1, n_steps=30, md_steps=40, n_test=2)


CASE = Case(
    StillingerWeber,
    [
        Kind("crystal", lambda _: diamond(LONG), 900.0, 0.25),
        Kind("melt", lambda _: diamond(LONG, 0.98), 2500.0, 0.25, heat=5000.0),
        Kind("surface", lambda _: silicon_slab(), 900.0, 0.25, 1),
        Kind("vacancy", lambda rng: vacancy(diamond(LONG), rng), 900.0, 0.25, 2),
    ],
    [],
)
TIMESTEP = 2.0
"""fs."""


def melt(n_steps: int) -> list[dict[str, float]]:
    """The schedule of a walker of ``n_steps``: molten in the first half, then at the melt's temperature."""
    end = n_steps * TIMESTEP
    return [
        {"time": 0.0, "temperature": 5000.0},
        {"time": end / 2, "temperature": 5000.0},
        {"time": 2 * end / 3, "temperature": 2500.0},
    ]


def describe_loop(
    system: str, seed: int, scheme: str, last: int, plan: Plan, levels: Sequence[float]
) -> dict[str, Any]:
    """The configuration of a loop; ``levels`` (eV/Å) are those of `trust-levels`."""
    select: dict[str, Any] = {"n_structures": plan.n_batch, "n_audit": 0}
    if scheme == "trust-levels":
        # What lies between is drawn at random, what lies outside is left.
        select |= {"method": "random", "min_uncertainty": levels[0], "max_uncertainty": levels[1]}
    else:
        select |= {"method": scheme}
    silicon = {"name": "Si", "crystalstructure": "diamond", "a": 5.431, "cubic": True}
    groups = [
        {"ensemble": "nvt", "temperatures": [300, 450, 600, 750, 900, 1200], "structures": [0]},
        {"ensemble": "nvt", "schedule": melt(plan.md_steps), "structures": [0]},
        {"ensemble": "nvt", "temperatures": [900], "structures": [1, 2]},
    ]
    return {
        "system": system,
        "seed": seed,
        "max_iterations": last + 1,
        "min_iterations": last + 1,
        "structures": [{"bulk": silicon, "repeat": [*LONG]}, {"file": "slab.extxyz"}, {"file": "vacancy.extxyz"}],
        "prepare": {"n_structures": plan.n_prepared},
        "label": {"calculator": "mlip.calculators.stillinger_weber.StillingerWeber", "n_shards": 1},
        "train": {
            "n_channels": 8,
            "hidden": [16],
            "committee_size": 3,
            "n_steps": plan.n_steps,
            "learning_rate": 0.03,
            "restart": "scratch",
            "early_stopping": False,
        },
        "explore": {
            "walkers": groups,
            "timestep": TIMESTEP,
            "n_steps": plan.md_steps,
            "sample_every": 10,
        },
        "select": select,
        "assess": {"audit_force_rmse": None},
    }


@dataclass(frozen=True)
class Place:
    """Where loops run, and whether by Snakemake."""

    folder: Path
    workflow: bool = False

    @property
    def name(self) -> str:
        """Of these loops' folder and records."""
        return "loops-workflow" if self.workflow else "loops"

    def run_loop(self, seed: int, scheme: str, last: int, plan: Plan, levels: Sequence[float]) -> Path:
        """Run a loop to its end; the folder of its results."""
        system = f"{scheme}-{seed}" + (f"-{levels[0]:.4g}-{levels[1]:.4g}" if scheme == "trust-levels" else "")
        place = self.folder / self.name
        place.mkdir(parents=True, exist_ok=True)
        write(place / "slab.extxyz", silicon_slab())
        write(place / "vacancy.extxyz", vacancy(diamond(LONG), np.random.default_rng(0)))
        config = place / f"{system}.yaml"
        text = yaml.safe_dump(describe_loop(system, seed, scheme, last, plan, levels), sort_keys=False)
        if not config.exists() or config.read_text() != text:
            config.write_text(text)
        if self.workflow:
            run_workflow(config)
        else:
            with contextlib.chdir(place):  # files of structures are relative to it
                SmallLoop(load_config(config.name), Path("results") / system).run()
        return place / "results" / system


def run_workflow(config: Path) -> None:
    """`mlip run`, from where it was stopped.

    Raises:
        RuntimeError: where it failed.
    """
    command = [sys.executable, "-m", "mlip", "run", config.name, "--cores", "1"]
    done = subprocess.run(command, check=False, cwd=config.parent, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the loop {config} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def make_test(seed: int, n_test: int) -> list[Atoms]:
    """``n_test`` labelled frames of each kind, of trajectories of the teacher."""
    frames = [run_md(kind, CASE, n_test, derive_seed(seed, "loops", kind.name)) for kind in CASE.kinds]
    return [atoms for kind in frames for atoms in kind]


def count_labels(results: Path, iteration: int) -> int:
    """Labels asked for after iteration 0's, up to those on which the potential of ``iteration`` was trained."""
    total = 0
    for k in range(iteration):
        path = output_path(results, "select_candidates", "decisions.csv", iteration=k)
        with path.open(encoding="utf-8") as stream:
            total += sum(row["decision"] != "left" for row in csv.DictReader(stream))
    return total


def measure_loop(results: Path, test: Sequence[Atoms], last: int) -> list[dict[str, Any]]:
    """Error of each iteration's potential against the labels paid after iteration 0."""
    curve = []
    for iteration in range(last + 1):
        place = output_path(results, "train_committee", "potential.json", iteration=iteration).parent
        errors = measure(load_potential(place, precision="single"), place, test)
        curve.append({"labels": count_labels(results, iteration), "errors": errors, "macro": macro(errors)})
    return curve


def tune_levels(at: Place, plan: Plan) -> dict[str, Any]:
    """DP-GEN's levels, eV/Å: of :data:`QUANTILES` those whose loop of the tuning seed has the least error."""
    record = at.folder / f"{at.name}-levels.json"
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text())
        return found
    seed, test = TUNING_SEED, make_test(TUNING_SEED, plan.n_test)
    first = at.run_loop(seed, "random", 0, plan, ())
    deviations = read_netcdf(output_path(first, "score_frames", "frames.nc", iteration=0)).force_uncertainty.values
    tried = []
    for quantiles in QUANTILES:
        levels = np.quantile(deviations[np.isfinite(deviations)], quantiles).round(4).tolist()
        results = at.run_loop(seed, "trust-levels", plan.last_tuning, plan, levels)
        curve = measure_loop(results, test, plan.last_tuning)
        tried.append({"levels": levels, "quantiles": quantiles, "curve": curve, "macro": curve[-1]["macro"]})
    best = min(tried, key=lambda entry: entry["macro"])
    write_json(record, {"levels": best["levels"], "tried": tried})
    return {"levels": best["levels"], "tried": tried}


def run_all(at: Place, plan: Plan, seeds: Sequence[int], schemes: Sequence[str], seconds: float) -> None:
    """Every loop that has no record yet, until the time is over."""
    end = time.monotonic() + seconds
    for seed, scheme in itertools.product(seeds, schemes):
        record = at.folder / "runs" / at.name / f"{seed}-{scheme}.json"
        if record.exists():
            continue
        if time.monotonic() > end:
            return
        levels = tune_levels(at, plan)["levels"] if scheme == "trust-levels" else ()
        last = plan.iterations(scheme)
        results = at.run_loop(seed, scheme, last, plan, levels)
        curve = measure_loop(results, make_test(seed, plan.n_test), last)
        record.parent.mkdir(parents=True, exist_ok=True)
        entry = {"case": at.name, "seed": seed, "rule": scheme, "curve": curve, "kinds": [], "longer": None}
        write_json(record, entry | {"levels": levels, "plan": vars(plan)})
        print(record, flush=True)


def main() -> None:
    """Run what has not been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where records and loops are and go")
    parser.add_argument("--seconds", type=float, default=2 * 3600.0, help="begin no loop after so many")
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    parser.add_argument("--schemes", nargs="+", default=[*SCHEMES], choices=SCHEMES)
    parser.add_argument("--short", action="store_true", help="loops of two iterations, to see that it works")
    parser.add_argument("--workflow", action="store_true", help="by `mlip run`, a process a job")
    given = parser.parse_args()
    run_all(
        Place(given.folder, given.workflow), SHORT if given.short else Plan(), given.seeds, given.schemes, given.seconds
    )


if __name__ == "__main__":
    main()
