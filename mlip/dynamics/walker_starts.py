"""Where walkers begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mlip.config.walkers import Demand, WalkerPlan
from mlip.io.extxyz import read_structures
from mlip.io.trajectory import read_frames
from mlip.structures.geometry import scale_volume
from mlip.structures.kinds import Anatomy, dissect
from mlip.structures.starting import load_starting_structure, name_source
from mlip.structures.walkability import check_walkable

MOST_SWOLLEN = 1.6
"""Volume over that of the ideal structure, or the inverse, beyond which no walker begins; it stops at 2."""


@dataclass(frozen=True)
class WalkerStart:
    """Where a walker begins.

    Attributes:
        atoms: Positions and cell to begin from; masses, fixed atoms, moments and charges of the starting structure.
        anatomy: Of the ideal starting structure in its supercell.
        ideal: Positions and cell of the starting structure, in its supercell and at its own volume.
        kind: ``ideal``, ``last`` or ``uncertain``: what there was, not what was asked for.
        frame: Identity of the frame begun from; empty for the ideal structure.
    """

    atoms: Atoms
    anatomy: Anatomy
    ideal: Atoms
    kind: str = "ideal"
    frame: str = ""


def begin_walker(
    plan: WalkerPlan,
    rng: np.random.Generator,
    *,
    last: Sequence[Path] = (),
    uncertain: Sequence[Path] = (),
    is_trusted: Callable[[Atoms], bool] = lambda _: True,
) -> WalkerStart:
    """The structure that the walker of ``plan`` begins from.

    Args:
        plan: The walker.
        rng: Draws among frames.
        last: Trajectories of the previous iteration, of one of which the last frame is taken that is trusted.
        uncertain: Files of structures chosen there for the next labels.
        is_trusted: Whether the present potential can be relied on for a structure.

    Raises:
        StructureError: when the starting structure cannot be used, or not for this walker.
    """
    source = load_starting_structure(plan.source)
    anatomy = dissect(source)
    check_walkable(source, anatomy, Demand.of(plan), name_source(plan.source))
    ideal = repeat_cell(source, plan.repeat)
    pools = {"last": _last_frames(last, is_trusted), "uncertain": _uncertain_frames(uncertain, plan)}
    pool = [atoms for atoms in pools.get(plan.start, []) if _fits(atoms, ideal)]
    if not pool:
        return WalkerStart(_scale(ideal, plan.volume, anatomy) if plan.volume else ideal.copy(), anatomy, ideal)
    frame = pool[int(rng.integers(len(pool)))]
    atoms = ideal.copy()
    atoms.set_cell(frame.cell.array)
    atoms.set_positions(frame.positions, apply_constraint=False)
    if plan.climbs and plan.ensemble == "nvt" and anatomy.kind == "bulk":  # rungs may differ in volume
        atoms = scale_volume(atoms, (1 + plan.volume) * ideal.get_volume() / atoms.get_volume() - 1)
    return WalkerStart(atoms, anatomy, ideal, plan.start, str(frame.info.get("structure_id", "")))


def repeat_cell(atoms: Atoms, repeat: Sequence[int]) -> Atoms:
    """``atoms`` repeated, the same atoms of each cell fixed."""
    return atoms.copy() if tuple(repeat) == (1, 1, 1) else atoms.repeat(tuple(repeat))


def _fits(atoms: Atoms, ideal: Atoms) -> bool:
    """Whether a walker of ``ideal`` can begin in ``atoms``: its atoms, and not about to run away."""
    if not np.array_equal(atoms.numbers, ideal.numbers):
        return False
    return not ideal.pbc.all() or 1 / MOST_SWOLLEN < atoms.get_volume() / ideal.get_volume() < MOST_SWOLLEN


def _last_frames(trajectories: Sequence[Path], is_trusted: Callable[[Atoms], bool]) -> list[Atoms]:
    """The last frame of each trajectory that ``is_trusted``; of those before it, every eighth of all is tried.

    Where a trajectory has only its first, its walker stopped at once, and there is nothing to go on from.
    All frames of a trajectory are sane, but one that stopped early ends where the potential knew too little.
    """
    found = []
    for path in trajectories:
        structures, data = read_frames(path)
        for k in range(len(structures) - 1, 0, -max(1, len(structures) // 8)):
            if is_trusted(structures[k]):
                structures[k].info["structure_id"] = f"{data.attrs['structure_id']}-frame_{k:04d}"
                found.append(structures[k])
                break
    return found


def _uncertain_frames(files: Sequence[Path], plan: WalkerPlan) -> list[Atoms]:
    """Frames of the same starting structure that were chosen because they are uncertain, as they were explored."""
    return [
        atoms
        for path in files
        for atoms in read_structures(path)
        if atoms.info.get("reason") == "uncertain" and atoms.info.get("source") == plan.source_number
    ]


def _scale(atoms: Atoms, relative_volume: float, anatomy: Anatomy) -> Atoms:
    """``atoms`` at another volume; where there is vacuum, strained as much in the directions of matter alone."""
    if anatomy.kind == "bulk":
        return scale_volume(atoms, relative_volume)
    strain = ((1 + relative_volume) ** (1 / 3) - 1) * anatomy.projector
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell.array @ (np.eye(3) + strain))
    scaled.set_positions(atoms.positions @ (np.eye(3) + strain), apply_constraint=False)
    return scaled
