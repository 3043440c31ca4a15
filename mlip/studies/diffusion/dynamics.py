"""Independent blocks of dynamics at constant energy, with any ASE calculator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from mlip.dynamics.guarded import DynamicsError, advance
from mlip.jobs.progress import Progress
from mlip.structures.geometry import make_supercell, scale_volume
from mlip.studies.diffusion.settings import Settings
from mlip.studies.diffusion.transport import DiffusionError

T_TAU = 100.0
"""Relaxation time of the thermostat, fs; it acts between the blocks only, for several of these times."""


class DynamicsFailed(DiffusionError):
    """Dynamics that came apart."""


@dataclass(frozen=True)
class Block:
    """Samples of a block, the centre of mass at rest.

    Attributes:
        positions: unwrapped, [n_samples, n_atoms, 3], Å.
        velocities: [n_samples, n_atoms, 3], Å/fs.
        forces: [n_samples, n_atoms, 3], eV/Å.
        stresses: [n_samples, 6], eV/Å³, Voigt, kinetic part included; None unless asked for.
        temperature: mean kinetic temperature, K.
        drift: change of the total energy over the block, eV/atom.
    """

    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray
    stresses: np.ndarray | None
    temperature: float
    drift: float


def prepare_system(start: Atoms, settings: Settings) -> Atoms:
    """``start`` at the volume and of the size to simulate.

    Raises:
        DiffusionError: unless it is periodic in three directions.
    """
    if not start.pbc.all():
        raise DiffusionError(
            f"{start.get_chemical_formula()} is not periodic in three directions; give a bulk starting structure"
        )
    atoms = scale_volume(make_supercell(start, settings.n_atoms), settings.volume)
    atoms.info = {}
    return atoms


def run_blocks(
    atoms: Atoms,
    calculator: Any,
    settings: Settings,
    rng: np.random.Generator,
    *,
    n_blocks: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Block]:
    """Melt (if asked to), equilibrate, then blocks at constant energy with Langevin dynamics between them.

    The Langevin runs make the blocks independent samples of the canonical ensemble; within a block no
    thermostat disturbs the diffusion.

    Args:
        atoms: start, at rest; left as it is.
        calculator: ASE calculator.
        settings: lengths, temperatures, sampling.
        rng: source of velocities and noise.
        n_blocks: instead of ``settings.n_blocks``.
        progress: called at each block with ``{"block", "n_blocks"}``.

    Raises:
        DynamicsFailed: when the dynamics comes apart.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    n_blocks = settings.n_blocks if n_blocks is None else n_blocks
    hot = settings.melt_temperature
    thermalize_momenta(atoms, temperature_K=hot or settings.temperature, rng=rng)
    if hot is not None:
        _thermostat(atoms, settings, hot, settings.equilibration, rng)
    _thermostat(atoms, settings, settings.temperature, settings.equilibration, rng)
    for k in range(n_blocks):
        if progress:
            progress({"block": k, "n_blocks": n_blocks})
        if k:
            _thermostat(atoms, settings, settings.temperature, settings.decorrelation, rng)
        # The energy of the centre of mass is not lost, only put into the other degrees of freedom.
        Stationary(atoms, preserve_temperature=False)
        yield _run_block(atoms, settings)


def _thermostat(
    atoms: Atoms, settings: Settings, temperature: float, duration: float, rng: np.random.Generator
) -> None:
    step = settings.timestep * units.fs
    dynamics = LangevinBAOAB(atoms, step, temperature_K=temperature, T_tau=T_TAU * units.fs, rng=rng)
    _advance(dynamics, round(duration / settings.timestep), temperature)


def _run_block(atoms: Atoms, settings: Settings) -> Block:
    dynamics = VelocityVerlet(atoms, settings.timestep * units.fs)
    n_samples = round(settings.block_length / settings.timestep / settings.sample_every) + 1
    shape = (n_samples, len(atoms), 3)
    positions, velocities, forces = (np.empty(shape) for _ in range(3))
    stresses = np.empty((n_samples, 6)) if settings.viscosity == "stress" else None
    temperatures = np.empty(n_samples)
    start = 0.0
    for k in range(n_samples):
        if k:
            _advance(dynamics, settings.sample_every, settings.temperature)
        else:
            start = atoms.get_total_energy()
        positions[k], velocities[k] = atoms.positions, atoms.get_velocities() * units.fs
        forces[k] = atoms.get_forces()
        temperatures[k] = kinetic_temperature(atoms)
        if stresses is not None:
            stresses[k] = atoms.get_stress(include_ideal_gas=True)
    drift = (atoms.get_total_energy() - start) / len(atoms)
    return Block(positions, velocities, forces, stresses, float(temperatures.mean()), float(drift))


def kinetic_temperature(atoms: Atoms) -> float:
    """Temperature of the 3n - 3 degrees of freedom that a resting centre of mass leaves, K."""
    return float(2 * atoms.get_kinetic_energy() / ((3 * len(atoms) - 3) * units.kB))


def _advance(dynamics: MolecularDynamics, n_steps: int, temperature: float) -> None:
    try:
        advance(dynamics, n_steps, temperature, watch_distances=False)
    except DynamicsError as error:
        raise DynamicsFailed(f"the dynamics came apart: {error}") from error
