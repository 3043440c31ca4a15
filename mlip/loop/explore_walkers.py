"""Exploration: molecular dynamics on the committee, watched by its own uncertainty."""

from __future__ import annotations

import warnings
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import Stationary, thermalize_momenta

from mlip.config.loop import Explore
from mlip.config.walkers import WalkerPlan
from mlip.dynamics.guarded import DynamicsError, GuardedBAOAB, take_steps
from mlip.dynamics.limits import NEAREST, is_too_hot
from mlip.io.trajectory import Frame, write_trajectory
from mlip.jobs.progress import Progress
from mlip.seeds import derive_rng
from mlip.structures.geometry import min_distance_ratio, scale_volume
from mlip.structures.starting import load_starting_structure

RING_SIZE = 4
"""Recent frames remembered between samples, so that the last sane ones before a stop are kept."""


def explore_walker(
    potential: Path,
    plan: WalkerPlan,
    settings: Explore,
    *,
    seed: int,
    iteration: int,
    walker: int,
    out: Path,
    device: str = "cpu",
    progress: Progress | None = None,
) -> None:
    """Run one walker until it is finished, uncertain or exploded; keep its sane frames.

    Args:
        potential: Folder of the committee.
        plan: What to simulate.
        settings: Time step, length, sampling, limits.
        seed: Seed of the configuration; iteration and walker number are mixed in.
        iteration: Number of the iteration, for the frames' identity.
        walker: Number of the walker.
        out: NetCDF trajectory written.
        device: Torch device.
        progress: Called with ``{"step", "n_steps", "time_fs"}`` at every sample.
    """
    from mlip.potential.calculator import load_calculator

    start = load_starting_structure(plan.source)
    atoms = scale_volume(start, plan.volume) if plan.volume else start.copy()
    atoms.calc = load_calculator(potential, device=device, precision="single")
    rng = derive_rng(seed, "explore_walkers", iteration, walker)
    # Equipartition: half of the kinetic energy of an ideal crystal flows into its potential energy.
    thermalize_momenta(atoms, 2 * plan.temperature, rng=rng)
    Stationary(atoms)
    frames, reason = run_walker(atoms, plan, settings, rng, progress)
    write_trajectory(
        out,
        atoms,
        frames,
        {
            "walker": walker,
            "source": plan.source_number,
            "structure_id": f"iter_{iteration:02d}-walker_{walker:02d}",
            "ensemble": plan.ensemble,
            "target_temperature": plan.temperature,
            "target_pressure": plan.pressure,
            "relative_volume": plan.volume,
            "timestep_fs": settings.timestep,
            "stop_reason": reason,
            "stop_time_fs": frames[-1].time if frames else 0.0,
            "planned_time_fs": settings.n_steps * settings.timestep,
            "seed": seed,
        },
    )


def run_walker(
    atoms: Atoms,
    plan: WalkerPlan,
    settings: Explore,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> tuple[list[Frame], str]:
    """MD of ``atoms``; the kept frames and why it stopped.

    Returns:
        Frames every ``settings.sample_every`` steps, followed by the last sane ones where the
        walker stopped early; and ``finished``, ``uncertain`` or ``exploded``.

    Raises:
        Exception: whatever the calculator raises; only numbers that are no longer physical count
            as an explosion, never a failing program or machine.
    """
    dynamics = _dynamics(atoms, plan, settings, rng)
    frames: list[Frame] = []
    recent: deque[Frame] = deque(maxlen=RING_SIZE)
    stride = max(1, settings.sample_every // (2 * RING_SIZE))
    reason = "finished"
    for step in range(settings.n_steps + 1):
        frame = _observe(atoms, step * settings.timestep, regular=step % settings.sample_every == 0)
        if frame is None or _has_exploded(frame, plan):
            reason = "exploded"
            break
        if float(frame.force_uncertainty.max()) > settings.max_uncertainty:
            reason = "uncertain"
            recent.append(frame)
            break
        if frame.regular:
            frames.append(frame)
            recent.clear()
            if progress:
                progress({"step": step, "n_steps": settings.n_steps, "time_fs": frame.time})
        elif step % stride == 0:
            recent.append(frame)
        if step < settings.n_steps:
            try:
                take_steps(dynamics)
            except DynamicsError:
                reason = "exploded"
                break
    return (frames if reason == "finished" else frames + list(recent)), reason


def _dynamics(atoms: Atoms, plan: WalkerPlan, settings: Explore, rng: np.random.Generator) -> MolecularDynamics:
    """BAOAB Langevin dynamics, with a Langevin barostat for the NPT ensembles."""
    options: dict[str, Any] = {}
    if plan.ensemble != "nvt":
        if not atoms.pbc.all():
            raise ValueError("explore: NPT walkers need a structure that is periodic in three directions; use `nvt`")
        # ASE counts stress, not pressure: compression is negative.
        options = {
            "externalstress": -plan.pressure * units.GPa,
            "hydrostatic": plan.ensemble == "npt",
            "P_tau": 500 * units.fs,
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ASE announces its heuristic barostat mass
        return GuardedBAOAB(
            atoms,
            settings.timestep * units.fs,
            temperature_K=plan.temperature,
            T_tau=units.fs / settings.friction,
            rng=rng,
            **options,
        )


def _observe(atoms: Atoms, time: float, regular: bool) -> Frame | None:
    """The present frame, or None when it is no longer finite."""
    energy, forces, temperature = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_temperature()
    uncertainty = np.asarray(atoms.calc.results["force_uncertainty"])
    stress = atoms.calc.results.get("stress", 0.0)
    if not all(np.all(np.isfinite(x)) for x in (energy, forces, temperature, uncertainty, stress)):
        return None
    pressure = np.nan
    if atoms.pbc.all() and "stress" in atoms.calc.results:
        pressure = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa
    snapshot = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)
    ratio = min_distance_ratio(snapshot)
    return Frame(snapshot, time, energy, uncertainty, temperature, pressure, ratio, regular)


def _has_exploded(frame: Frame, plan: WalkerPlan) -> bool:
    return frame.min_distance_ratio < NEAREST or is_too_hot(frame.temperature, plan.temperature)
