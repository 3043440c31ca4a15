"""Held-out errors of a training with a constant of our code changed: what those of ``mlip.training`` rest on.

    python tests/benchmarks/try_constants.py results/benchmarks/data/Si --steps 3400 \\
        --set mlip.training.ace.trainer.RAMP "[0.001, 1.0]" --settings '{"committee_size": 4}'

A fifth of the published training structures is held out, at random or, with ``--hottest``, those of the highest
energies (of one composition), or ``--valid`` names others. Errors along the way are those of the averaged weights;
early stopping is off unless the settings say otherwise. The last line has mean absolute errors, root mean squares of
forces (eV/Å) and stress.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import warnings
from pathlib import Path

import ase.io
import numpy as np
import records
from ase import Atoms

from mlip.config.train import Train
from mlip.jobs.job import report_progress
from mlip.loop.train_committee import TrainingRequest, train_committee

HELD_OUT = 5  # one of so many


def split(folder: Path, other: Path | None, hottest: bool, fold: int) -> tuple[list[Atoms], list[Atoms]]:
    """Training and held-out structures."""
    if other is not None:
        return records.read_split(folder, "train"), ase.io.read(other, f"::{HELD_OUT}")
    structures = records.read_split(folder, "train") + records.read_split(folder, "valid")
    order = np.random.default_rng(7).permutation(len(structures))
    if hottest:
        order = np.argsort([atoms.get_potential_energy() for atoms in structures])[::-1]
    n = len(structures) // HELD_OUT
    order = np.roll(order, -fold * n)
    return [structures[k] for k in sorted(order[n:])], [structures[k] for k in order[:n]]


def main() -> None:
    """Change the constants, train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that prepare_data.py wrote")
    parser.add_argument("--steps", type=int, default=3400)
    parser.add_argument("--seconds", type=float, help="CPU time in place of --steps")
    parser.add_argument("--hottest", action="store_true")
    parser.add_argument("--fold", type=int, default=0, help="which fifth, 0 to 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={"committee_size": 1, "uncertainty": "last_layer"})
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("NAME", "JSON"))
    parser.add_argument("--valid", type=Path, help="other structures to hold out, every fifth of them")
    given = parser.parse_args()
    records.single_thread()
    warnings.filterwarnings("ignore", category=UserWarning)
    for name, value in given.set:
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, json.loads(value))
    train, valid = split(given.data, given.valid, given.hottest, given.fold)
    chosen = {"n_steps": given.steps, "early_stopping": False, "consistency": "off", **given.settings}
    with tempfile.TemporaryDirectory() as folder:
        result = train_committee(
            TrainingRequest(
                train,
                valid,
                Train(**chosen),
                Path(folder),
                seed=given.seed,
                max_seconds=given.seconds,
                isolated_energies=records.read_isolated(given.data),
                progress=report_progress(),
            )
        )
    shown = {name: result["valid_errors"][name] for name in ("energy_mae", "force_mae", "force_rmse", "stress_rmse")}
    print(json.dumps({"training_seconds": result["training_seconds"], **shown}))


if __name__ == "__main__":
    main()
