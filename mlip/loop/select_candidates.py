"""The next batch for DFT: uncertain, diverse, sane, and a few drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.config.label import Guards
from mlip.config.loop import Select
from mlip.io.extxyz import write_structures
from mlip.io.files import write_table
from mlip.io.netcdf import read_netcdf
from mlip.io.trajectory import read_frames
from mlip.seeds import derive_rng

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
    verdicts = decide(table, settings, guards.min_distance_factor, rng)
    structures, sources = _structures(walkers)
    chosen = []
    for row, (decision, _) in enumerate(verdicts):
        if decision == "left":
            continue
        identity, walker, frame = (table[name].values[row] for name in ("structure_id", "walker", "frame"))
        atoms = structures[int(walker)][int(frame)]
        atoms.info = {
            "structure_id": str(identity),
            "iteration": iteration + 1,
            "origin": "walker",
            "reason": decision,
            "walker": int(walker),
            "frame": int(frame),
            "time_fs": float(table.time_fs.values[row]),
            **sources[int(walker)],
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


def decide(table: xr.Dataset, settings: Select, min_ratio: float, rng: np.random.Generator) -> list[tuple[str, str]]:
    """A ``(decision, reason)`` for each row of ``table``; decisions are ``uncertain``, ``audit`` or ``left``.

    Audit frames are drawn first, uniformly from every sane frame of the regular sampling whatever
    its uncertainty, so that their error is an unbiased estimate over what the walkers visit. The
    starting frame, which no dynamics produced, and the extra ones before an early stop, which
    are there because they are bad, would bias it. The rest of the batch
    is grown greedily: the next frame is the one with the largest product of uncertainty and
    descriptor distance to the training set and to everything already taken.
    """
    verdicts = [_filter(table, row, settings, min_ratio) for row in range(table.sizes["candidate"])]
    sampled = (table.regular.values == 1) & (table.time_fs.values > 0)
    sane = [row for row, (decision, _) in enumerate(verdicts) if decision != "broken" and sampled[row]]
    audit = [int(row) for row in rng.permutation(sane)[: settings.n_audit]]
    for row in audit:
        verdicts[row] = ("audit", "drawn at random from the sane regular frames")
    open_rows = [row for row, (decision, _) in enumerate(verdicts) if decision == "open"]
    _grow_batch(table, settings, verdicts, audit, open_rows)
    return [("left", reason) if decision == "broken" else (decision, reason) for decision, reason in verdicts]


def _filter(table: xr.Dataset, row: int, settings: Select, min_ratio: float) -> tuple[str, str]:
    """``broken``, ``left`` or ``open``, before any comparison between frames."""
    ratio = float(table.min_distance_ratio.values[row])
    above = float(table.energy_above_lowest.values[row])
    uncertainty = float(table.force_uncertainty.values[row])
    novelty = float(table.novelty.values[row])
    if not np.isfinite([above, uncertainty, novelty]).all():
        return "broken", "not finite"
    if ratio < min_ratio:
        return "broken", f"atoms too close: {ratio:.2f} of the covalent radii, limit {min_ratio}"
    if above > settings.max_energy:
        return "broken", f"energy {above:.2f} eV/atom above the lowest, limit {settings.max_energy}"
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
    verdicts: list[tuple[str, str]],
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


def _structures(walkers: Sequence[Path]) -> tuple[dict[int, list[Atoms]], dict[int, dict[str, int]]]:
    """Frames of each walker, and ``source``, the number of the structure that it started from, where it says so."""
    found, sources = {}, {}
    for path in walkers:
        structures, data = read_frames(path)
        walker = int(data.attrs["walker"])
        found[walker] = structures
        sources[walker] = {"source": int(data.attrs["source"])} if "source" in data.attrs else {}
    return found, sources
