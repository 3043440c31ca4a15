"""One training run of this package's potential, through its public interface."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import records

from mlip.config.backends import BACKENDS
from mlip.config.train import Train
from mlip.jobs.digests import code_digest, modules_of_step
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential


def evaluate(potential: Potential, folder: Path, name: str) -> dict[str, float]:
    """Errors on the structures ``name`` of the data set in ``folder``."""
    structures = records.read_split(folder, name)
    predictions = potential.predict(structures)
    return records.measure_errors(structures, [p.energy for p in predictions], [p.forces for p in predictions])


def main() -> None:
    """Train, evaluate and write the record."""
    given = records.run_parser(__doc__).parse_args()
    records.single_thread()
    train, valid = (records.read_split(given.data, name) for name in ("train", "valid"))
    settings = Train(**given.settings)
    began, watch = time.perf_counter(), records.Stopwatch(given.device)
    trained: list[float] = []
    result = train_committee(
        TrainingRequest(
            train,
            valid,
            settings,
            given.model,
            seed=given.seed,
            device=given.device,
            isolated_energies=records.read_isolated(given.data),
            max_seconds=given.budget,
            progress=lambda _: trained.append(watch.seconds),
        )
    )
    wall = time.perf_counter() - began
    finish = watch.seconds - trained[-1]
    potential = load_potential(given.model, given.device)
    record: dict[str, Any] = {
        "kind": "training",
        "package": given.package,
        "variant": given.variant,
        "dataset": given.data.name,
        "seed": given.seed,
        "budget": given.budget,
        "device": given.device,
        "settings": settings.model_dump(mode="json"),
        "code": code_digest(*modules_of_step("train_committee", BACKENDS["ace"])),
        "cpu_seconds": trained[-1],
        "data_seconds": max(trained[-1] - result["training_seconds"], 0.0),
        # Calibration, errors on the training data, files.
        "finish_seconds": finish,
        "wall_seconds": wall,
        "steps": result["steps"],
        "n_train": len(train),
        "n_parameters": result["n_parameters"],
        "errors": {name: evaluate(potential, given.data, name) for name in ["valid", *records.test_names(given.data)]},
        "curve": [],
    }
    records.write_record(given.out, record)


if __name__ == "__main__":
    main()
