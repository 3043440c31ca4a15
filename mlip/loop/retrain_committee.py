"""The last committee trained once more on every label of the loop, for use; nothing has judged it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlip.config.train import Train
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json, write_json
from mlip.jobs.progress import Progress
from mlip.loop.train_committee import train_committee
from mlip.potential.files import DESCRIPTION
from mlip.structures.roles import is_audit
from mlip.training.request import TrainingRequest

JUDGED_BEFORE = (
    "trained on all labels, audits included, after the loop: certificate, errors and calibration are those of the "
    "potential before it, which saw no audit"
)
"""What a potential says of itself that was trained on the audits, too."""


@dataclass(frozen=True)
class RetrainRequest:
    """What :func:`retrain_committee` trains.

    Attributes:
        before: Folder of the last iteration's potential, which the audits have judged.
        dataset: Files of its labelled structures: what it was trained on, validated with, and tested on.
        isolated: JSON of the energy of an isolated atom per element, eV; an empty object has them fitted.
        out: Folder written.
        seed: Of the configuration.
        iteration: Number of the last iteration.
        device: Torch device.
        progress: Called with each entry of the history.
    """

    before: Path
    dataset: Sequence[Path]
    isolated: Path
    out: Path
    seed: int
    iteration: int
    device: str = "cpu"
    progress: Progress | None = None


def retrain_committee(request: RetrainRequest) -> None:
    """Train on all labels in as many steps as the potential before took, and say so in ``request.out``.

    Nothing is left to calibrate on or to stop by: the calibration, and what is expected of errors, are taken over.

    Raises:
        TrainingDataError: for data that cannot be trained on.
    """
    trained = read_json(request.before / "training.json")
    structures = [atoms for path in request.dataset for atoms in read_structures(path)]
    train_committee(
        TrainingRequest(
            structures,
            [],
            repeat_settings(trained),
            request.out,
            seed=request.seed,
            device=request.device,
            isolated_energies=read_json(request.isolated) or None,
            previous=request.before,
            checkpoint=request.out / "checkpoint",
            progress=request.progress,
        )
    )
    counts = {"n_structures": len(structures), "n_audits": sum(map(is_audit, structures))}
    take_over(request, trained, {"iteration": request.iteration, **counts, "note": JUDGED_BEFORE})


def repeat_settings(trained: Mapping[str, Any]) -> Train:
    """Settings by which a training takes the steps that one took whose ``training.json`` says ``trained``.

    One that went on from earlier weights ran the end of its schedule alone, as this one will; one from scratch all.
    """
    settings = Train(**trained["settings"])
    whole = trained["steps"] / (settings.restart_fraction if trained.get("previous") else 1.0)
    return settings.model_copy(update={"n_steps": max(1, round(whole)), "early_stopping": False})


def take_over(request: RetrainRequest, trained: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Give the new potential the calibration of the one before, and have both of its files say what it is."""
    training, description = read_json(request.out / "training.json"), read_json(request.out / DESCRIPTION)
    kept = {name: trained[name] for name in ("calibration", "uncertainty")}
    write_json(request.out / "training.json", training | kept | {"retrained": dict(told)}, checked=True)
    details = (description.get("details") or {}) | {"retrained": dict(told)}
    calibrated = description | {"calibration": trained["calibration"], "details": details}
    write_json(request.out / DESCRIPTION, calibrated, checked=True)
