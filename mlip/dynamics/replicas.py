"""Langevin dynamics of many replicas in step: one evaluation serves all of them where the potential can batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import all_changes
from ase.md.velocitydistribution import thermalize_momenta

from mlip.dynamics.limits import is_too_hot
from mlip.jobs.progress import Progress
from mlip.potential import Potential


@dataclass(frozen=True)
class Evaluation:
    """Energies [R] (eV), forces of each structure [n_atoms, 3] (eV/Å), stresses [R, 6] (eV/Å³; NaN without one)."""

    energies: np.ndarray
    forces: list[np.ndarray]
    stresses: np.ndarray


Evaluate = Callable[[Sequence[Atoms]], Evaluation]


@dataclass
class Trace:
    """What one replica did: a value per sample.

    Attributes:
        times: fs.
        energies: potential energy, eV.
        temperatures: kinetic, K.
        pressures: eV/Å³, virial and kinetic part.
        virials: eV/Å³, the virial part alone.
        frames: structures at every ``keep_every``-th sample, with ``sample`` in ``info``.
        stable: False where the replica exploded; samples end before.
    """

    times: list[float] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    pressures: list[float] = field(default_factory=list)
    virials: list[float] = field(default_factory=list)
    frames: list[Atoms] = field(default_factory=list)
    stable: bool = True


def batched(potential: Potential) -> Evaluate:
    """Evaluates all structures at once with the mean of ``potential`` in single precision."""
    fast = potential.in_precision("single")

    def evaluate(structures: Sequence[Atoms]) -> Evaluation:
        predictions = fast.predict(structures, uncertainty=False)
        stresses = [np.full(6, np.nan) if p.stress is None else p.stress for p in predictions]
        return Evaluation(
            np.array([p.energy for p in predictions]), [p.forces for p in predictions], np.array(stresses)
        )

    return evaluate


def one_by_one(calculator: Any) -> Evaluate:
    """Evaluates structures in turn with an ASE ``calculator``."""

    def evaluate(structures: Sequence[Atoms]) -> Evaluation:
        energies, forces, stresses = [], [], []
        for atoms in structures:
            copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)
            periodic = bool(copy.pbc.all())
            # Straight to the calculation: comparing with the structure before takes ASE as long as cheap forces do.
            calculator.calculate(copy, ["energy", "forces", *(["stress"] if periodic else [])], list(all_changes))
            values = calculator.results
            energies.append(values["energy"])
            forces.append(np.array(values["forces"]))
            stresses.append(np.array(values["stress"]) if periodic else np.full(6, np.nan))
        return Evaluation(np.array(energies), forces, np.array(stresses))

    return evaluate


@dataclass(frozen=True)
class LangevinPlan:
    """How long Langevin dynamics runs, and what of it is kept.

    Attributes:
        timestep: fs.
        friction: 1/fs.
        n_steps: steps.
        sample_every: steps between samples.
        keep_every: samples between kept frames.
    """

    timestep: float
    friction: float
    n_steps: int
    sample_every: int
    keep_every: int = 1


def run_nvt(
    replicas: Sequence[Atoms],
    evaluate: Evaluate,
    temperatures: Sequence[float],
    plan: LangevinPlan,
    *,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> list[Trace]:
    """Langevin dynamics by BAOAB of all ``replicas``, which are left at their last positions and momenta.

    B. Leimkuhler and C. Matthews, J. Chem. Phys. 138, 174102 (2013): half kick, half drift,
    Ornstein-Uhlenbeck, half drift, half kick.

    Args:
        replicas: structures; momenta that are all zero are drawn for the temperature.
        evaluate: energies, forces and stresses of a list of structures.
        temperatures: of each replica, K.
        plan: step, friction, length and sampling.
        rng: random numbers.
        progress: called with ``{"step", "n_steps"}`` now and then.
    """
    for atoms, temperature in zip(replicas, temperatures, strict=True):
        if not atoms.get_momenta().any():
            thermalize_momenta(atoms, temperature, rng=rng)
    traces = [Trace() for _ in replicas]
    evaluation = evaluate(replicas)
    forces = list(evaluation.forces)
    alive = list(range(len(replicas)))
    # Velocities forget in an Ornstein-Uhlenbeck step: they keep the share exp(-friction timestep).
    dt, decay = plan.timestep * units.fs, np.exp(-plan.friction * plan.timestep)
    for step in range(1, plan.n_steps + 1):
        for k in alive:
            _half_step(replicas[k], forces[k], temperatures[k], dt, decay, rng)
        alive = [k for k in alive if _is_sane(replicas[k], temperatures[k], traces[k])]
        if not alive:
            break
        evaluation = evaluate([replicas[k] for k in alive])
        # The second half kick of B, with the forces at the new positions.
        for place, k in enumerate(alive):
            forces[k] = evaluation.forces[place]
            replicas[k].set_momenta(replicas[k].get_momenta() + 0.5 * dt * forces[k], apply_constraint=False)
        if step % plan.sample_every == 0:
            for place, k in enumerate(alive):
                _sample(
                    traces[k],
                    replicas[k],
                    evaluation.energies[place],
                    evaluation.stresses[place],
                    step * plan.timestep,
                    plan.keep_every,
                )
            if progress is not None and step % (20 * plan.sample_every) == 0:
                progress({"step": step, "n_steps": plan.n_steps})
    return traces


def _half_step(
    atoms: Atoms, forces: np.ndarray, temperature: float, dt: float, decay: float, rng: np.random.Generator
) -> None:
    """B, A, O and A of BAOAB."""
    masses = atoms.get_masses()[:, None]
    momenta = atoms.get_momenta() + 0.5 * dt * forces
    positions = atoms.positions + 0.5 * dt * momenta / masses
    width = np.sqrt(masses * units.kB * temperature * (1 - decay**2))
    momenta = decay * momenta + width * rng.normal(size=momenta.shape)
    atoms.positions = positions + 0.5 * dt * momenta / masses
    atoms.set_momenta(momenta, apply_constraint=False)


def _is_sane(atoms: Atoms, temperature: float, trace: Trace) -> bool:
    """Whether the structure may be evaluated; a neighbour list of NaN fails, hangs or fills the memory."""
    finite = np.isfinite(atoms.positions).all() and np.isfinite(atoms.get_momenta()).all()
    trace.stable = bool(finite and not is_too_hot(atoms.get_temperature(), temperature))
    return trace.stable


def _sample(trace: Trace, atoms: Atoms, energy: float, stress: np.ndarray, time: float, keep_every: int) -> None:
    virial = -float(stress[:3].mean())
    kinetic = 2 * atoms.get_kinetic_energy() / (3 * atoms.get_volume()) if atoms.pbc.all() else float("nan")
    if len(trace.times) % keep_every == 0:
        frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)
        frame.info["sample"] = len(trace.times)
        trace.frames.append(frame)
    trace.times.append(time)
    trace.energies.append(float(energy))
    trace.temperatures.append(atoms.get_temperature())
    trace.virials.append(virial)
    trace.pressures.append(virial + kinetic)
