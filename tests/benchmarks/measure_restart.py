"""What training from the previous iteration's weights saves and costs, on silicon of the mlearn set.

    python tests/benchmarks/measure_restart.py DATA/mlearn --seeds 0 1 2 --out restart.json

A committee trained on 180 structures is trained on when 20 more arrive, with several shares of
the schedule, and compared with training from scratch on the 200; the rest is validation. ``held_out`` is
the set's own test file, which decides nothing here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import load_potential
from mlip.potential.evaluation import evaluate_potential
from mlip.training.data import find_atomic_basis, fit_isolated_energies, prepare_pairs, resolve_cutoff
from mlip.training.densities import build_dataset

FRACTIONS = (0.15, 0.3)
COLUMNS = ("energy_mae", "force_mae", "force_rmse", "coverage", "spearman")


def measure_seed(train: list[Atoms], test: list[Atoms], settings: Train, seed: int, folder: Path) -> list[dict]:
    order = np.random.default_rng(seed).permutation(len(train))
    shuffled = [train[k] for k in order]
    first, second, valid = shuffled[:180], shuffled[:200], shuffled[200:]

    def run(name: str, data: list[Atoms], **options: object) -> dict:
        previous = options.pop("previous", None)
        began = time.process_time()
        result = train_committee(
            TrainingRequest(
                data, valid, settings.model_copy(update=options), folder / name, seed=seed, previous=previous
            )
        )
        seconds = time.process_time() - began
        errors = evaluate_potential(load_potential(folder / name), test)
        quality = {key: errors[key] for key in COLUMNS}
        return {
            "run": name,
            "seed": seed,
            "steps": result["steps"],
            "cpu_seconds": seconds,
            "valid_force_mae": result["valid_errors"]["force_mae"],
            **quality,
        }

    rows = [run("first 180", first), run("scratch 200", second)]
    options = [{"previous": folder / "first 180", "restart_fraction": fraction} for fraction in FRACTIONS]
    return rows + [run(f"restart {o['restart_fraction']:g}", second, **o) for o in options]


def measure_geometry(train: list[Atoms], settings: Train) -> float:
    """CPU-seconds that neighbour lists and geometry of 200 structures take."""
    began = time.process_time()
    structures = train[:200]
    settings = resolve_cutoff(structures, settings, None)
    pairs = prepare_pairs(structures, settings.radius)
    basis = find_atomic_basis(structures, pairs, settings)
    build_dataset(structures, pairs, basis, fit_isolated_energies(structures, basis, None), "cpu")
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("restart.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    train = ase.io.read(arguments.data / "Si_training.extxyz", ":")
    test = ase.io.read(arguments.data / "Si_test.extxyz", ":")
    settings = Train(n_steps=arguments.steps)
    print(f"geometry of 200 structures: {measure_geometry(train, settings):.2f} CPU-s")
    rows = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure_seed(train, test, settings, seed, Path(folder)):
                rows.append(row)
                print(" ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
