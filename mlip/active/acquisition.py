"""Which frames to label: one signature for all rules, ``choose(pool, n, rng) -> Choice``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mlip.active.methods import (
    CLUSTER_POWER,
    GAIN_POWER,
    TRUST_LEVELS,
    AtRandom,
    FarthestEnvironment,
    FarthestMean,
    LargestCluster,
    LogDeterminant,
    Product,
    TrustLevels,
)
from mlip.active.pool import Choice, Pool, grow_batch

Method = Callable[[Pool, int, np.random.Generator], Choice]
"""Chooses a batch of at most so many frames of a pool; what is left to chance comes from the generator."""


def choose_log_determinant(pool: Pool, n: int, rng: np.random.Generator, *, power: float = GAIN_POWER) -> Choice:
    """The batch that says most about the last layer's weights; :class:`LogDeterminant`."""
    return grow_batch(pool, n, lambda tracker: LogDeterminant(tracker.pool, power=power))


def choose_clusters(pool: Pool, n: int, rng: np.random.Generator, *, power: float = CLUSTER_POWER) -> Choice:
    """Of each worst represented cluster the farthest member; :class:`LargestCluster`."""
    return grow_batch(pool, n, lambda tracker: LargestCluster(tracker, power=power))


def choose_farthest(pool: Pool, n: int, rng: np.random.Generator, *, power: float = 0.0) -> Choice:
    """Farthest points by environments; :class:`FarthestEnvironment`."""
    return grow_batch(pool, n, lambda tracker: FarthestEnvironment(tracker, power=power))


def choose_farthest_mean(pool: Pool, n: int, rng: np.random.Generator) -> Choice:
    """Farthest points by structures' means; :class:`FarthestMean`."""
    return grow_batch(pool, n, lambda tracker: FarthestMean(tracker.pool))


def choose_product(pool: Pool, n: int, rng: np.random.Generator) -> Choice:
    """Uncertainty times distance of means; :class:`Product`."""
    return grow_batch(pool, n, lambda tracker: Product(tracker.pool))


def choose_at_random(pool: Pool, n: int, rng: np.random.Generator) -> Choice:
    """Any new frames; :class:`AtRandom`."""
    return grow_batch(pool, n, lambda tracker: AtRandom(tracker.pool, rng))


def choose_trusted(
    pool: Pool, n: int, rng: np.random.Generator, *, levels: tuple[float, float] = TRUST_LEVELS
) -> Choice:
    """At random between two levels of deviation; :class:`TrustLevels`."""
    return grow_batch(pool, n, lambda tracker: TrustLevels(tracker.pool, rng, levels))


METHODS: Mapping[str, Method] = {
    "log-determinant": choose_log_determinant,
    "clusters": choose_clusters,
    "farthest": choose_farthest,
    "farthest-mean": choose_farthest_mean,
    "product": choose_product,
    "random": choose_at_random,
    "trust-levels": choose_trusted,
}
"""All rules, with their defaults, by the name that a configuration would give."""


def choose(method: str, pool: Pool, n: int, rng: np.random.Generator) -> Choice:
    """A batch of ``n`` frames of ``pool`` by the rule called ``method``.

    Raises:
        ValueError: for a rule that is not in :data:`METHODS`.
    """
    if method not in METHODS:
        raise ValueError(f"no rule of selection is called {method!r}; there are {', '.join(METHODS)}")
    return METHODS[method](pool, n, rng)
