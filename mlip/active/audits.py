"""Audits: frames drawn at random, with known probabilities, whose labels judge a potential and never train it.

Systems get equal shares. Within a system a frame's chance mixes a uniform part with one in proportion to its predicted
squared error, which is the best choice where errors are as predicted, while the uniform part keeps every weight bounded
and every frame within reach: active testing, J. Kossen et al., ICML (2021), arXiv:2103.05331.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLOOR = 0.5
"""Share of the chances that is uniform: no frame has less than this share of what a uniform draw would give it."""


@dataclass(frozen=True)
class Audits:
    """Frames drawn for an audit.

    Attributes:
        rows: of the frames, ascending and without repetition, [m].
        probability: that a draw like this one takes the frame, in (0, 1], [m]; belongs into the label's record, for
            :func:`mlip.active.certificate.certify` weights the label's error by its inverse.
    """

    rows: np.ndarray
    probability: np.ndarray


def draw_audits(
    predicted_squared: np.ndarray, systems: np.ndarray, n: int, rng: np.random.Generator, *, floor: float = FLOOR
) -> Audits:
    """About ``n`` different frames, with the probability that each had.

    A systematic draw, W. G. Madow, Ann. Math. Stat. 20, 333 (1949): the frames' chances are laid end to end, and every
    point of a comb with spacing 1 and a random start takes the frame it falls on. A frame whose chance is below 1
    is taken once at most, every chance is met exactly, and neighbours in the given order (frames of one walker) are
    rarely taken together. Each system gets n over the number of systems, rounded up or down by chance, or all of its
    frames if it has no more.

    Args:
        predicted_squared: predicted squared force error of each frame, (eV/Å)², [N], finite and not negative.
        systems: the system of each frame, whatever can be sorted, [N].
        n: frames to draw, at least 1.
        rng: source of the one random number.
        floor: share of the chances that is uniform, in (0, 1]; 1 draws uniformly.

    Raises:
        ValueError: for predictions that are no squared errors, lengths that differ, or n or floor out of range.
    """
    predicted, systems = np.asarray(predicted_squared, float), np.asarray(systems)
    _check_draw(predicted, systems, n, floor)
    order = np.argsort(systems, kind="stable")
    names = np.unique(systems)
    chances = [include_frames(predicted[systems == name], n / len(names), floor) for name in names]
    probability = np.concatenate([np.zeros(0), *chances])
    ends = np.cumsum(probability)
    # A sum that is whole but for rounding must not give or cost a frame.
    points = np.arange(rng.random(), probability.sum() - 1e-9, 1.0)
    taken = np.unique(np.minimum(np.searchsorted(ends, points, side="right"), max(len(ends) - 1, 0)))
    rows = order[taken]
    ascending = np.argsort(rows)
    return Audits(rows[ascending], probability[taken][ascending])


def include_frames(predicted_squared: np.ndarray, n: float, floor: float = FLOOR) -> np.ndarray:
    """Chance of each frame of one system to be among ``n``, [N]: min(1, n q) with q = floor/N + (1 - floor) s / Σ s.

    What chances above 1 leave over goes to the other frames in proportion, so that they sum to n, or to N if that is
    less.
    """
    predicted = np.asarray(predicted_squared, float)
    size, total = len(predicted), float(predicted.sum())
    if n >= size:
        return np.ones(size)
    share = predicted / total if total > 0 else np.full(size, 1 / size)
    q = floor / size + (1 - floor) * share
    chance = n * q
    while (chance > 1 + 1e-12).any():
        certain = chance >= 1
        chance = np.where(certain, 1.0, q * (n - certain.sum()) / q[~certain].sum())
    return np.minimum(chance, 1.0)


def _check_draw(predicted: np.ndarray, systems: np.ndarray, n: int, floor: float) -> None:
    if predicted.ndim != 1 or predicted.shape != systems.shape:
        raise ValueError(f"need a system for each prediction, got shapes {predicted.shape} and {systems.shape}")
    if not np.isfinite(predicted).all() or (predicted < 0).any():
        wrong = predicted[~(np.isfinite(predicted) & (predicted >= 0))]
        raise ValueError(f"{len(wrong)} predicted squared errors are negative or not finite, the first is {wrong[0]}")
    if n < 1:
        raise ValueError(f"cannot draw {n} audits; ask for 1 or more, or draw none at all")
    if not 0 < floor <= 1:
        raise ValueError(f"floor {floor} is not in (0, 1]; with none, frames predicted to be exact are never audited")
