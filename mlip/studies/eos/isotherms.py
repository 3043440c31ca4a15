"""Isotherms P(ρ) from NVT dynamics, with statistical and committee errors kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms, units

from mlip.dynamics.replicas import Evaluate, LangevinPlan, Trace, batched, one_by_one, run_nvt
from mlip.jobs.progress import Progress
from mlip.potential import Potential
from mlip.seeds import derive_rng
from mlip.statistics import block_average, detect_equilibration
from mlip.structures.geometry import make_supercell, scale_volume
from mlip.studies.eos.settings import Settings

STRAIN = 1e-3
"""Relative change of volume to either side from which members' pressures follow."""
FEWEST_SAMPLES = 32
"""Samples below which a state that exploded has no pressure."""

UNITS = {
    "pressure": "GPa",
    "pressure_error": "GPa",
    "pressure_naive_error": "GPa",
    "pressure_model_std": "GPa",
    "pressure_model_std_fixed": "GPa",
    "ideal_pressure": "GPa",
    "measured_temperature": "K",
    "potential_energy": "eV/atom",
    "equilibration_time": "fs",
    "inefficiency": "1",
    "blocking_converged": "1",
    "settled": "1",
    "stable": "1",
}
LEVELS = 16
"""Levels of the blocking that are kept for the picture."""


def measure_isotherms(
    structure: Atoms,
    settings: Settings,
    calculator: Any,
    potential: Potential | None,
    *,
    seed: int,
    progress: Progress | None = None,
) -> tuple[xr.Dataset, list[Atoms]]:
    """Pressure on the grid of densities and temperatures.

    Args:
        structure: starting structure, periodic in three directions.
        settings: grid and dynamics.
        calculator: evaluates where there is no ``potential``.
        potential: evaluates all states at once; its committee gives model errors.
        seed: seed of the configuration.
        progress: called now and then.

    Returns:
        The table, with dimensions ``density`` and ``temperature``, and frames of every state with
        ``density`` and ``temperature`` in ``info``.
    """
    cell = make_supercell(structure, settings.n_atoms)
    states = [(rho, t) for rho in settings.densities for t in settings.temperatures]
    replicas = [scale_volume(cell, 1 / rho - 1) for rho, _ in states]
    evaluate = batched(potential) if potential is not None else one_by_one(calculator)
    traces = _run(replicas, [t for _, t in states], settings, evaluate, seed, progress)
    rows, frames = [], []
    for (rho, temperature), replica, trace in zip(states, replicas, traces, strict=True):
        row, kept = _evaluate_state(trace, replica, temperature, settings.n_frames)
        if potential is not None and kept:
            row |= model_error(potential, kept, temperature)
        for frame in kept:
            frame.info |= {"density": rho, "temperature": temperature}
        rows.append(row)
        frames += kept
    return _table(settings, rows, cell), frames


def _run(
    replicas: Sequence[Atoms],
    temperatures: Sequence[float],
    settings: Settings,
    evaluate: Evaluate,
    seed: int,
    progress: Progress | None,
) -> list[Trace]:
    """Dynamics of all states, after melting where that is wanted."""
    n_samples = settings.n_steps // settings.sample_every
    keep = max(1, n_samples // (4 * settings.n_frames))
    plan = LangevinPlan(settings.timestep, settings.friction, settings.n_steps, settings.sample_every, keep)
    rng = derive_rng(seed, "studies", "eos")
    if settings.melt_temperature is not None:
        hot = [max(settings.melt_temperature, t) for t in temperatures]
        melting = replace(plan, n_steps=settings.n_steps // 2, sample_every=settings.n_steps)
        run_nvt(replicas, evaluate, hot, melting, rng=rng, progress=progress)
        for atoms in replicas:
            atoms.set_momenta(np.zeros((len(atoms), 3)), apply_constraint=False)
    return run_nvt(replicas, evaluate, temperatures, plan, rng=rng, progress=progress)


def _evaluate_state(
    trace: Trace, replica: Atoms, temperature: float, n_frames: int
) -> tuple[dict[str, Any], list[Atoms]]:
    """One state's values, and frames spread evenly over its production part."""
    ideal = len(replica) / replica.get_volume() * units.kB * temperature / units.GPa
    row: dict[str, Any] = {"stable": float(trace.stable), "ideal_pressure": ideal}
    pressures = np.array(trace.pressures) / units.GPa
    if len(pressures) < FEWEST_SAMPLES or not np.isfinite(pressures).all():
        return row | {"stable": 0.0}, trace.frames[-n_frames:]
    # The energy relaxes more slowly than the pressure and is less noisy: both have to have settled.
    starts = [detect_equilibration(series) for series in (pressures, np.array(trace.energies))]
    start = max(begin.start for begin in starts)
    blocked = block_average(pressures[start:])
    levels = np.full((2, LEVELS), np.nan)
    n = min(LEVELS, len(blocked.sizes))
    levels[:, :n] = blocked.sizes[:n], blocked.errors[:n]
    row |= {
        "pressure": blocked.mean,
        "pressure_error": blocked.error,
        "pressure_naive_error": blocked.naive_error,
        "measured_temperature": float(np.mean(trace.temperatures[start:])),
        "potential_energy": float(np.mean(trace.energies[start:])) / len(replica),
        "equilibration_time": trace.times[start],
        "inefficiency": blocked.inefficiency,
        "blocking_converged": float(blocked.converged),
        "settled": float(all(begin.settled for begin in starts)),
        "levels": levels,
    }
    production = [frame for frame in trace.frames if frame.info["sample"] >= start]
    chosen = np.unique(np.linspace(0, len(production) - 1, min(n_frames, len(production))).round().astype(int))
    return row, [production[k] for k in chosen]


def member_pressures(potential: Potential, frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Virial pressures (GPa) and energies (eV) of every member for every frame, both [n_frames, n_members].

    P = -dE/dV at fixed fractional coordinates, by central differences: backends give every
    member's energy, but stress of the mean alone.
    """
    moved = [scale_volume(frame, sign * STRAIN) for frame in frames for sign in (1, -1, 0)]
    energies = np.array([p.energy_members for p in potential.predict(moved)]).reshape(len(frames), 3, -1)
    volumes = np.array([frame.get_volume() for frame in frames])[:, None]
    return -(energies[:, 0] - energies[:, 1]) / (2 * STRAIN * volumes) / units.GPa, energies[:, 2]


def model_error(potential: Potential, frames: Sequence[Atoms], temperature: float) -> dict[str, float]:
    """Committee errors of the mean pressure of a state, GPa.

    ``pressure_model_std_fixed`` is the members' spread of ⟨P_m⟩ over the frames of the mean
    potential. ``pressure_model_std`` adds how each member would shift the ensemble itself, to
    first order, -β cov(P, E_m - E) (G. Imbalzano et al., J. Chem. Phys. 154, 074102 (2021)). Both
    take the scale of the calibrated forces, in which the virial is linear. NaN without a committee.
    """
    if potential.n_members < 2 or potential.estimator != "committee":
        return {"pressure_model_std": float("nan"), "pressure_model_std_fixed": float("nan")}
    pressures, energies = member_pressures(potential, frames)
    scales = [potential.calibration.force_scale.get(symbol, 1.0) for symbol in frames[0].get_chemical_symbols()]
    scale = float(np.mean(scales))
    direct = pressures.mean(0)
    mean = pressures.mean(1) - pressures.mean()
    difference = energies - energies.mean(1, keepdims=True)
    shift = -(mean[:, None] * (difference - difference.mean(0))).mean(0) / (units.kB * temperature)
    return {
        "pressure_model_std_fixed": scale * float(direct.std(ddof=1)),
        "pressure_model_std": scale * float((direct + shift).std(ddof=1)),
    }


def _table(settings: Settings, rows: Sequence[dict[str, Any]], cell: Atoms) -> xr.Dataset:
    shape = (len(settings.densities), len(settings.temperatures))
    grid = ("density", "temperature")

    def column(name: str) -> np.ndarray:
        return np.array([row.get(name, np.nan) for row in rows], float).reshape(shape)

    data = xr.Dataset(
        {name: (grid, column(name), {"units": unit}) for name, unit in UNITS.items()},
        coords={
            "density": ("density", np.array(settings.densities), {"units": "1"}),
            "temperature": ("temperature", np.array(settings.temperatures), {"units": "K"}),
        },
        attrs={"n_atoms": len(cell)},
    )
    start = len(cell) / cell.get_volume()
    data["number_density"] = ("density", start * data.density.values, {"units": "1/Å³"})
    levels = np.array([row.get("levels", np.full((2, LEVELS), np.nan)) for row in rows]).reshape(*shape, 2, LEVELS)
    data["block_sizes"] = ((*grid, "level"), levels[:, :, 0], {"units": "1"})
    data["block_errors"] = ((*grid, "level"), levels[:, :, 1], {"units": "GPa"})
    return data
