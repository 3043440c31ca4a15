"""The next batch for DFT: uncertain, diverse, sane, and a few drawn at random."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.config.label import Guards
from mlip.config.loop import Select
from mlip.io.electrons import electronic_state
from mlip.io.extxyz import write_structures
from mlip.io.files import write_table
from mlip.io.netcdf import read_netcdf
from mlip.io.trajectory import read_frames
from mlip.seeds import derive_rng
from mlip.structures.cutting import cut_block

COLUMNS = (
    "structure_id",
    "walker",
    "frame",
    "time_fs",
    "temperature",
    "force_uncertainty",
    "novelty",
    "min_distance_ratio",
    "energy_per_atom",
    "source",
    "ensemble",
    "start",
    "target_temperature",
    "target_pressure",
    "n_atoms",
)


def select_candidates(
    frames: Path,
    walkers: Sequence[Path],
    *,
    settings: Select,
    guards: Guards,
    seed: int,
    iteration: int,
    out: Path,
    decisions: Path,
) -> None:
    """Choose the structures that iteration ``iteration + 1`` labels and say why each frame was taken or left.

    Args:
        frames: Table of scored frames.
        walkers: Trajectories the frames come from.
        settings: Batch size, windows, novelty.
        guards: Distance guard of the labeller; frames that it would reject are left here.
        seed: Seed of the configuration.
        iteration: Number of this iteration.
        out: Extended XYZ of the chosen structures.
        decisions: CSV with a row per frame considered.
    """
    table = read_netcdf(frames, required=("force_uncertainty", "novelty", "descriptor", "regular"))
    rng = derive_rng(seed, "select_candidates", iteration)
    verdicts = decide(table, settings, guards.min_distance_factor, rng, turn=iteration * settings.n_audit)
    structures = _structures(walkers)
    chosen = []
    for row, (decision, _) in enumerate(verdicts):
        if decision == "left":
            continue
        identity, walker, frame = (table[name].values[row] for name in ("structure_id", "walker", "frame"))
        atoms = _as_labelled(structures[int(walker)], int(frame), table, row)
        atoms.info = electronic_state(atoms) | {
            "structure_id": str(identity),
            "iteration": iteration + 1,
            "origin": "walker",
            "reason": decision,
            "walker": int(walker),
            "frame": int(frame),
            "time_fs": float(table.time_fs.values[row]),
            "source": int(table.source.values[row]),
        }
        chosen.append(atoms)
    write_structures(out, chosen)
    write_table(
        decisions,
        [
            {name: table[name].values[row] for name in COLUMNS} | {"decision": decision, "reason": reason}
            for row, (decision, reason) in enumerate(verdicts)
        ],
        [*COLUMNS, "decision", "reason"],
    )


Verdict = tuple[str, str]
"""Decision and reason."""


def screen_frames(table: xr.Dataset, settings: Select, min_ratio: float) -> list[Verdict]:
    """Whether each frame is ``broken``, ``left`` or ``open`` for itself, before any comparison between frames."""
    return [_screen(table, row, settings, min_ratio) for row in range(table.sizes["candidate"])]


def auditable(table: xr.Dataset, screened: Sequence[Verdict]) -> np.ndarray:
    """Which frames an audit may draw: the sane ones of the regular sampling after the start."""
    sane = np.array([decision != "broken" for decision, _ in screened], dtype=bool)
    return np.asarray(sane & (table.regular.values == 1) & (table.time_fs.values > 0))


def decide(
    table: xr.Dataset, settings: Select, min_ratio: float, rng: np.random.Generator, *, turn: int = 0
) -> list[Verdict]:
    """A ``(decision, reason)`` for each row of ``table``; decisions are ``uncertain``, ``audit`` or ``left``.

    Audit frames are drawn first, uniformly from every sane frame of the regular sampling whatever
    its uncertainty, so that their error is an unbiased estimate over what the walkers visit. The
    starting frame, which no dynamics produced, and the extra ones before an early stop, which
    are there because they are bad, would bias it. Starting structures take turns, beginning with
    number ``turn``. The rest of the batch
    is grown greedily: the next frame is the one with the largest product of uncertainty and
    descriptor distance to the training set and to everything already taken.
    """
    verdicts = screen_frames(table, settings, min_ratio)
    shuffled = [int(row) for row in rng.permutation(np.flatnonzero(auditable(table, verdicts)))]
    audit = _take_turns(shuffled, table.source.values.astype(int), turn)[: settings.n_audit]
    for row in audit:
        verdicts[row] = ("audit", "drawn at random from the sane regular frames")
    open_rows = [row for row, (decision, _) in enumerate(verdicts) if decision == "open"]
    _grow_batch(table, settings, verdicts, audit, open_rows)
    decided = [("left", reason) if decision == "broken" else (decision, reason) for decision, reason in verdicts]
    return [(decision, reason + _cut_note(table, row)) for row, (decision, reason) in enumerate(decided)]


def _take_turns(rows: Sequence[int], sources: np.ndarray, turn: int) -> list[int]:
    """``rows`` reordered so that their starting structures alternate, each in the order it has among ``rows``."""
    order = sorted({*sources.tolist()})
    begin = turn % max(len(order), 1)
    queues = [[row for row in rows if sources[row] == source] for source in order[begin:] + order[:begin]]
    return [row for round_ in itertools.zip_longest(*queues) for row in round_ if row is not None]


def _cut_note(table: xr.Dataset, row: int) -> str:
    atom = int(table.cut_atom.values[row])
    if atom < 0:
        return ""
    n_atoms, explored = int(table.n_atoms.values[row]), int(table.n_atoms_explored.values[row])
    return f"; {n_atoms} of {explored} atoms, cut around atom {atom}"


def _screen(table: xr.Dataset, row: int, settings: Select, min_ratio: float) -> Verdict:
    ratio = float(table.min_distance_ratio.values[row])
    above = float(table.energy_above_lowest.values[row])
    uncertainty = float(table.force_uncertainty.values[row])
    novelty = float(table.novelty.values[row])
    if not np.isfinite([above, uncertainty, novelty]).all():
        return "broken", "not finite"
    n_atoms = int(table.n_atoms.values[row])
    if settings.max_atoms is not None and n_atoms > settings.max_atoms:
        return "broken", f"too large: {n_atoms} atoms that cannot be cut to select.max_atoms {settings.max_atoms}"
    if ratio < min_ratio:
        return "broken", f"atoms too close: {ratio:.2f} of the covalent radii, limit {min_ratio}"
    if above > settings.max_energy:
        return "broken", f"energy {above:.2f} eV/atom above the lowest of its structure, limit {settings.max_energy}"
    if uncertainty > settings.max_uncertainty:
        return "left", f"uncertainty {uncertainty:.3f} eV/Å above max_uncertainty {settings.max_uncertainty}"
    if uncertainty < settings.min_uncertainty:
        return "left", f"certain enough: {uncertainty:.3f} eV/Å below min_uncertainty {settings.min_uncertainty}"
    if novelty < settings.min_novelty:
        return "left", f"like the training set: novelty {novelty:.3f} below min_novelty {settings.min_novelty}"
    return "open", ""


def _grow_batch(
    table: xr.Dataset,
    settings: Select,
    verdicts: list[Verdict],
    audit: Sequence[int],
    open_rows: Sequence[int],
) -> None:
    """Fill ``verdicts`` of the open rows in place, until the batch holds ``settings.n_structures`` frames."""
    descriptors = table.descriptor.values.astype(float)
    uncertainty = table.force_uncertainty.values
    distance = table.novelty.values.astype(float).copy()
    nearest = np.full(len(distance), -1)
    remaining, size = list(open_rows), settings.n_structures
    taken = len(audit)

    def update(row: int) -> None:
        to_row = np.linalg.norm(descriptors - descriptors[row], axis=1)
        closer = to_row < distance
        distance[closer], nearest[closer] = to_row[closer], row

    for row in audit:
        update(row)
    while remaining and taken < size:
        best = max(remaining, key=lambda row: (uncertainty[row] * distance[row], -row))
        if distance[best] < settings.min_novelty:
            break
        verdicts[best] = (
            "uncertain",
            f"uncertainty {uncertainty[best]:.3f} eV/Å, distance {distance[best]:.3f} to data and batch",
        )
        remaining.remove(best)
        taken += 1
        update(best)
    ids = table.structure_id.values
    for row in remaining:
        if distance[row] < settings.min_novelty:
            verdicts[row] = ("left", f"duplicate of {ids[nearest[row]]} in the batch: distance {distance[row]:.3f}")
        else:
            verdicts[row] = ("left", f"batch full: rank by uncertainty x distance below the {size} taken")


def _as_labelled(trajectory: tuple[list[Atoms], list[int]], frame: int, table: xr.Dataset, row: int) -> Atoms:
    """The structure of a frame, or the cell that was cut out of it to be labelled."""
    structures, repeat = trajectory
    atom = int(table.cut_atom.values[row])
    if atom < 0:
        return structures[frame]
    a, b, c = (int(n) for n in table.block.values[row])
    return cut_block(structures[frame], repeat, (a, b, c), atom)


def _structures(walkers: Sequence[Path]) -> dict[int, tuple[list[Atoms], list[int]]]:
    """Frames of each walker, and the supercell that they are."""
    of_walkers = {}
    for path in walkers:
        structures, data = read_frames(path)
        repeat = [int(n) for n in np.atleast_1d(data.attrs.get("repeat", (1, 1, 1)))]
        of_walkers[int(data.attrs["walker"])] = (structures, repeat)
    return of_walkers
