"""The ladder of each starting structure after an iteration: from what its walkers and audits have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.active.ladder import Climb, Observed, climb
from mlip.config.ladder import Ladder
from mlip.criteria import Criterion
from mlip.potential.certification import squared_errors
from mlip.potential.expected_error import ErrorScale
from mlip.potential.interface import Prediction
from mlip.structures.labelled import labelled_forces

FEWEST_AUDITS = 2
"""Of a rung, by which it is judged: one alone may be far better or worse than the others."""
LATEST = 2
"""Iterations whose audits count: frames that an earlier potential went astray to are met no more."""


def climb_ladders(
    table: xr.Dataset,
    fit: np.ndarray,
    audits: Sequence[Atoms],
    predictions: Sequence[Prediction],
    *,
    ladder: Ladder,
    before: Mapping[str, Mapping[str, Any]],
    trained: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Where the next iteration's walkers stand and what decided it, by starting structure; empty where none climb.

    Args:
        table: Scored frames of the iteration.
        fit: Which of them count, [n_frames]: sane ones of the regular sampling.
        audits: All so far, labelled, with the ``rung`` that they were drawn at.
        predictions: Of the present potential, which was not trained on them.
        ladder: What is climbed.
        before: The same of the iteration before.
        trained: What ``training.json`` of the potential says.
    """
    if "explorer_rung" not in table:  # of an earlier version
        return {}
    found = {}
    climbers = table.explorer_rung.values >= 0
    for source in sorted(set(table.explorer_source.values[climbers].tolist())):
        state = Climb.from_dict(before.get(str(source), {}))
        own = climbers & (table.explorer_source.values == source)
        known = table.explorer_lindemann_temperature.values[own]
        known = known[np.isfinite(known)]
        state = state.settled(ladder, float(known[0]) if len(known) else float("nan"))
        rows = [k for k, atoms in enumerate(audits) if int(atoms.info.get("source", 0)) == source]
        audited = _audit([audits[k] for k in rows], [predictions[k] for k in rows], state.rung)
        seen = Observed(
            **_count_walkers(table, source, state.rung),
            expected=_expect(table, fit, source, state.rung, ErrorScale.of(trained, source)),
            **audited,
        )
        rungs, after = state.rungs(ladder), climb(state, seen, ladder)
        walked = {"rung": state.rung, **rungs[state.rung].model_dump(exclude_none=True)}
        found[str(source)] = after.as_dict() | {"walked": walked, "seen": asdict(seen), "n_rungs": len(rungs)}
    return found


def judge_ladder(ladder: Mapping[str, Mapping[str, Any]]) -> list[Criterion]:
    """Whether walkers have reached the top everywhere, as a criterion; none where nothing climbs."""
    if not ladder:
        return []
    left = {source: entry["reason"] for source, entry in ladder.items() if not entry["done"]}
    remedy = "; ".join(f"structure {source} at rung {ladder[source]['rung']}: {why}" for source, why in left.items())
    return [Criterion("structures below the top of their ladder", float(len(left)), 0.0, remedy=remedy)]


def _count_walkers(table: xr.Dataset, source: int, rung: int) -> dict[str, int]:
    """Walkers at the rung, and how they ended."""
    there = (table.explorer_source.values == source) & (table.explorer_rung.values == rung)
    early = table.stop_reason.values != "finished"
    return {
        "n_walkers": int(there.sum()),
        "n_stopped": int((there & early).sum()),
        "n_exploded": int((there & (table.stop_reason.values == "exploded")).sum()),
        "n_molten": int(table.explorer_molten.values[there].sum()),
    }


def _expect(table: xr.Dataset, fit: np.ndarray, source: int, rung: int, scale: ErrorScale | None) -> float | None:
    """Expected RMS error of the frames at the rung over the RMS force of the labels."""
    there = fit & (table.source.values == source) & (table.rung.values == rung)
    if scale is None or not there.any():
        return None
    return float(np.sqrt(np.mean(table.expected_squared_error.values[there]))) / scale.rms_force


def _audit(audits: Sequence[Atoms], predictions: Sequence[Prediction], rung: int) -> dict[str, Any]:
    """RMS error over RMS force on the latest audits of the highest rung up to ``rung`` that has enough of them.

    Audits count alike: drawn more often where large errors are expected, they err on the safe side.
    """
    at = np.array([int(atoms.info["rung"]) for atoms in audits], dtype=int)
    judged = [r for r in range(rung, -1, -1) if np.sum(at == r) >= FEWEST_AUDITS]
    if not judged:
        return {}
    made = np.array([int(atoms.info.get("iteration", 0)) for atoms in audits], dtype=int)
    latest = np.unique(made[at == judged[0]])[-LATEST:]
    rows = np.flatnonzero((at == judged[0]) & np.isin(made, latest)).tolist()
    squared = squared_errors([audits[k] for k in rows], [predictions[k] for k in rows])
    forces = [np.mean(labelled_forces(audits[k]) ** 2) for k in rows]
    error = float(np.sqrt(np.mean(squared) / max(float(np.mean(forces)), 1e-12)))
    return {"audited": error, "n_audits": len(rows), "audited_rung": judged[0]}
