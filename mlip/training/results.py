"""The end of a training, whatever the backend: calibration, errors and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from mlip.io.files import write_json
from mlip.potential.evaluation import evaluate_predictions
from mlip.potential.interface import Potential
from mlip.potential.uncertainty import Spread
from mlip.structures.labelled import mean_squared_forces
from mlip.training.calibration import HeldOut, report_uncertainty
from mlip.training.request import TrainingRequest
from mlip.training.schedule import Schedule


def write_training(
    potential: Potential,
    trainer: Schedule,
    request: TrainingRequest,
    held: HeldOut,
    *,
    details: Mapping[str, Any],
    compared: Mapping[str, Sequence[Spread]] | None = None,
) -> dict[str, Any]:
    """Calibrate ``potential`` and write it and ``training.json``; returns the latter's content.

    Args:
        potential: as trained.
        trainer: that trained it.
        request: what was asked for: its data and its output folder.
        held: structures to calibrate on, predicted by ``potential``.
        details: what only the backend knows of ``training.json``.
        compared: raw spreads on ``held`` by other estimators, for comparison.
    """
    train, valid = request.train, request.valid
    spreads = held.spreads(potential)
    potential.calibration, held = held.calibrate(spreads)
    potential.save(Path(request.out))
    estimator = potential.estimator
    result = {
        "settings": trainer.settings.model_dump(mode="json"),
        "seed": trainer.seed,
        "n_train": len(train),
        "n_valid": len(valid),
        "n_audits": len(request.audits),
        "rms_force": _rms_forces(train),
        **details,
        "steps": trainer.step,
        "training_seconds": round(trainer.seconds, 3),
        "calibration": potential.calibration.to_json(),
        "uncertainty": report_uncertainty(estimator, held, {estimator: spreads, **(compared or {})}),
        "train_errors": evaluate_predictions(train, held.predictions[: held.n_train] or potential.predict(train)),
        "valid_errors": evaluate_predictions(valid, held.predictions[held.n_train :][: len(valid)]) if valid else None,
        "history": trainer.history,
    }
    write_json(Path(request.out) / "training.json", result, checked=True)
    return result


def _rms_forces(train: Sequence[Atoms]) -> dict[str, Any]:
    """RMS force component (eV/Å) of the labels, of ``all`` and by starting structure."""
    squared = mean_squared_forces(train)
    roots = {str(source): value**0.5 for source, value in squared.items()}
    return {"all": (sum(squared.values()) / len(squared)) ** 0.5 if squared else 0.0, "structures": roots}
