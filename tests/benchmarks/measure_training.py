"""Cost of training: against the number of atoms, and of a committee against one member, at equal steps."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import records
from ase import Atoms

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee


def time_training(train: Sequence[Atoms], settings: dict[str, Any], n_steps: int, device: str) -> dict[str, float]:
    """Seconds to the end of the optimisation, in all and of one step."""
    every = max(1, n_steps // 5)
    model = Train(**{**settings, "n_steps": n_steps, "checkpoint_every": every})
    watch = records.Stopwatch(device)
    marks: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        train_committee(
            TrainingRequest(
                train,
                [],
                model,
                Path(folder),
                seed=0,
                device=device,
                progress=lambda entry: marks.append((entry["step"], watch.seconds)),
            )
        )
    (first, began), (last, ended) = marks[0], marks[-1]
    return {"seconds": ended, "step_seconds": (ended - began) / max(last - first, 1)}


def measure_committee(
    train: Sequence[Atoms], variants: dict[str, dict[str, Any]], n_steps: int, rounds: int, device: str
) -> list[dict[str, Any]]:
    """Variants in turns, at equal steps: seconds of one step, least and median over the rounds."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, settings in variants.items():
            found[name].append(time_training(train, settings, n_steps, device)["step_seconds"])
    return [
        {"variant": name, "n_steps": n_steps, "step_seconds": {"min": min(t), "median": statistics.median(t)}}
        for name, t in found.items()
    ]


def measure_sizes(
    train: Sequence[Atoms], settings: dict[str, Any], counts: Sequence[int], epochs: int, device: str
) -> list[dict[str, Any]]:
    """Seconds of ``epochs`` epochs on the first structures, geometry included."""
    rows = []
    for count in counts:
        chosen = [train[i % len(train)] for i in range(count)]
        n_steps = max(1, epochs * count // Train(**settings).batch_size)
        seconds = time_training(chosen, settings, n_steps, device)["seconds"]
        rows.append({"n_structures": count, "n_atoms": sum(map(len, chosen)), "epochs": epochs, "seconds": seconds})
    return rows


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variants", type=json.loads, required=True, help="{name: settings}; sizes use the last")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    records.single_thread()
    train = records.read_split(given.data, "train")
    last = list(given.variants.values())[-1]
    record = {
        "kind": "training_cost",
        "device": given.device,
        "committee": measure_committee(train, given.variants, given.steps, given.rounds, given.device),
        "sizes": measure_sizes(train, last, given.counts, given.epochs, given.device),
    }
    records.write_record(given.out, record)


if __name__ == "__main__":
    main()
