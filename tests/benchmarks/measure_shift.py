"""Whether uncertainty rises where a potential errs because it has not seen the like, on silicon of the mlearn set.

    python tests/benchmarks/measure_shift.py DATA/mlearn --out shift.json

One kind of structure (``config_type``) is kept from training, calibration included; then that kind and
held-out structures of the known kinds are predicted. Ratio: RMS error over RMS uncertainty, 1 where it is
honest. Last column: the area under the ROC curve when a structure's largest uncertainty tells the unknown
kind from the known ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from scipy.stats import mannwhitneyu

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import load_potential
from mlip.potential.evaluation import compare_with_labels
from mlip.potential.interface import Prediction

SETTINGS: dict[str, dict[str, Any]] = {
    "committee": {},
    "last_layer": {"committee_size": 1, "uncertainty": "last_layer"},
}
HELD_SHARE = 0.15


def measure_kind(structures: list[Atoms], kind: str, estimator: str, steps: int, seed: int) -> dict[str, Any]:
    """One training without ``kind``."""
    unknown = [a for a in structures if a.info["config_type"] == kind]
    known = [a for a in structures if a.info["config_type"] != kind]
    order = np.random.default_rng([seed, 5]).permutation(len(known))
    n = round(HELD_SHARE * len(known))
    held, valid, train = ([known[k] for k in part] for part in (order[:n], order[n : 2 * n], sorted(order[2 * n :])))
    settings = Train(n_steps=steps, consistency="off", **SETTINGS[estimator])
    with tempfile.TemporaryDirectory() as folder:
        train_committee(TrainingRequest(train, valid, settings, Path(folder), seed=seed))
        potential = load_potential(Path(folder))
        predictions = [potential.predict(part) for part in (held, unknown)]
    quality = [describe(part, found) for part, found in zip((held, unknown), predictions, strict=True)]
    largest = [[float(p.force_uncertainty.max()) for p in found] for found in predictions]
    told = mannwhitneyu(largest[1], largest[0]).statistic / (len(held) * len(unknown))
    row = {"left_out": kind, "estimator": estimator, "seed": seed, "n_unknown": len(unknown), "told_apart": float(told)}
    return row | {"known": quality[0], "unknown": quality[1]}


def describe(structures: list[Atoms], predictions: list[Prediction]) -> dict[str, float | None]:
    """RMS error of force components and RMS uncertainty (eV/Å), their ratio and, atom by atom, rank correlation."""
    found = compare_with_labels(structures, predictions)
    std = float(np.sqrt(np.mean(np.concatenate([p.forces_std for p in predictions]) ** 2)))
    error = found["force_rmse"]
    return {"error": error, "std": std, "ratio": error / std, "spearman": found["spearman"]}


def show(row: dict[str, Any]) -> str:
    """``row`` as a row of the table."""
    cells = [" ".join(f"{row[part][key]:.3f}" for key in ("error", "std", "ratio")) for part in ("known", "unknown")]
    cells += [f"{row['unknown']['spearman']:.2f}", f"{row['told_apart']:.2f}"]
    return f"| {row['left_out']} ({row['n_unknown']}) | {row['estimator']} | {' | '.join(cells)} |"


def main() -> None:
    """Measure every kind with both estimators; print a table and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kinds", nargs="+", default=["Surface", "Vacancy", "Elastic", "AIMD-NVT"])
    parser.add_argument("--out", type=Path, default=Path("shift.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    structures = [a for name in ("training", "test") for a in ase.io.read(given.data / f"Si_{name}.extxyz", ":")]
    rows = []
    print("| left out | uncertainty | known: error, std, ratio | left out: error, std, ratio | ρ | told apart |")
    print("|---|---|--:|--:|--:|--:|", flush=True)
    for kind, estimator, seed in itertools.product(given.kinds, SETTINGS, given.seeds):
        rows.append(measure_kind(structures, kind, estimator, given.steps, seed))
        print(show(rows[-1]), flush=True)
    given.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
