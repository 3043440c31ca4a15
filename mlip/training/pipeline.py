"""What happens before and after the optimisation: data, statistics, calibration, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mlip.config import Train
from mlip.evaluation import evaluate_potential
from mlip.files import write_json
from mlip.potential.ace import CommitteeNetwork
from mlip.potential.committee import ACEPotential
from mlip.potential.environments import Frame
from mlip.training.data import (
    Dataset,
    TrainingDataError,
    build_dataset,
    check_structures,
    composition,
    find_frame,
    find_size,
    fingerprint,
    fit_isolated_energies,
    prepare_pairs,
)
from mlip.training.trainer import Trainer
from mlip.uncertainty import Calibration, collect_residuals, fit_calibration

MIN_VALIDATION_ATOMS = 20
"""Below this many validation atoms the calibration rests on the training data."""


@dataclass(frozen=True)
class Prepared:
    """Everything the optimisation needs."""

    frame: Frame
    network: CommitteeNetwork
    data: Dataset
    isolated: dict[str, float]
    fingerprint: str


def prepare_training(
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    settings: Train,
    seed: int,
    device: str,
    isolated_energies: dict[str, float] | None,
) -> Prepared:
    """Check the data, cache their geometry and initialise the network with their statistics."""
    if not train:
        raise TrainingDataError("the training set is empty; label more structures or lower collect's fractions")
    check_structures(train, "train")
    pairs = prepare_pairs(train, settings.cutoff)
    frame = find_frame(train, pairs, settings)
    check_structures(valid, "valid", known=set(frame.species))
    isolated = fit_isolated_energies(train, frame, isolated_energies)
    data = build_dataset(train, pairs, frame, isolated, device)
    network = CommitteeNetwork(find_size(frame, settings), seed).to(device)
    network.fit_statistics(data.density, data.environments.groups)
    _fit_energy_scales(network, data, composition(train, frame))
    return Prepared(frame, network, data, isolated, fingerprint([*train, *valid]))


@torch.no_grad()
def _fit_energy_scales(network: CommitteeNetwork, data: Dataset, counts: np.ndarray) -> None:
    """Shift: mean energy per atom of each species. Scale: typical force times 1 Å."""
    shift = np.linalg.lstsq(counts, data.energies.double().cpu().numpy(), rcond=None)[0]
    network.shift.copy_(torch.from_numpy(shift))
    network.scale.copy_(data.forces.square().mean().sqrt().clamp(min=1e-3))


def calibrate(potential: ACEPotential, train: Sequence[Atoms], valid: Sequence[Atoms]) -> Calibration:
    """Calibration on ``valid``, or, where that is too small, an inflated one on ``train``."""
    enough = sum(len(atoms) for atoms in valid) >= MIN_VALIDATION_ATOMS
    structures = list(valid) if enough else [*train, *valid]
    predictions = potential.predict(structures)
    residuals = collect_residuals(
        [a.get_chemical_symbols() for a in structures],
        [a.get_forces() for a in structures],
        [a.get_potential_energy() for a in structures],
        [p.forces_members for p in predictions],
        [p.energy_members for p in predictions],
    )
    return fit_calibration(residuals, source="validation" if enough else "training")


def write_results(
    prepared: Prepared,
    trainer: Trainer,
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    out: Path,
    device: str,
    seconds: float,
) -> dict[str, Any]:
    """Calibrate, evaluate and write potential and ``training.json``; returns the latter's content."""
    potential = ACEPotential(prepared.frame, prepared.network, prepared.isolated, Calibration(), device=device)
    potential.calibration = calibrate(potential, train, valid)
    potential.save(out)
    parameters = sum(p.numel() for p in prepared.network.parameters())
    result = {
        "settings": trainer.settings.model_dump(mode="json"),
        "seed": trainer.seed,
        "device": device,
        "n_train": len(train),
        "n_valid": len(valid),
        "n_parameters": parameters // prepared.network.size.n_members,
        "steps": trainer.step,
        "training_seconds": round(trainer.seconds, 3),
        "seconds": round(seconds, 3),
        "calibration": potential.calibration.to_json(),
        "train_errors": evaluate_potential(potential, train),
        "valid_errors": evaluate_potential(potential, valid) if valid else None,
        "history": trainer.history,
    }
    write_json(out / "training.json", result)
    return result
