"""Exploration: molecular dynamics on the committee, watched by its own uncertainty."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.velocitydistribution import Stationary, thermalize_momenta

from mlip.active.ladder import Climb, place_below
from mlip.config.loop import Explore
from mlip.config.walkers import WalkerPlan, put_on_rung
from mlip.dynamics.barostat import DirectedBAOAB
from mlip.dynamics.bias import BiasedBAOAB
from mlip.dynamics.guarded import DynamicsError, GuardedBAOAB, take_steps
from mlip.dynamics.limits import NEAREST, is_far_off, is_too_hot
from mlip.dynamics.melting import estimate_melting, is_molten, neighbours_left
from mlip.dynamics.targets import Targets
from mlip.dynamics.walker_starts import WalkerStart, begin_walker
from mlip.io.files import read_json
from mlip.io.trajectory import Frame, write_trajectory
from mlip.jobs.progress import Progress
from mlip.potential.expected_error import ErrorScale
from mlip.seeds import derive_rng
from mlip.structures.geometry import min_distance_ratio
from mlip.structures.kinds import Anatomy, dissect
from mlip.structures.starting import load_starting_structure

RING_SIZE = 4
"""Recent frames remembered between samples, so that the last sane ones before a stop are kept."""
FEWEST_SAMPLES = 4
"""Frames that a walker is to leave at least, however short its time."""
ROOM = 100.0
"""Å of vacuum on both sides of what has no cell there, while its cell breathes in other directions."""


@dataclass(frozen=True)
class WalkerRequest:
    """What :func:`explore_walker` runs.

    Attributes:
        potential: Folder of the committee.
        plan: What to simulate.
        settings: Time step, length, sampling, limits.
        out: NetCDF trajectory written.
        seed: Seed of the configuration; iteration and walker number are mixed in.
        iteration: Number of the iteration, for the frames' identity.
        walker: Number of the walker.
        last: Trajectories of the previous iteration, where ``plan`` starts from their last frames.
        uncertain: Structures chosen in the previous iteration, where it starts from uncertain ones.
        rungs: Where walkers stand on their ladder, after the previous iteration; None before it.
        device: Torch device.
        progress: Called with ``{"step", "n_steps", "time_fs"}`` at every sample.
    """

    potential: Path
    plan: WalkerPlan
    settings: Explore
    out: Path
    seed: int
    iteration: int
    walker: int
    last: Sequence[Path] = ()
    uncertain: Sequence[Path] = ()
    rungs: Path | None = None
    device: str = "cpu"
    progress: Progress | None = None


def explore_walker(request: WalkerRequest) -> None:
    """Run one walker until it is finished, uncertain or exploded; keep its sane frames in ``request.out``."""
    from mlip.potential.calculator import load_calculator

    names = ("explore_walkers", request.iteration, request.walker)
    calculator = load_calculator(request.potential, device=request.device, precision="single")
    scale = ErrorScale.read(request.potential / "training.json", request.plan.source_number)
    place = find_place(request, calculator)
    plan, settings = place.plan, place.settings
    start = begin_walker(
        plan,
        derive_rng(request.seed, *names, "start"),
        last=request.last,
        uncertain=request.uncertain,
        is_trusted=partial(_is_trusted, calculator=calculator, settings=settings, scale=scale),
    )
    atoms = start.atoms.copy()
    atoms.calc = calculator
    rng = derive_rng(request.seed, *names)
    # Equipartition: half of the kinetic energy of an ideal crystal flows into its potential energy.
    thermalize_momenta(atoms, (2 if start.kind == "ideal" else 1) * plan.temperature, rng=rng)
    if not atoms.constraints:
        Stationary(atoms)
    # Else a walker that goes on and on would thin out bit by bit.
    volume = start.ideal.get_volume() if start.anatomy.kind == "bulk" else None
    frames, reason = run_walker(
        atoms, plan, settings, rng, request.progress, anatomy=start.anatomy, scale=scale, usual_volume=volume
    )
    attributes = {
        "walker": request.walker,
        "structure_id": f"iter_{request.iteration:02d}-walker_{request.walker:02d}",
        "stop_reason": reason,
        "stop_time_fs": frames[-1].time if frames else 0.0,
        "planned_time_fs": settings.n_steps * settings.timestep,
        "timestep_fs": settings.timestep,
        "seed": request.seed,
        "rung": -1 if plan.uncertainty_bias else place.rung,  # what is pushed does not tell whether to climb
        "lindemann_temperature": place.lindemann,
        "molten": int(bool(frames) and _is_molten(start, frames[-1])),
    }
    write_trajectory(request.out, start.atoms, frames, attributes | _describe(plan, start))


def _is_molten(start: WalkerStart, frame: Frame) -> bool:
    return is_molten(neighbours_left(start.ideal, frame.atoms), start.anatomy.kind)


def _is_trusted(atoms: Atoms, *, calculator: Calculator, settings: Explore, scale: ErrorScale | None) -> bool:
    """Whether to begin in ``atoms``: nothing too near, and the expected error at most half of what stops a walker."""
    if min_distance_ratio(atoms) < NEAREST:
        return False
    if scale is None or settings.max_relative_error is None:
        return True
    calculator.calculate(atoms, ["forces"], list(all_changes))
    return scale.relative_error(calculator.results["force_uncertainty"]) <= settings.max_relative_error / 2


@dataclass(frozen=True)
class Place:
    """Where a walker stands.

    Attributes:
        plan: What it simulates.
        settings: How, its own number of steps among them.
        rung: Of the ladder; -1 where it climbs none.
        lindemann: Temperature at which Lindemann's rule has the structure melt, K; NaN where nobody asked.
    """

    plan: WalkerPlan
    settings: Explore
    rung: int = -1
    lindemann: float = float("nan")


def find_place(request: WalkerRequest, calculator: Calculator) -> Place:
    """Conditions and length of the walker; of one that climbs, those of its rung."""
    plan, settings = request.plan, request.settings
    settings = settings.model_copy(update={"n_steps": plan.n_steps or settings.n_steps})
    if not plan.climbs:
        return Place(plan, settings)
    stored = read_json(request.rungs)["structures"] if request.rungs else {}
    state, lindemann = Climb.from_dict(stored.get(str(plan.source_number), {})), float("nan")
    if state.first is None:
        ideal = load_starting_structure(plan.source)
        ideal.calc = calculator
        lindemann = estimate_melting(ideal, derive_rng(request.seed, "lindemann", plan.source_number))
    state = state.settled(settings.ladder, lindemann)
    below = plan.climbs == "below"
    rung = place_below(state.rung, request.iteration) if below else state.rung
    rungs = state.rungs(settings.ladder)
    shortest = min(settings.n_steps, FEWEST_SAMPLES * settings.sample_every)
    n_steps = settings.n_steps if below else max(shortest, round(state.length * settings.n_steps))
    return Place(put_on_rung(plan, rungs[rung]), settings.model_copy(update={"n_steps": n_steps}), rung, lindemann)


def _describe(plan: WalkerPlan, start: WalkerStart) -> dict[str, Any]:
    return {
        "ensemble": plan.ensemble,
        "target_temperature": plan.temperature,
        "target_pressure": plan.pressure,
        "relative_volume": plan.volume,
        "uncertainty_bias": plan.uncertainty_bias,
        "source": plan.source_number,
        "repeat": list(plan.repeat),
        "start": start.kind,
        "start_frame": start.frame,
    }


def run_walker(
    atoms: Atoms,
    plan: WalkerPlan,
    settings: Explore,
    rng: np.random.Generator,
    progress: Progress | None = None,
    *,
    anatomy: Anatomy | None = None,
    scale: ErrorScale | None = None,
    usual_volume: float | None = None,
) -> tuple[list[Frame], str]:
    """MD of ``atoms``; the kept frames and why it stopped.

    Args:
        atoms: Where to begin, with velocities, calculator and fixed atoms.
        plan: Ensemble and targets.
        settings: Time step, length, sampling, limits.
        rng: Noise of the thermostat and barostat.
        progress: Called at every sample.
        anatomy: Of the structure, where ``atoms`` has moved already; by default its own.
        scale: Of the structure's expected errors; without it ``settings.max_relative_error`` stops no walker.
        usual_volume: Å³, from which the cell must not run away; by default that of ``atoms``.

    Returns:
        Frames every ``settings.sample_every`` steps, followed by the last sane ones where the
        walker stopped early; and ``finished``, ``uncertain`` or ``exploded``.

    Raises:
        Exception: whatever the calculator raises; only numbers that are no longer physical count
            as an explosion, never a failing program or machine.
    """
    anatomy = anatomy or dissect(atoms)
    targets, pbc, cell = Targets.of(plan), atoms.pbc.copy(), atoms.cell.array.copy()
    if plan.ensemble != "nvt" and not pbc.all():
        give_room(atoms)
    dynamics = _dynamics(atoms, plan, settings, rng, anatomy, usual_volume)
    frames: list[Frame] = []
    recent: deque[Frame] = deque(maxlen=RING_SIZE)
    stride = max(1, settings.sample_every // (2 * RING_SIZE))
    reason, first = "finished", None
    for step in range(settings.n_steps + 1):
        time = step * settings.timestep
        frame = _observe(atoms, time, regular=step % settings.sample_every == 0, anatomy=anatomy)
        first = first or frame
        if frame is None or first is None or _has_exploded(frame, first, targets):
            reason = "exploded"
            break
        frame = _finish_frame(frame, plan, targets, pbc, cell)
        if is_worthless(frame, settings, scale):
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
                _set_targets(dynamics, targets, time + settings.timestep)
                take_steps(dynamics)
            except DynamicsError:
                reason = "exploded"
                break
    return (frames if reason == "finished" else frames + list(recent)), reason


def give_room(atoms: Atoms) -> None:
    """Make ``atoms`` periodic with vacuum in the directions without a period, in place: a barostat needs a stress."""
    periodic = np.flatnonzero(atoms.pbc)
    vectors = atoms.cell.array.copy()
    normals = np.linalg.svd(vectors[periodic])[2][len(periodic) :]
    for axis, normal in zip(np.flatnonzero(~atoms.pbc), normals, strict=True):
        vectors[axis] = (np.ptp(atoms.positions @ normal) + 2 * ROOM) * normal
    atoms.set_cell(vectors)
    atoms.pbc = True


def _dynamics(
    atoms: Atoms,
    plan: WalkerPlan,
    settings: Explore,
    rng: np.random.Generator,
    anatomy: Anatomy,
    usual_volume: float | None,
) -> LangevinBAOAB:
    """BAOAB Langevin dynamics, with a bias where the plan has one, and a Langevin barostat for the NPT ensembles."""
    options: dict[str, Any] = {"usual_volume": usual_volume}
    kind: type[LangevinBAOAB] = GuardedBAOAB
    if plan.uncertainty_bias:
        kind, options["strength"] = BiasedBAOAB, plan.uncertainty_bias
    if plan.ensemble != "nvt":
        # ASE counts stress, not pressure: compression is negative.
        options |= {"externalstress": -plan.pressure * units.GPa, "P_tau": 500 * units.fs}
        if anatomy.kind == "bulk":
            options["hydrostatic"] = plan.ensemble == "npt"
        else:
            kind = DirectedBAOAB
            options |= {"projector": anatomy.projector, "isotropic": plan.ensemble == "npt"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ASE announces its heuristic barostat mass
        return kind(
            atoms,
            settings.timestep * units.fs,
            temperature_K=plan.temperature,
            T_tau=units.fs / settings.friction,
            rng=rng,
            **options,
        )


def _set_targets(dynamics: LangevinBAOAB, targets: Targets, time: float) -> None:
    """Hold ``dynamics`` at what ``targets`` say of ``time``."""
    if targets.are_constant:
        return
    dynamics.set_temperature(targets.temperature(time))
    if dynamics.externalstress is not None:
        stress = -targets.pressure(time) * units.GPa
        dynamics.externalstress = stress if np.ndim(dynamics.externalstress) == 0 else stress * np.eye(3)


def _observe(atoms: Atoms, time: float, regular: bool, anatomy: Anatomy) -> Frame | None:
    """The present frame, or None when it is no longer finite."""
    energy, forces, temperature = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_temperature()
    uncertainty = np.asarray(atoms.calc.results["force_uncertainty"])
    stress = atoms.calc.results.get("stress", 0.0)
    if not all(np.all(np.isfinite(x)) for x in (energy, forces, temperature, uncertainty, stress)):
        return None
    snapshot = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)
    ratio = min_distance_ratio(snapshot)
    return Frame(snapshot, time, energy, uncertainty, temperature, _pressure(atoms, anatomy), ratio, regular)


def _pressure(atoms: Atoms, anatomy: Anatomy) -> float:
    """Virial and kinetic pressure in the directions of matter, over the cell's volume, GPa; NaN where there is none."""
    if not atoms.pbc.all() or "stress" not in atoms.calc.results or anatomy.kind == "molecule":
        return float("nan")
    if anatomy.kind == "bulk":
        return float(-atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa)
    stress = atoms.get_stress(include_ideal_gas=True, voigt=False)
    return float(-np.sum(anatomy.projector * stress) / np.trace(anatomy.projector) / units.GPa)


def _finish_frame(frame: Frame, plan: WalkerPlan, targets: Targets, pbc: np.ndarray, cell: np.ndarray) -> Frame:
    """``frame`` with its targets, and as far periodic as the starting structure is."""
    if not pbc.all() and frame.atoms.pbc.all():
        frame.atoms.set_cell(np.where(pbc[:, None], frame.atoms.cell.array, cell))
        frame.atoms.pbc = pbc
        frame = replace(frame, pressure=float("nan"))  # over the volume of a cell that is none
    pressure = float("nan") if plan.ensemble == "nvt" else targets.pressure(frame.time)
    return replace(frame, target_temperature=targets.temperature(frame.time), target_pressure=pressure)


def _has_exploded(frame: Frame, first: Frame, targets: Targets) -> bool:
    """Broken is what physics forbids: distances, energy, temperature, and volume, which the dynamics itself watches."""
    hottest = targets.hottest(frame.time)
    off = (frame.energy - first.energy) / len(frame.atoms)
    return frame.min_distance_ratio < NEAREST or is_too_hot(frame.temperature, hottest) or is_far_off(off, hottest)


def is_worthless(frame: Frame, settings: Explore, scale: ErrorScale | None) -> bool:
    """Whether the potential's predictions for ``frame`` are beyond one of the limits of ``settings``."""
    if settings.max_uncertainty is not None and float(frame.force_uncertainty.max()) > settings.max_uncertainty:
        return True
    limit = settings.max_relative_error
    return limit is not None and scale is not None and scale.relative_error(frame.force_uncertainty) > limit
