"""Which densities and temperatures to label at: where the pressure is uncertain or off its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.studies.interface import Acquisition


def score_states(data: xr.Dataset, reference: xr.Dataset, weight: float) -> xr.Dataset:
    """a = σ_P²/s² + λ (P - P_ref)²/s² of every state, and its two terms.

    σ_P is the committee's error, P_ref the reference, s the span of the pressures and λ
    ``weight``. Where there is no reference the second term is 0, where there is no committee
    the first. A state that exploded scores infinity: its frames are what the potential lacks.

    Returns:
        Variables ``score``, ``uncertainty`` and ``deviation`` on (density, temperature).
    """
    span = pressure_span(data, reference)
    uncertainty = (data.pressure_model_std / span) ** 2
    deviation = xr.zeros_like(uncertainty)
    if "pressure" in reference:
        deviation = weight * ((data.pressure - reference.pressure) / span) ** 2
    terms = [term.fillna(0.0) for term in (uncertainty, deviation)]
    score = (terms[0] + terms[1]).where(data.stable == 1, np.inf)
    return xr.Dataset({"score": score, "uncertainty": terms[0], "deviation": terms[1]})


def pressure_span(data: xr.Dataset, reference: xr.Dataset) -> float:
    """s: largest less smallest pressure of the reference, or of the measurement where there is none, GPa."""
    pressure = (reference if "pressure" in reference else data).pressure.values
    known = pressure[np.isfinite(pressure)]
    span = float(np.ptp(known)) if len(known) else 0.0
    return span if span > 0 else 1.0


def apportion(scores: np.ndarray, available: np.ndarray, n: int) -> np.ndarray:
    """How many of ``n`` labels each state gets, [n_states]: in proportion to its score.

    By highest averages (D'Hondt): a state's score over one more than what it has already, which
    keeps proportions without spending everything on the first. No state gets more than
    ``available``; without any score they share alike.
    """
    counts = np.zeros(len(scores), int)
    largest = scores[np.isfinite(scores)].max(initial=0.0)
    finite = np.where(np.isfinite(scores), scores, 10 * max(largest, 1.0))
    if not finite.any():
        finite = np.ones(len(scores))
    while counts.sum() < min(n, available.sum()):
        averages = np.where(counts < available, finite / (counts + 1), -1.0)
        counts[int(np.argmax(averages))] += 1
    return counts


def spread_evenly(n_frames: int, n: int) -> list[int]:
    """``n`` of ``n_frames`` indices, evenly spread, so that frames of one trajectory are far apart in time."""
    return sorted({int(k) for k in (np.arange(n) + 0.5) * n_frames / n}) if n else []


def choose_frames(frames: Sequence[Atoms], scores: xr.Dataset, n: int) -> Acquisition:
    """At most ``n`` of ``frames``, by the scores of their states (``density``, ``temperature`` in ``info``)."""
    states = [(rho, t) for rho in scores.density.values for t in scores.temperature.values]
    groups = [[a for a in frames if np.allclose([a.info["density"], a.info["temperature"]], s)] for s in states]
    values = scores.score.values.ravel()
    counts = apportion(values, np.array([len(group) for group in groups]), n)
    candidates: list[Atoms] = []
    decisions: list[dict[str, Any]] = []
    for k, ((rho, t), group, count) in enumerate(zip(states, groups, counts, strict=True)):
        row = {"density": float(rho), "temperature": float(t)}
        row |= {name: float(scores[name].values.ravel()[k]) for name in ("uncertainty", "deviation", "score")}
        decisions.append(row | {"frames": len(group), "labelled": int(count)})
        for place in spread_evenly(len(group), int(count)):
            atoms = group[place].copy()
            atoms.info = {**row, "reason": f"pressure: score {values[k]:.3g}"}
            atoms.info = {key: value for key, value in atoms.info.items() if value != np.inf}
            candidates.append(atoms)
    return Acquisition(candidates, decisions)
