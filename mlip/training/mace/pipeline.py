"""Training and fine-tuning of MACE committees: inputs and outputs as for our own potential."""

from __future__ import annotations

import copy
import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from mlip.config.train import Train
from mlip.potential.atomic_basis import AtomicBasis
from mlip.potential.mace.committee import EvaluationOptions, MACEPotential
from mlip.potential.mace.foundation import Foundation, read_foundation, reduce_elements
from mlip.potential.mace.network import (
    Architecture,
    accelerate,
    build_network,
    join_states,
    make_graph,
    release,
    require_mace,
    split_states,
)
from mlip.potential.uncertainty import Calibration
from mlip.structures.labelled import labelled_energy, labelled_forces
from mlip.structures.neighbors import Pairs
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
    read_virials,
)
from mlip.training.densities import build_dataset
from mlip.training.mace.trainer import MACETargets, MACETrainer
from mlip.training.parallel import count_processes
from mlip.training.request import TrainingRequest
from mlip.training.restart import load_fitting, move_zero
from mlip.training.results import write_training

LEARNING_RATES = {"scratch": 0.01, "fine-tuning": 0.0005}
READOUT_NOISE = 0.05
"""Relative change of a foundation model's readout by which the members begin apart."""
DESCRIPTOR_STRUCTURES = 100
"""Training structures, at most, that the scale of the descriptors is taken from."""


@dataclass(frozen=True)
class Start:
    """Where training begins: architecture, the members' networks (float64, CPU), E0s, the head they speak with.

    ``previous`` is the SHA-256 of the weights of an earlier potential that training goes on from.
    """

    architecture: Architecture
    networks: list[Any]
    isolated: dict[str, float]
    head: int
    previous: str | None = None


def train_mace_committee(request: TrainingRequest) -> dict[str, Any]:
    """Train a MACE committee; files, returns and errors of :func:`mlip.loop.train_committee.train_committee`.

    Raises:
        MissingBackendError: without mace-torch.
        PotentialFileError: for a foundation model that cannot be used.
        ValueError: in one of several processes.
    """
    began = time.perf_counter()
    if count_processes() > 1:
        raise ValueError(
            f"backend mace trains in one process, and torchrun started {count_processes()}; "
            "start `mlip train` without torchrun"
        )
    require_mace()
    start, basis, suspicions = _prepare(request)
    trainer = _make_trainer(request, start)
    trainer.run()
    result = _write_results(trainer, start, basis, suspicions, request, time.perf_counter() - began)
    if request.checkpoint is not None:
        request.checkpoint.unlink(missing_ok=True)
    return result


def _prepare(request: TrainingRequest) -> tuple[Start, AtomicBasis, list[str]]:
    """Check the data and find where training begins; warnings about the labels come last."""
    train, valid, settings = request.train, request.valid, request.settings
    if not train:
        raise TrainingDataError("the training set is empty; label more structures or lower collect's fractions")
    check_structures(train, "train")
    foundation = read_foundation(settings.mace.foundation_model) if settings.mace.foundation_model else None
    cutoff = foundation.architecture.r_max if foundation else settings.radius
    pairs = prepare_pairs(train, cutoff)
    basis = find_atomic_basis(train, pairs, settings.model_copy(update={"cutoff": cutoff}))
    check_structures(valid, "valid", known=set(basis.species))
    check_structures(request.audits, "audits", known=set(basis.species))
    start = _start_from(foundation, request, basis) if foundation else _start_afresh(request, basis)
    suspicions = _find_suspicions(train, valid, pairs, basis, start.isolated, settings)
    if request.start_from is not None:
        start = _continue(start, request.start_from, basis, request)
    return start, basis, suspicions


def _make_trainer(request: TrainingRequest, start: Start) -> MACETrainer:
    settings, device = request.settings, request.device
    cueq = settings.mace.cueq and start.architecture.has_cueq_form
    trained = [accelerate(copy.deepcopy(n).float(), device, cueq) for n in start.networks]
    decisive = [fingerprint([*request.train, *request.valid]), settings.model_dump(), request.seed, device]
    decisive += [request.isolated_energies, request.max_seconds]
    decisive.append([hashlib.sha256(_bytes(network)).hexdigest() for network in start.networks])
    kind = "fine-tuning" if settings.mace.foundation_model else "scratch"
    return MACETrainer(
        trained,
        _targets(request.train, start),
        _targets(request.valid, start),
        settings.mace.learning_rate or LEARNING_RATES[kind],
        start.head,
        device,
        settings=settings,
        seed=request.seed,
        identity=hashlib.sha256(json.dumps(decisive).encode()).hexdigest(),
        max_seconds=request.max_seconds,
        checkpoint=request.checkpoint,
        progress=request.progress,
        start=1.0 - settings.restart_fraction if start.previous else 0.0,
        keys=[fingerprint([atoms]) for atoms in request.train],
    )


def _find_suspicions(
    train: Sequence[Atoms],
    valid: Sequence[Atoms],
    pairs: Sequence[Pairs],
    basis: AtomicBasis,
    isolated: dict[str, float],
    settings: Train,
) -> list[str]:
    """Warnings about inconsistent labels, by the small linear model that our own potential's training asks, too."""
    if settings.consistency == "off":
        return []
    data = build_dataset(train, pairs, basis, isolated, "cpu")
    other = build_dataset(valid, prepare_pairs(valid, basis.cutoff), basis, isolated, "cpu") if valid else None
    suspicions = check_consistency(train, data, len(basis.species), settings.consistency, valid=valid, valid_data=other)
    for suspicion in suspicions:
        warnings.warn(suspicion, stacklevel=3)
    return suspicions


def _bytes(network: torch.nn.Module) -> bytes:
    return b"".join(p.detach().cpu().numpy().tobytes() for p in network.parameters())


def _start_afresh(request: TrainingRequest, basis: AtomicBasis) -> Start:
    """Networks with random weights."""
    train = request.train
    isolated = fit_isolated_energies(train, basis, request.isolated_energies)
    architecture = _architecture(train, request.settings)
    members = range(request.settings.committee_size)
    networks: list[Any] = [build_network(architecture, request.seed + 7919 * k) for k in members]
    scale = np.sqrt(np.mean(np.concatenate([labelled_forces(a) for a in train]) ** 2))
    for network in networks:
        network.scale_shift.scale.fill_(max(float(scale), 1e-3))
    return Start(architecture, networks, isolated, 0)


def _start_from(foundation: Foundation, request: TrainingRequest, basis: AtomicBasis) -> Start:
    """Copies of a foundation model, restricted to the data's elements."""
    train, settings = request.train, request.settings
    head = foundation.find_head(settings.mace.foundation_head)
    numbers = sorted({int(z) for atoms in train for z in atoms.numbers})
    foundation = reduce_elements(foundation, numbers)
    members = range(settings.committee_size)
    networks: list[Any] = [_vary_readouts(foundation.network(), request.seed + 7919 * k) for k in members]
    zero = dict.fromkeys(basis.species, 0.0)
    if request.isolated_energies is not None:
        isolated = fit_isolated_energies(train, basis, request.isolated_energies)
    else:  # the foundation model knows what bonds are worth; the rest is the labeller's zero of energy
        state = join_states([foundation.state] * 2)
        evaluation = EvaluationOptions(head, device=request.device)
        before = MACEPotential(foundation.architecture, state, 2, basis.species, zero, Calibration(), evaluation)
        rest = [labelled_energy(a) - p.energy for a, p in zip(train, before.predict(train), strict=True)]
        fitted = np.linalg.lstsq(composition(train, basis), np.array(rest), rcond=None)[0]
        isolated = dict(zip(basis.species, fitted.tolist(), strict=True))
    return Start(foundation.architecture, networks, isolated, head)


def _continue(start: Start, folder: Path, basis: AtomicBasis, request: TrainingRequest) -> Start:
    """The weights of the potential in ``folder``; ``start``, with a warning, when they do not fit."""

    def difference(before: MACEPotential) -> str:
        fits = before.n_members == len(start.networks) and _same(before.architecture, start.architecture)
        return "" if fits else "its architecture or number of members differs"

    previous = load_fitting(folder, MACEPotential, basis.species, difference)
    if previous is None:
        return start
    before, sha256 = previous
    networks: list[Any] = [build_network(before.architecture) for _ in range(before.n_members)]
    for network, state in zip(networks, split_states(before.state, before.n_members), strict=True):
        network.load_state_dict(state)
    # What was fitted once stays, unless the labels count from elsewhere: it is what the network's energies add to.
    isolated = start.isolated
    if request.isolated_energies is None:
        isolated = move_zero(before, before.isolated_energies, request.train)
    return Start(before.architecture, networks, isolated, before.evaluation.head, sha256)


def _same(first: Architecture, second: Architecture) -> bool:
    """Whether weights of one fit the other; the mean number of neighbours is a statistic of the data."""
    return replace(first, avg_num_neighbors=0.0) == replace(second, avg_num_neighbors=0.0)


def _architecture(train: Sequence[Atoms], settings: Train) -> Architecture:
    chosen = settings.mace
    numbers = tuple(sorted({int(z) for atoms in train for z in atoms.numbers}))
    edges = sum(make_graph(atoms, numbers, settings.radius).edges.shape[1] for atoms in train)
    return Architecture(
        atomic_numbers=numbers,
        r_max=settings.radius,
        hidden_irreps=chosen.hidden_irreps,
        max_ell=chosen.max_ell,
        correlation=chosen.correlation,
        num_interactions=chosen.num_interactions,
        num_bessel=chosen.num_radial_basis,
        avg_num_neighbors=max(1.0, edges / sum(len(atoms) for atoms in train)),
    )


@torch.no_grad()
def _vary_readouts(network: Any, seed: int) -> Any:
    """The members of a fine-tuned committee begin a little apart."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.readouts.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.mul_(1.0 + READOUT_NOISE * noise)
    return network


def _targets(train: Sequence[Atoms], start: Start) -> MACETargets:
    virials, has_stress = read_virials(train)
    isolated = [sum(start.isolated[s] for s in atoms.get_chemical_symbols()) for atoms in train]
    return MACETargets(
        [make_graph(atoms, start.architecture.atomic_numbers, start.architecture.r_max) for atoms in train],
        np.array([labelled_energy(atoms) for atoms in train]) - np.array(isolated),
        [labelled_forces(atoms) for atoms in train],
        virials.numpy(),
        has_stress.numpy(),
    )


def _write_results(
    trainer: MACETrainer,
    start: Start,
    basis: AtomicBasis,
    suspicions: list[str],
    request: TrainingRequest,
    seconds: float,
) -> dict[str, Any]:
    settings, train = trainer.settings, request.train
    cueq = settings.mace.cueq and start.architecture.has_cueq_form
    with torch.no_grad():  # coupling coefficients stay in double precision: only weights went through float32
        for network, trained in zip(start.networks, trainer.networks, strict=True):
            weights = dict(release(trained, trainer.device, cueq).named_parameters())
            for name, parameter in network.named_parameters():
                parameter.copy_(weights[name].reshape(parameter.shape))
    potential = MACEPotential(
        start.architecture,
        join_states([network.state_dict() for network in start.networks]),
        len(start.networks),
        basis.species,
        start.isolated,
        Calibration(),
        EvaluationOptions(start.head, settings.mace.dtype, settings.mace.cueq, trainer.device),
        shortest=basis.shortest,
    )
    potential.descriptor_scale = _descriptor_scale(potential, train)
    details = {
        "device": trainer.device,
        "n_parameters": sum(p.numel() for p in trainer.networks[0].parameters()),
        "previous": start.previous,
        "warnings": suspicions,
        "seconds": round(seconds, 3),
    }
    held = HeldOut.predict(potential, train, request.held_out)
    return write_training(potential, trainer, request, held, details=details)


def _descriptor_scale(potential: MACEPotential, train: Sequence[Atoms]) -> float:
    """One over the typical distance of two atoms of one element in the training data, before scaling."""
    step = -(-len(train) // DESCRIPTOR_STRUCTURES)
    table = np.concatenate(potential.describe(train[::step]))
    n_elements = len(potential.architecture.atomic_numbers)
    features, elements = table[:, :-n_elements], table[:, -n_elements:].argmax(1)
    groups = [features[elements == k] for k in np.unique(elements)]
    square = sum(float(np.sum((group - group.mean(0)) ** 2)) for group in groups) / len(features)
    size = float(np.sqrt(np.mean(np.sum(features**2, axis=1))))
    return 1.0 / max(np.sqrt(2.0 * square), 1e-3 * size, 1e-12)
