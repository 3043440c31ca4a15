"""Labels that rules of selection need, on pools with known teachers: one JSON a run, resumable.

    python tests/benchmarks/selection/pool_benchmark.py results/selection --seconds 14400
    python tests/benchmarks/selection/pool_benchmark.py results/selection --table

A run is a pool, a seed and a rule. All rules of a seed start with the same prepared labels and the same potential
(paired); then a batch is chosen, labelled and learnt from scratch, and so on. Every training has the same number of
optimiser steps; since that starves large sets, the last set of every run is also trained for twice as many, and the
table says by how much that is better.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pools
from ase import Atoms

from mlip.active.acquisition import METHODS, Method, choose_clusters, choose_log_determinant, choose_trusted
from mlip.active.environments import EnvironmentTable, Known
from mlip.active.pool import Pool, share_quotas
from mlip.config.train import Train
from mlip.io.files import write_json
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential
from mlip.seeds import derive_rng, derive_seed
from mlip.studies.diffusion.acquisition import describe_structures, descriptor_scale

SEEDS = range(5)
RULES = (
    "random",
    "clusters",
    "log-determinant",
    "farthest",
    "farthest-mean",
    "product",
    "trust-levels",
    "clusters, no error",
    "log-determinant, by error",
)
"""In the order in which they are run; of the last two, one does not weight by the expected error and one does, other
than those rules do by default."""


@dataclass(frozen=True)
class Plan:
    """How much is done: batches of ``n_batch`` labels until ``n_most`` chosen ones, trainings of ``n_steps``.

    At random, batches are twice as large, and more of them are taken. ``longer`` is the factor on the steps of the last
    training, by which it is seen whether the large sets were starved.
    """

    n_batch: int = 8
    n_most: int = 32
    n_most_random: int = 96
    n_steps: int = 600
    n_pool: int | None = None
    n_test: int = 8
    n_channels: int = 8
    longer: int = 2

    def settings(self, n_steps: int) -> Train:
        """Of a training of ``n_steps``."""
        return Train(
            n_channels=self.n_channels,
            hidden=(16,),
            committee_size=3,
            n_steps=n_steps,
            early_stopping=False,
            learning_rate=0.008,
            consistency="off",
            restart="scratch",
            checkpoint_every=10**6,
        )


SHORT = Plan(n_batch=4, n_most=8, n_most_random=8, n_steps=40, n_pool=24, n_test=2, n_channels=4)
"""Minutes become seconds, and results become noise."""


def rule_of(name: str, pool: Pool) -> Method:
    """The rule called ``name`` in :data:`RULES`."""
    if name == "trust-levels":
        # Levels tuned to every potential anew, which is kinder than fixed ones: the upper half of what is not extreme.
        low, high = np.quantile(pool.largest[pool.usable], [0.5, 0.95])
        return partial(choose_trusted, levels=(float(low), float(high)))
    turned: dict[str, Callable[..., Any]] = {
        "clusters, no error": partial(choose_clusters, power=0.0),
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


def measure(potential: Potential, test: Sequence[Atoms]) -> dict[str, dict[str, float]]:
    """RMSE of force components, eV/Å, and their RMS, of each kind."""
    errors: dict[str, list[tuple[float, float]]] = {}
    for atoms, p in zip(test, potential.predict(test, uncertainty=False), strict=True):
        forces = atoms.get_forces()
        errors.setdefault(atoms.info["kind"], []).append((np.mean((p.forces - forces) ** 2), np.mean(forces**2)))
    means = {kind: np.sqrt(np.mean(pairs, axis=0)) for kind, pairs in errors.items()}
    return {kind: {"rmse": float(rmse), "rms": float(rms)} for kind, (rmse, rms) in means.items()}


def macro(errors: dict[str, dict[str, float]]) -> float:
    """Root mean square over kinds of RMSE over RMS force."""
    return float(np.sqrt(np.mean([(e["rmse"] / e["rms"]) ** 2 for e in errors.values()])))


class Run:
    """One case, seed and rule; the potentials are thrown away, but for the first, which all rules share."""

    def __init__(self, folder: Path, case: str, seed: int, plan: Plan) -> None:
        self.case, self.seed, self.plan = case, seed, plan
        self.first = folder / "first" / f"{case}-{seed}"
        self.data = pools.build_case(case, seed, n_pool=plan.n_pool, n_test=plan.n_test)
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
        frames, plan = self.data["pool"], self.plan
        chosen: list[int] = []
        curve: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as scratch:
            place = self.first
            while True:
                training = [*self.data["prepared"], *(frames[k] for k in chosen)]
                began = time.process_time()
                potential = self.train(training, place, plan.n_steps)
                trained = time.process_time() - began
                errors = measure(potential, self.data["test"])
                point = {"labels": len(chosen), "atoms": int(sum(len(frames[k]) for k in chosen)), "errors": errors}
                curve.append(point | {"macro": macro(errors), "train_seconds": trained})
                if len(chosen) >= (plan.n_most_random if rule == "random" else plan.n_most):
                    break
                rows, seconds = self.extend(rule, potential, training, chosen)
                curve[-1] |= {"select_seconds": seconds}
                if not rows:
                    break
                chosen += rows
                place = Path(scratch) / f"{len(chosen)}"
            more = plan.longer * plan.n_steps
            longer = measure(self.train(training, Path(scratch) / "longer", more), self.data["test"])
        kinds = [frames[k].info["kind"] for k in chosen]
        return {"case": self.case, "seed": self.seed, "rule": rule, "curve": curve, "kinds": kinds} | {
            "longer": {"steps": more, "errors": longer, "macro": macro(longer)}
        }

    def extend(
        self, rule: str, potential: Potential, training: Sequence[Atoms], chosen: list[int]
    ) -> tuple[list[int], float]:
        """Next batch, and the seconds that features and choice took."""
        frames, began = self.data["pool"], time.process_time()
        free = np.ones(len(frames), bool)
        free[chosen] = False
        pool = build_pool(potential, training, frames, free)
        systems = {a.info["source"] for a in frames}
        if len(systems) > 1 and rule.split(",")[0] in ("clusters", "log-determinant", "farthest"):
            pool = pool.limited(share_quotas(pool, self.plan.n_batch))
        rng = derive_rng(self.seed, self.case, rule, len(chosen))
        n_batch = self.plan.n_batch * (2 if rule == "random" else 1)
        choice = rule_of(rule, pool)(pool, n_batch, rng)
        return choice.rows.tolist(), time.process_time() - began


def run_all(folder: Path, plan: Plan, cases: Sequence[str], rules: Sequence[str], seconds: float) -> None:
    """Every run that has no record yet, seeds in the outer loop, until the time is over."""
    end = time.monotonic() + seconds
    for seed in SEEDS:
        for case in cases:
            run: Run | None = None
            for rule in rules:
                record = folder / "runs" / case / f"{seed}-{rule.replace(', ', '-').replace(' ', '-')}.json"
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
    parser.add_argument("--cases", nargs="+", default=[*pools.CASES], choices=[*pools.CASES])
    parser.add_argument("--rules", nargs="+", default=[*RULES], choices=RULES)
    parser.add_argument("--short", action="store_true", help="tiny pools and trainings, to see that it works")
    parser.add_argument("--table", action="store_true", help="print what has been measured, run nothing")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if not given.table:
        run_all(given.folder, SHORT if given.short else Plan(), given.cases, given.rules, given.seconds)
    records = [json.loads(path.read_text()) for path in sorted((given.folder / "runs").glob("*/*.json"))]
    from curves import tabulate

    print(tabulate(records))


if __name__ == "__main__":
    main()
