"""Influence held against the truth: constants of potentials trained without a structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from mlip.config import Train
from mlip.studies.elastic.causes import Fit, measure_potential
from mlip.studies.elastic.influence import Attribution
from mlip.studies.elastic.readout import with_last_weights
from mlip.uncertainty import rank_correlation


@dataclass(frozen=True)
class Omission:
    """Changes of one constant when structures are left out, GPa, [n_chosen] each.

    Attributes:
        chosen: indices of the structures.
        predicted: by influence.
        refitted: with the last layer solved anew and the crystal measured anew.
        retrained: with the whole network trained anew; NaN where that was not done.
    """

    influenced: str
    chosen: np.ndarray
    predicted: np.ndarray
    refitted: np.ndarray
    retrained: np.ndarray

    def correlation(self, truth: str) -> float:
        """Rank correlation of the prediction with ``refitted`` or ``retrained``; NaN without data."""
        values = getattr(self, truth)
        known = np.isfinite(values)
        found = rank_correlation(self.predicted[known], values[known]) if known.sum() > 2 else None
        return float("nan") if found is None else found


def omit_structures(
    attribution: Attribution,
    influenced: str,
    training: Sequence[Atoms],
    settings: Train,
    crystal: Atoms,
    fit: Fit,
    *,
    n: int,
    n_retrained: int,
) -> Omission:
    """Leave out ``n`` structures, evenly spaced in the ranking by influence; retrain for ``n_retrained`` of them.

    Args:
        attribution: of ``training``.
        influenced: one of ``attribution.influenced``.
        training: labelled structures.
        settings: section ``train``.
        crystal: starting structure.
        fit: trains a potential; with the same data and settings it must give the same one.
        n: structures.
        n_retrained: trainings, beside one with all structures.
    """
    row = attribution.influenced.index(influenced)
    order = np.argsort(attribution.influence[row])
    chosen = np.unique(order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(int)])
    chosen = chosen[np.argsort(attribution.influence[row][chosen])]
    potential = fit(training, settings)

    def value(weights: list[np.ndarray]) -> float:
        return float(measure_potential(with_last_weights(potential, weights), crystal)[1].ravel()[row])

    base = value([r.weights for r in attribution.readouts])
    everything = np.arange(len(training))
    refitted = [
        value([r.refit(np.delete(everything, k)) for r in attribution.readouts]) - base for k in chosen.tolist()
    ]
    retrained = np.full(len(chosen), np.nan)
    if n_retrained:
        whole = float(measure_potential(potential, crystal)[1].ravel()[row])
        places = np.unique(np.linspace(0, len(chosen) - 1, min(n_retrained, len(chosen))).astype(int))
        for place in places.tolist():
            rest = [a for k, a in enumerate(training) if k != chosen[place]]
            retrained[place] = float(measure_potential(fit(rest, settings), crystal)[1].ravel()[row]) - whole
    return Omission(influenced, chosen, attribution.influence[row][chosen], np.array(refitted), retrained)
