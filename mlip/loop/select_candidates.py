"""The next batch for DFT: what teaches most, and audits drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.active.acquisition import choose
from mlip.active.audits import draw_audits
from mlip.active.environments import EnvironmentTable, Known
from mlip.active.pool import Pool, share_quotas
from mlip.active.tables import ScoredEnvironments
from mlip.config.label import Guards
from mlip.config.loop import Select
from mlip.io.electrons import electronic_state
from mlip.io.extxyz import write_structures
from mlip.io.files import write_table
from mlip.io.netcdf import read_netcdf
from mlip.io.trajectory import read_frames
from mlip.seeds import derive_rng
from mlip.structures.carving import carve, choose_shares
from mlip.structures.cutting import cut_block

COLUMNS = (
    "expected_squared_error",
    "label_cost",
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
    scores: Path,
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
        scores: ``score_frames`` folder of this iteration.
        walkers: Trajectories the frames come from.
        settings: Batch size, method, what is taken for broken.
        guards: Distance guard of the labeller; frames that it would reject are left here.
        seed: Seed of the configuration.
        iteration: Number of this iteration.
        out: Extended XYZ of the chosen structures.
        decisions: CSV with a row per frame considered.
    """
    table = read_netcdf(scores / "frames.nc", required=("force_uncertainty", "expected_squared_error", "regular"))
    environments = ScoredEnvironments.from_dataset(read_netcdf(scores / "environments.nc", required=("known_teaches",)))
    rng = derive_rng(seed, "select_candidates", iteration)
    verdicts = decide(table, environments, settings, guards.min_distance_factor, rng)
    structures = _structures(walkers)
    chosen = []
    for row, verdict in enumerate(verdicts):
        if verdict.decision == "left":
            continue
        walker, frame = int(table.walker.values[row]), int(table.frame.values[row])
        whole = verdict.decision == "audit"
        atoms = _as_labelled(structures[walker], frame, table, row, whole=whole)
        atoms.info = electronic_state(atoms) | _provenance(table, row, verdict) | {"iteration": iteration + 1}
        chosen.append(atoms)
    write_structures(out, chosen)
    write_decisions(decisions, table, verdicts)


def write_decisions(path: Path, table: xr.Dataset, verdicts: Sequence[Verdict]) -> None:
    """A row per frame considered: its scores, and what was decided why."""
    # Looked up once: xarray takes longer for a column than all the rest for a frame.
    columns = {name: table[name].values for name in COLUMNS}
    write_table(
        path,
        [
            {name: values[row] for name, values in columns.items()}
            | {"atom": verdict.atom, "nearest": verdict.nearest, "score": verdict.score}
            | {"decision": verdict.decision, "reason": verdict.reason}
            for row, verdict in enumerate(verdicts)
        ],
        [*COLUMNS, "atom", "nearest", "score", "decision", "reason"],
    )


def _provenance(table: xr.Dataset, row: int, verdict: Verdict) -> dict[str, Any]:
    """What a chosen structure says of itself; of an audit, with what chance it was drawn."""
    info = {
        "structure_id": str(table.structure_id.values[row]),
        "origin": "walker",
        "reason": verdict.decision,
        "walker": int(table.walker.values[row]),
        "frame": int(table.frame.values[row]),
        "time_fs": float(table.time_fs.values[row]),
        "source": int(table.source.values[row]),
        "expected_squared_error": float(table.expected_squared_error.values[row]),
    }
    if table.rung.values[row] >= 0:
        info["rung"] = int(table.rung.values[row])
    return info if verdict.probability is None else info | {"audit_probability": verdict.probability}


@dataclass(frozen=True)
class Verdict:
    """What becomes of a frame.

    Attributes:
        decision: ``uncertain`` (it is to teach), ``audit`` or ``left``; ``broken`` and ``open`` before frames are
            compared.
        reason: In words.
        atom: The atom that makes it interesting; -1 where that was not asked.
        nearest: The labelled structure that has the most similar environment to that atom's.
        score: What the method ranks by.
        probability: With which an audit was drawn.
    """

    decision: str
    reason: str = ""
    atom: int = -1
    nearest: str = ""
    score: float = math.nan
    probability: float | None = None


def screen_frames(table: xr.Dataset, settings: Select, min_ratio: float) -> list[Verdict]:
    """Whether each frame is ``broken``, ``left`` or ``open`` for itself, before any comparison between frames."""
    return [_screen(table, row, settings, min_ratio) for row in range(table.sizes["candidate"])]


def auditable(table: xr.Dataset, screened: Sequence[Verdict]) -> np.ndarray:
    """Which frames an audit may draw: the sane ones of the regular sampling after the start, by plain dynamics."""
    sane = np.array([verdict.decision != "broken" for verdict in screened], dtype=bool)
    plain = table.biased.values == 0 if "biased" in table else True  # scores of earlier versions know no bias
    return np.asarray(sane & plain & (table.regular.values == 1) & (table.time_fs.values > 0))


def decide(
    table: xr.Dataset, environments: ScoredEnvironments, settings: Select, min_ratio: float, rng: np.random.Generator
) -> list[Verdict]:
    """A verdict for each row of ``table``: ``uncertain``, ``audit`` or ``left``.

    Audits are drawn first, from every sane frame of the regular sampling with known chances, so that their errors tell
    of all that the walkers visit. The starting frame, which no dynamics produced, and the extra ones before an early
    stop, which are there because they are bad, are not among them, nor are those of biased walkers. Then
    ``settings.method`` fills the batch with what teaches most, audits counted as known.
    """
    verdicts = screen_frames(table, settings, min_ratio)
    audit = _draw(table, auditable(table, verdicts), settings.n_audit, rng)
    for row, probability in audit.items():
        text = f"drawn at random, with a chance of {probability:.2g}"
        verdicts[row] = replace(verdicts[row], decision="audit", reason=text, probability=probability)
    wanted = settings.n_structures - len(audit)
    open_rows = [row for row, verdict in enumerate(verdicts) if verdict.decision == "open"]
    if wanted > 0 and open_rows:
        _choose_batch(table, environments, settings, verdicts, wanted, rng)
    for row in open_rows:
        if verdicts[row].decision == "open":
            verdicts[row] = replace(verdicts[row], decision="left", reason="the batch holds audits only")
    return [
        replace(
            v,
            decision="left" if v.decision == "broken" else v.decision,
            reason=v.reason + _cut_note(table, row, v.decision),
        )
        for row, v in enumerate(verdicts)
    ]


def _draw(table: xr.Dataset, fit: np.ndarray, n: int, rng: np.random.Generator) -> dict[int, float]:
    """Rows of the audits, and the chance that each had."""
    rows = np.flatnonzero(fit)
    if not n or not len(rows):
        return {}
    squared, systems = table.expected_squared_error.values[rows], table.source.values[rows].astype(int)
    audits = draw_audits(np.nan_to_num(squared), systems, n, rng)
    return dict(zip(rows[audits.rows].tolist(), audits.probability.tolist(), strict=True))


def _choose_batch(
    table: xr.Dataset,
    environments: ScoredEnvironments,
    settings: Select,
    verdicts: list[Verdict],
    wanted: int,
    rng: np.random.Generator,
) -> None:
    """Fill ``verdicts`` of the open rows in place."""
    decisions = [verdict.decision for verdict in verdicts]
    ids = [str(identity) for identity in table.structure_id.values]
    audits = np.array([row for row, decision in enumerate(decisions) if decision == "audit"], dtype=int)
    names = [*environments.names, *(ids[row] for row in audits)]
    pool = Pool(
        environments.frames,
        _with_audits(environments, audits),
        np.nan_to_num(table.expected_squared_error.values, posinf=0.0),
        np.nan_to_num(table.force_uncertainty.values, posinf=0.0),
        table.label_cost.values,
        np.array([decision == "open" for decision in decisions]),
        squared_force=environments.squared_force,
        names=ids,
        known_names=names,
    )
    pool = replace(pool, quotas=share_quotas(pool, wanted))
    choice = choose(settings.method, pool, wanted, rng)
    taken = set(choice.rows.tolist())
    for row, decision in enumerate(decisions):
        if decision == "open":
            nearest = int(choice.nearest[row])
            verdicts[row] = replace(
                verdicts[row],
                decision="uncertain" if row in taken else "left",
                reason=choice.reasons[row],
                atom=int(choice.atoms[row]),
                nearest=names[int(pool.known.table.frame[nearest])] if nearest >= 0 else "",
                score=float(choice.scores[row]),
            )


def _with_audits(environments: ScoredEnvironments, rows: np.ndarray) -> Known:
    """What is known, the audits (ascending ``rows``) among what must not be labelled twice."""
    known, frames = environments.known, environments.frames
    drawn = frames.take(np.flatnonzero(np.isin(frames.frame, rows)))
    drawn = replace(drawn, frame=len(environments.names) + np.searchsorted(rows, drawn.frame))
    table = EnvironmentTable(
        **{name: np.concatenate([getattr(part, name) for part in (known.table, drawn)]) for name in drawn.columns()}
    )
    teaches = np.concatenate([known.teaches, np.zeros(len(drawn.frame), bool)])
    return replace(known, table=table, teaches=teaches)


def _carve_radius(table: xr.Dataset, row: int) -> float:
    """Å around the atom in which a carved cell is as the frame; 0 where none is carved, as in earlier versions."""
    return float(table["carve_radius"].values[row]) if "carve_radius" in table else 0.0


def _cut_note(table: xr.Dataset, row: int, decision: str) -> str:
    atom, is_carved = int(table.cut_atom.values[row]), _carve_radius(table, row) > 0
    if atom < 0 or (is_carved and decision == "audit"):
        return ""
    n_atoms, explored = int(table.n_atoms.values[row]), int(table.n_atoms_explored.values[row])
    if is_carved:
        return f"; about {n_atoms} of {explored} atoms, carved around atom {atom}"
    return f"; {n_atoms} of {explored} atoms, cut around atom {atom}"


def _screen(table: xr.Dataset, row: int, settings: Select, min_ratio: float) -> Verdict:
    """Broken is what physics forbids; thresholds of uncertainty and novelty hold only where the settings have them."""
    ratio = float(table.min_distance_ratio.values[row])
    above = float(table.energy_above_lowest.values[row])
    uncertainty = float(table.force_uncertainty.values[row])
    novelty = float(table.novelty.values[row])
    if not np.isfinite([above, uncertainty]).all():
        return Verdict("broken", "not finite")
    n_atoms = int(table.n_atoms.values[row])
    if settings.max_atoms is not None and n_atoms > settings.max_atoms:
        return Verdict(
            "broken", f"too large: {n_atoms} atoms that cannot be cut to select.max_atoms {settings.max_atoms}"
        )
    if ratio < min_ratio:
        return Verdict("broken", f"atoms too close: {ratio:.2f} of the covalent radii, limit {min_ratio}")
    if above > settings.max_energy:
        text = f"energy {above:.2f} eV/atom above the lowest of its structure, limit {settings.max_energy}"
        return Verdict("broken", text)
    if above < -settings.max_energy:
        text = f"energy {-above:.2f} eV/atom below the lowest of its structure, limit {settings.max_energy}"
        return Verdict("broken", text)
    if settings.max_uncertainty is not None and uncertainty > settings.max_uncertainty:
        text = f"uncertainty {uncertainty:.3f} eV/Å above max_uncertainty {settings.max_uncertainty}"
        return Verdict("left", text)
    if settings.min_uncertainty is not None and uncertainty < settings.min_uncertainty:
        text = f"certain enough: {uncertainty:.3f} eV/Å below min_uncertainty {settings.min_uncertainty}"
        return Verdict("left", text)
    if settings.min_novelty is not None and novelty < settings.min_novelty:
        text = f"like the training set: novelty {novelty:.3f} below min_novelty {settings.min_novelty}"
        return Verdict("left", text)
    return Verdict("open")


def _as_labelled(
    trajectory: tuple[list[Atoms], list[int]], frame: int, table: xr.Dataset, row: int, *, whole: bool
) -> Atoms:
    """The structure of a frame, or the cell that was cut, or unless it stays ``whole`` carved, out of it."""
    structures, repeat = trajectory
    atom, radius = int(table.cut_atom.values[row]), _carve_radius(table, row)
    if radius > 0 and not whole:
        # As when it was scored: the first frame decides how large the cells of a walker are.
        shares = choose_shares(structures[0], radius)
        carved = carve(structures[frame], atom, radius=radius, shares=shares)
        return structures[frame] if carved is None else carved.atoms
    if atom < 0 or radius > 0:
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
