"""What happens before and after the optimisation: data, statistics, calibration, files."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mlip.config.train import Train
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.ace.size import Size
from mlip.potential.atomic_basis import AtomicBasis
from mlip.potential.uncertainty import Calibration
from mlip.statistics import fit_absolute
from mlip.training.ace.posterior import compare_last_layer, fit_last_layer
from mlip.training.ace.restart import Previous, load_previous
from mlip.training.ace.trainer import Trainer
from mlip.training.calibration import HeldOut
from mlip.training.consistency import check_consistency
from mlip.training.data import (
    TrainingDataError,
    check_structures,
    composition,
    find_atomic_basis,
    fingerprint,
    fit_isolated_energies,
    prepare_pairs,
)
from mlip.training.densities import Dataset, build_dataset, with_repulsion
from mlip.training.parallel import Processes, join_processes
from mlip.training.repulsion import fit_continuation
from mlip.training.request import TrainingRequest
from mlip.training.restart import move_zero
from mlip.training.results import write_training

USUAL_FORCES = 0.995
"""Share of the force components that tell their typical size: one wrong label must not."""


@dataclass(frozen=True)
class Prepared:
    """Everything the optimisation needs."""

    basis: AtomicBasis
    network: CommitteeNetwork
    data: Dataset
    isolated: dict[str, float]
    fingerprint: str
    warnings: list[str]
    keys: list[str]
    valid: Dataset | None = None
    previous: Previous | None = None

    def start(self, settings: Train) -> float:
        """Share of the schedule that weights of an earlier potential spare."""
        return 1.0 - settings.restart_fraction if self.previous is not None else 0.0


def train_ace_committee(request: TrainingRequest) -> dict[str, Any]:
    """Train, calibrate and write an ACE committee; returns and errors of :func:`mlip.loop.train_committee`."""
    with join_processes(request.device) as (processes, own_device):
        return _train(replace(request, device=own_device), processes)


def _train(request: TrainingRequest, processes: Processes) -> dict[str, Any]:
    """The training of one process of ``processes``; an empty result for all but the first."""
    began = time.perf_counter()
    settings = request.settings
    prepared = prepare_training(request)
    trainer = Trainer(
        prepared.network,
        prepared.data,
        prepared.valid,
        settings=settings,
        seed=request.seed,
        identity=_identity(request, prepared),
        max_seconds=request.max_seconds,
        checkpoint=request.checkpoint,
        progress=request.progress,
        start=prepared.start(settings),
        keys=prepared.keys,
        processes=processes,
    )
    trainer.run()
    if not processes.first:
        return {}
    result = write_results(prepared, trainer, request, time.perf_counter() - began)
    if request.checkpoint is not None:
        request.checkpoint.unlink(missing_ok=True)
    return result


def _identity(request: TrainingRequest, prepared: Prepared) -> str:
    """Digest of all that decides the weights: a checkpoint of another training does not fit."""
    origin = prepared.previous.sha256 if prepared.previous is not None else None
    kind = request.device.partition(":")[0]
    decisive = [prepared.fingerprint, request.settings.model_dump(), request.seed, kind]
    decisive += [request.isolated_energies, request.max_seconds, origin]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def prepare_training(request: TrainingRequest) -> Prepared:
    """Check the data, cache their geometry and initialise the network: by statistics, or with earlier weights."""
    train, valid, settings = request.train, request.valid, request.settings
    isolated_energies, zero = request.isolated_energies, dict[str, float]()
    if not train:
        raise TrainingDataError("the training set is empty; label more structures or lower collect's fractions")
    check_structures(train, "train")
    pairs = prepare_pairs(train, settings.radius)
    basis = find_atomic_basis(train, pairs, settings)
    check_structures(valid, "valid", known=set(basis.species))
    size = find_size(basis, settings)
    earlier = load_previous(request.start_from, basis, size)
    if earlier is not None:
        basis = earlier.merge_basis(basis)
        # What was fitted once stays, unless the labels count from elsewhere: it is what the network's energies add to.
        zero = move_zero(earlier.potential, earlier.potential.isolated_energies, train)
        isolated_energies = isolated_energies or zero
    elif settings.short_range == "fitted":
        basis = fit_continuation(train, pairs, basis)
    isolated = fit_isolated_energies(train, basis, isolated_energies)
    data = build_dataset(train, pairs, basis, isolated, request.device)
    watched = (
        build_dataset(valid, prepare_pairs(valid, settings.radius), basis, isolated, request.device) if valid else None
    )
    check_structures(request.audits, "audits", known=set(basis.species))
    suspicions = check_consistency(
        train,
        with_repulsion(data),
        len(basis.species),
        settings.consistency,
        valid=valid,
        valid_data=with_repulsion(watched) if watched is not None else None,
    )
    for suspicion in suspicions:
        warnings.warn(suspicion, stacklevel=2)
    network = CommitteeNetwork(size, request.seed).to(request.device)
    if earlier is not None:
        earlier.fill(network, zero, isolated)
    else:
        network.fit_statistics(data.environments, data.density)
        _fit_energy_scales(network, data, composition(train, basis))
    keys = [fingerprint([atoms]) for atoms in train]
    return Prepared(basis, network, data, isolated, fingerprint([*train, *valid]), suspicions, keys, watched, earlier)


def find_size(basis: AtomicBasis, settings: Train) -> Size:
    """Network hyperparameters for ``basis``."""
    return Size(
        n_members=settings.committee_size,
        n_species=len(basis.species),
        n_radial=basis.n_radial,
        l_max=basis.l_max,
        n_channels=settings.n_channels,
        body_order=settings.body_order,
        hidden=settings.hidden,
        n_layers=settings.n_layers,
    )


@torch.no_grad()
def _fit_energy_scales(network: CommitteeNetwork, data: Dataset, counts: np.ndarray) -> None:
    """Shift: typical energy per atom of each species. Scale: typical force, but for the largest, times 1 Å."""
    shift = fit_absolute(counts, data.energies.double().cpu().numpy())
    network.shift.copy_(torch.from_numpy(shift))
    forces = data.forces.abs().double().cpu().numpy()
    usual = np.minimum(forces, np.quantile(forces, USUAL_FORCES))
    network.scale.fill_(max(float(np.sqrt(np.mean(usual**2))), 1e-3))


def write_results(prepared: Prepared, trainer: Trainer, request: TrainingRequest, seconds: float) -> dict[str, Any]:
    """Write potential and ``training.json``; returns the latter's content."""
    train, device = request.train, request.device
    potential = ACEPotential(prepared.basis, prepared.network, prepared.isolated, Calibration(), device=device)
    held = HeldOut.predict(potential, train, request.held_out)
    compared = {}
    if trainer.settings.uncertainty == "last_layer":
        potential.last_layer = fit_last_layer(potential, train, held).to(device)
        held = HeldOut.predict(potential, train, request.held_out)
    else:
        compared["last_layer"] = compare_last_layer(potential, train, held)
    parameters = sum(p.numel() for p in prepared.network.parameters())
    details = {
        "device": device,
        "n_parameters": parameters // prepared.network.size.n_members,
        "previous": prepared.previous.sha256 if prepared.previous is not None else None,
        "warnings": prepared.warnings,
        "seconds": round(seconds, 3),
    }
    return write_training(potential, trainer, request, held, details=details, compared=compared)
