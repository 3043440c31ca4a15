"""Labels that rules of selection need, on pools with known teachers: one JSON a run, resumable.

    make benchmark-selection
    python tests/benchmarks/selection/pool_benchmark.py results/selection --seconds 14400
    python tests/benchmarks/selection/pool_benchmark.py results/selection --table

A run is a pool, a seed and a rule. All rules of a seed start with the same prepared labels and the same potential
(paired); then a batch is chosen, labelled and learnt from scratch, and so on. Every training has the same number of
optimiser steps; since that may starve large sets, the last set of `random` and of `log-determinant` is trained for
``longer`` times as many, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pools
import slow_pools
from ase import Atoms

from mlip.active.acquisition import METHODS, Method, choose_clusters, choose_log_determinant, choose_trusted
from mlip.active.cost import predict_cost
from mlip.active.environments import EnvironmentTable, Known
from mlip.active.methods import TRUST_LEVELS
from mlip.active.pool import Pool, share_quotas
from mlip.config.train import Train
from mlip.io.files import write_json
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential
from mlip.potential.certification import expected_squares, read_error_ratios, squared_errors
from mlip.seeds import derive_rng, derive_seed
from mlip.studies.diffusion.acquisition import describe_structures, descriptor_scale

SEEDS = range(5)
RULES = (
    "random",
    "log-determinant",
    "farthest-mean",
    "trust-levels",
    "farthest",
    "clusters",
    "product",
    "clusters, no error",
    "log-determinant, by error",
)
"""In the order in which they are run. Of the last two, one does not weight by the expected error and one does, other
than those rules do by default.
"""
FURTHER = {"mixed-sizes": ("log-determinant, by cost",)}
"""Where cells differ enough for the cost to matter: divides by it, where the others take all labels to cost alike."""
LEVELS = ((0.0, 0.9), (0.5, 0.95), (0.8, 1.0))
"""Quantiles of the pool's largest deviations, among which DP-GEN's trust levels are tuned."""
LONGER = {"random": 2, "log-determinant": 2}
"""Rules whose last set is trained for longer, too, and of how many seeds, the first ones."""
TUNING_SEED = 100
"""On whose pools DP-GEN's trust levels are tuned."""


@dataclass(frozen=True)
class Plan:
    """How much is done: labels chosen at every point of the curves, trainings of ``n_steps``.

    ``longer`` is the factor on the steps of the last training, by which it is seen whether large sets were starved.
    """

    points: tuple[int, ...] = (8, 16, 32)
    points_random: tuple[int, ...] = (8, 16, 32, 64, 96)
    n_steps: int = 800
    learning_rate: float = 0.03
    n_pool: int | None = None
    n_test: int = 8
    n_channels: int = 8
    longer: float = 2.0

    def settings(self, n_steps: int) -> Train:
        """Of a training of ``n_steps``."""
        return Train(
            n_channels=self.n_channels,
            hidden=(16,),
            committee_size=3,
            n_steps=n_steps,
            early_stopping=False,
            learning_rate=self.learning_rate,
            consistency="off",
            restart="scratch",
            checkpoint_every=10**6,
        )

    def next_batch(self, rule: str, n_chosen: int) -> int:
        """Labels to the next point; 0 at the end."""
        points = self.points_random if rule == "random" else self.points
        return min((n - n_chosen for n in points if n > n_chosen), default=0)


SHORT = Plan(points=(4, 8), points_random=(4, 8), n_steps=40, n_pool=24, n_test=2, n_channels=4)
"""Minutes become seconds, and results become noise."""


def rule_of(name: str, levels: tuple[float, float]) -> Method:
    """The rule called ``name`` in :data:`RULES`; ``levels`` are DP-GEN's, eV/Å."""
    turned: dict[str, Callable[..., Any]] = {
        "trust-levels": partial(choose_trusted, levels=levels),
        "clusters, no error": partial(choose_clusters, power=0.0),
        "log-determinant, by cost": choose_log_determinant,
        "log-determinant, by error": partial(choose_log_determinant, power=1.0),
    }
    return turned[name] if name in turned else METHODS[name]


def embed(potential: Potential, structures: Sequence[Atoms]) -> EnvironmentTable:
    blocks = potential.embed(structures)
    return EnvironmentTable.of(blocks, [a.numbers for a in structures], [a.info["source"] for a in structures])


def build_pool(potential: Potential, training: Sequence[Atoms], frames: Sequence[Atoms], free: np.ndarray) -> Pool:
    """All that the rules look at; ``free`` frames have no label yet."""
    known = Known.of(embed(potential, training))
    predictions = potential.predict(frames)
    descriptors = describe_structures(potential, training)
    scale = descriptor_scale(descriptors)
    squared = {
        system: float(
            np.mean(np.concatenate([a.get_forces().ravel() for a in training if a.info["source"] == system]) ** 2)
        )
        for system in {a.info["source"] for a in training}
    }
    return Pool(
        known.reduce(embed(potential, frames)),
        known,
        np.array([np.mean(p.forces_std**2) for p in predictions]),
        np.array([p.force_uncertainty.max() for p in predictions]),
        np.ones(len(frames)),
        free,
        squared_force=squared,
        means=describe_structures(potential, frames) / scale,
        known_means=descriptors / scale,
    )


def measure(potential: Potential, folder: Path, test: Sequence[Atoms]) -> dict[str, dict[str, float]]:
    """Of each kind: RMSE of force components and the ``expected`` one, eV/Å, their RMS, and the kind's ``system``."""
    predictions = potential.predict(test)
    errors, ratios = squared_errors(test, predictions), read_error_ratios(folder / "training.json")
    expected = expected_squares(test, predictions, ratios)
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    for atoms, error, square in zip(test, errors, expected, strict=True):
        row = (error, np.mean(atoms.get_forces() ** 2), square, atoms.info["source"] ** 2)
        rows.setdefault(atoms.info["kind"], []).append(row)
    means = {kind: np.sqrt(np.mean(found, axis=0)).tolist() for kind, found in rows.items()}
    return {kind: dict(zip(("rmse", "rms", "expected", "system"), row, strict=True)) for kind, row in means.items()}


def macro(errors: dict[str, dict[str, float]]) -> float:
    """Root mean square over kinds of RMSE over RMS force."""
    return float(np.sqrt(np.mean([(e["rmse"] / e["rms"]) ** 2 for e in errors.values()])))


class Run:
    """One case, seed and rule; the potentials are thrown away, but for the first, which all rules share."""

    def __init__(self, folder: Path, case: str, seed: int, plan: Plan) -> None:
        self.folder, self.case, self.seed, self.plan = folder, case, seed, plan
        self.first = folder / "first" / f"{case}-{seed}"
        sizes = {"n_pool": plan.n_pool, "n_test": plan.n_test}
        self.isolated: dict[str, float] | None = None  # fitted, where the teacher knows no lone atoms
        if case in slow_pools.CASES:
            self.data = slow_pools.build_case(folder, case, seed, **sizes)
        else:
            self.data = pools.build_case(case, seed, **sizes)
            self.isolated = pools.isolated_energies(case, self.data["pool"])

    def train(self, training: Sequence[Atoms], out: Path, n_steps: int) -> Potential:
        """From scratch, with a seed that is the same for all rules at this number of labels."""
        if not (out / "potential.json").exists():
            seed = derive_seed(self.seed, self.case, len(training), "train") % 2**31
            settings = self.plan.settings(n_steps)
            request = TrainingRequest(training, [], settings, out, seed=seed, isolated_energies=self.isolated)
            train_committee(request)
        return load_potential(out, precision="single")

    def follow(self, rule: str) -> dict[str, Any]:
        """The curve of ``rule``: errors against the number of chosen labels."""
        frames, plan, levels = self.data["pool"], self.plan, self.find_levels(rule)
        chosen: list[int] = []
        curve: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as scratch:
            place = self.first
            while True:
                point, potential = self.learn(chosen, place)
                curve.append(point)
                if not (n_batch := plan.next_batch(rule, len(chosen))):
                    break
                rows, seconds = self.extend(rule_of(rule, levels), rule, n_batch, potential, chosen)
                curve[-1] |= {"select_seconds": seconds}
                if not rows:
                    break
                chosen += rows
                place = Path(scratch) / f"{len(chosen)}"
            kept = self.folder / "potentials" / f"{self.case}-{self.seed}-{file_name(rule)}"
            keep_potential(place if rule != "random" else Path(scratch) / f"{plan.points[-1]}", kept)
            steps = round(plan.longer * plan.n_steps)
            longer = self.learn(chosen, Path(scratch) / "longer", steps)[0] if self.seed < LONGER.get(rule, 0) else None
        kinds = [frames[k].info["kind"] for k in chosen]
        return {"case": self.case, "seed": self.seed, "rule": rule, "curve": curve, "kinds": kinds} | {
            "longer": None if longer is None else longer | {"steps": steps},
            "levels": levels,
        }

    def learn(self, chosen: Sequence[int], place: Path, n_steps: int | None = None) -> tuple[dict[str, Any], Potential]:
        """A point of a curve, and its potential, which is trained in ``place``."""
        frames, began = self.data["pool"], time.process_time()
        potential = self.train(self.training(chosen), place, n_steps or self.plan.n_steps)
        trained = time.process_time() - began
        errors = measure(potential, place, self.data["test"])
        sizes = np.array([len(frames[k]) for k in chosen], float)
        # In units of a label of 32 atoms.
        cost = float(np.sum(predict_cost(sizes / 32, np.zeros(0), np.zeros(0))))
        point = {"labels": len(chosen), "atoms": int(sizes.sum()), "cost": cost, "errors": errors}
        return point | {"macro": macro(errors), "train_seconds": trained}, potential

    def training(self, chosen: Sequence[int]) -> list[Atoms]:
        """What is trained on with the frames ``chosen``."""
        return [*self.data["prepared"], *(self.data["pool"][k] for k in chosen)]

    def extend(
        self, method: Method, rule: str, n_batch: int, potential: Potential, chosen: Sequence[int]
    ) -> tuple[list[int], float]:
        """Next batch of ``method``, and the seconds that features and choice took."""
        frames, began = self.data["pool"], time.process_time()
        free = np.ones(len(frames), bool)
        free[list(chosen)] = False
        pool = build_pool(potential, self.training(chosen), frames, free)
        if rule.endswith("by cost"):
            sizes = np.array([len(atoms) for atoms in frames], float)
            pool = replace(pool, cost=predict_cost(sizes, np.zeros(0), np.zeros(0)))
        systems = {a.info["source"] for a in frames}
        if len(systems) > 1 and rule.split(",")[0] in ("clusters", "log-determinant", "farthest"):
            pool = replace(pool, quotas=share_quotas(pool, n_batch))
        rng = derive_rng(self.seed, self.case, rule, len(chosen))
        choice = method(pool, n_batch, rng)
        return choice.rows.tolist(), time.process_time() - began

    def find_levels(self, rule: str) -> tuple[float, float]:
        """DP-GEN's trust levels, eV/Å, for the rule of this name: the best for another seed's pool."""
        if rule != "trust-levels":
            return TRUST_LEVELS
        record = self.folder / "levels" / f"{self.case}.json"
        if not record.exists():
            other = Run(self.folder, self.case, TUNING_SEED, self.plan)
            record.parent.mkdir(parents=True, exist_ok=True)
            write_json(record, other.tune_levels())
        low, high = json.loads(record.read_text())["levels"]
        return low, high

    def tune_levels(self) -> dict[str, Any]:
        """Of :data:`LEVELS` on this pool, the ones whose first labels, as many as the second point's, teach most.

        In eV/Å, for DP-GEN's levels are numbers that stay; quantiles are those of the first potential's deviations.
        """
        n_batch, tried = self.plan.points[1], list[dict[str, Any]]()
        with tempfile.TemporaryDirectory() as scratch:
            potential = self.train(self.training([]), self.first, self.plan.n_steps)
            largest = [p.force_uncertainty.max() for p in potential.predict(self.data["pool"])]
            for k, quantiles in enumerate(LEVELS):
                low, high = np.quantile(largest, quantiles).tolist()
                method = rule_of("trust-levels", (low, high))
                rows, _ = self.extend(method, "trust-levels", n_batch, potential, [])
                point, _ = self.learn(rows, Path(scratch) / str(k))
                tried.append({"levels": [low, high], "quantiles": quantiles, "macro": point["macro"]})
        return min(tried, key=lambda entry: entry["macro"]) | {"seed": self.seed, "tried": tried}


def file_name(rule: str) -> str:
    """``rule`` without what file names had better not have."""
    return rule.replace(", ", "-").replace(" ", "-")


def keep_potential(folder: Path, kept: Path) -> None:
    """A copy of a potential that was trained in ``folder``, without what only a training needs."""
    if folder.exists():
        shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint*", "*.nc"))


def run_all(
    folder: Path,
    plan: Plan,
    cases: Sequence[str],
    rules: Sequence[str],
    seconds: float,
    seeds: Sequence[int] | None = None,
) -> None:
    """Every run that has no record yet, seeds in the outer loop, until the time is over.

    Pools whose teacher is missing here are left out, with a line that says why.
    """
    end = time.monotonic() + seconds
    obstacles = {case: slow_pools.find_obstacle(case) for case in cases}
    for case, obstacle in obstacles.items():
        if obstacle:
            print(f"{case}: left out, {obstacle}", flush=True)
    for seed in SEEDS if seeds is None else seeds:
        for case in (case for case in cases if not obstacles[case]):
            run: Run | None = None
            for rule in [*rules, *FURTHER.get(case, ())]:
                record = folder / "runs" / case / f"{seed}-{file_name(rule)}.json"
                if record.exists():
                    continue
                if time.monotonic() > end:
                    return
                run = run or Run(folder, case, seed, plan)
                record.parent.mkdir(parents=True, exist_ok=True)
                write_json(record, run.follow(rule) | {"plan": vars(plan)})
                print(record, flush=True)
            shutil.rmtree(folder / "first" / f"{case}-{seed}", ignore_errors=True)


def main() -> None:
    """Run, or print the table of what has been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where records are and go")
    parser.add_argument("--seconds", type=float, default=4 * 3600.0, help="begin no run after so many")
    cases = [*pools.CASES, *slow_pools.CASES]
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases)
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    parser.add_argument("--rules", nargs="+", default=[*RULES], choices=RULES)
    parser.add_argument("--short", action="store_true", help="tiny pools and trainings, to see that it works")
    parser.add_argument("--table", action="store_true", help="print what has been measured, run nothing")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if not given.table:
        run_all(given.folder, SHORT if given.short else Plan(), given.cases, given.rules, given.seconds, given.seeds)
    records = [json.loads(path.read_text()) for path in sorted((given.folder / "runs").glob("*/*.json"))]
    from curves import tabulate

    print(tabulate(records))


if __name__ == "__main__":
    main()
