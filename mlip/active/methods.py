"""Rules by which a batch grows; what they share, duplicates, quotas and reasons, is :mod:`mlip.active.pool`'s."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from mlip.active.pool import Pool, Rule, Tracker

CLUSTER_POWER = 1.0
"""Exponent of the relative expected error in the weights of clusters."""
GAIN_POWER = 0.0
"""The same of gains of information: a gain knows the uncertainty already, and weighted it chases hot frames alone."""
TRUST_LEVELS = (0.05, 0.25)
"""eV/Å: DP-GEN's usual levels of the largest force deviation for metals and silicon."""


class LogDeterminant(Rule):
    """Information about the last layer's weights, in nats, over the cost of the label.

    A frame with rows Phi (in units of its system and species) adds

        1/2 log det(I + Phi C Phi^T)

    to what is known of the weights of a linear model whose posterior covariance is C; once it is taken,

        C <- C - C Phi^T (I + Phi C Phi^T)^-1 Phi C

    (Woodbury). What a frame adds can only shrink as the batch grows (the function is submodular), so an earlier gain is
    an upper bound, and frames are asked again only while their bound is the largest: lazy and exact (Minoux 1978).
    Gains may be multiplied by the relative expected error to some ``power``.
    """

    def __init__(self, pool: Pool, *, power: float = GAIN_POWER) -> None:
        self.pool, table = pool, pool.environments
        self.white = pool.known.whiten(table)
        self.blocks = [
            [rows.start + np.flatnonzero(table.species[rows] == s) for s in np.unique(table.species[rows]).tolist()]
            for rows in table.rows_of()
        ]
        self.factor = pool.weights() ** power / pool.cost
        width = self.white.shape[1]
        # In whitened rows, what is known already makes C the identity.
        self.covariance = {s: np.eye(width) for s in np.unique(table.species).tolist()}
        self.gains = np.array([self._gain(frame) for frame in range(pool.n_frames)])
        self.fresh = np.ones(pool.n_frames, bool)

    def scores(self, eligible: np.ndarray) -> np.ndarray:
        """Exact for the best of those eligible, upper bounds for the others."""
        bounds = np.where(eligible, self.gains * self.factor, -np.inf)
        while not self.fresh[best := int(np.argmax(bounds))]:
            self._refresh(best)
            bounds[best] = self.gains[best] * self.factor[best]
        return bounds

    def final_scores(self, eligible: np.ndarray) -> np.ndarray:
        """Exact for all that are eligible."""
        for frame in np.flatnonzero(eligible & ~self.fresh).tolist():
            self._refresh(frame)
        return self.gains * self.factor

    def add(self, frame: int) -> None:
        """Learn ``frame``."""
        for rows in self.blocks[frame]:
            species, phi = int(self.pool.environments.species[rows[0]]), self.white[rows]
            covariance = self.covariance[species]
            reach = phi @ covariance
            inner = np.eye(len(rows)) + reach @ phi.T
            self.covariance[species] = covariance - reach.T @ np.linalg.solve(inner, reach)
        self.fresh[:] = False

    def explain(self, frame: int, score: float) -> str:
        """The gain."""
        error = np.sqrt(self.pool.squared_error[frame])
        return f"adds {self.gains[frame]:.2f} nats, expected error {error:.3f} eV/Å"

    def _refresh(self, frame: int) -> None:
        self.gains[frame], self.fresh[frame] = self._gain(frame), True

    def _gain(self, frame: int) -> float:
        total = 0.0
        for rows in self.blocks[frame]:
            phi = self.white[rows]
            reach = phi @ self.covariance[int(self.pool.environments.species[rows[0]])] @ phi.T
            total += 0.5 * float(np.linalg.slogdet(np.eye(len(rows)) + reach)[1])
        return total


class LargestCluster(Rule):
    """Largest cluster, maximum distance (LCMD; Holzmüller et al., arXiv:2203.09410), of environments.

    Every environment belongs to the nearest known one or one of the batch. The cluster with the largest sum of
    weighted squared distances is the worst represented; its farthest member's frame is next. An environment weighs its
    frame's relative error over the number of environments kept of it.
    """

    def __init__(self, tracker: Tracker, *, power: float = CLUSTER_POWER) -> None:
        self.tracker, self.pool = tracker, tracker.pool
        frames = self.pool.environments.frame
        counts = np.bincount(frames, minlength=self.pool.n_frames)
        self.weight = (self.pool.weights() ** power / counts)[frames] * self.pool.usable[frames]

    def scores(self, eligible: np.ndarray) -> np.ndarray:
        """Over the cost, the sum of its cluster for the frame of a cluster's farthest member, else its own share."""
        tracker, frames = self.tracker, self.pool.environments.frame
        squared = np.where(np.isfinite(tracker.taught), tracker.taught, np.finfo(np.float32).max) * self.weight
        cost = self.pool.cost[frames]
        worth = np.where(eligible[frames], squared, -1.0) / cost
        clusters, member = np.unique(tracker.teacher, return_inverse=True)
        sums = np.bincount(member.ravel(), weights=squared, minlength=len(clusters))
        order = np.lexsort((worth, member.ravel()))
        last = order[np.r_[np.flatnonzero(np.diff(member.ravel()[order])), len(order) - 1]]
        worth[last] = np.where(worth[last] >= 0, sums[member.ravel()[last]] / cost[last], -1.0)
        return tracker.over_frames(worth)

    def explain(self, frame: int, score: float) -> str:
        """What it stands for."""
        error = np.sqrt(self.pool.squared_error[frame])
        return f"farthest of the worst represented cluster, score {score:.3g}, expected error {error:.3f} eV/Å"


class FarthestEnvironment(Rule):
    """The frame with the environment that is farthest from all known ones, weighted by error, over the cost."""

    def __init__(self, tracker: Tracker, *, power: float = 0.0) -> None:
        self.tracker, self.factor = tracker, tracker.pool.weights() ** power / tracker.pool.cost

    def scores(self, eligible: np.ndarray) -> np.ndarray:
        """Distances."""
        return np.sqrt(self.tracker.over_frames(self.tracker.taught)) * self.factor

    def explain(self, frame: int, score: float) -> str:
        """The distance."""
        return f"farthest from what is known, score {score:.3g}"


class _Means(Rule):
    """Distances between structures' mean descriptors, to the known ones and the batch."""

    def __init__(self, pool: Pool) -> None:
        if pool.means is None or pool.known_means is None:
            raise ValueError("this rule needs descriptors of whole structures; give the pool `means` and `known_means`")
        self.means = pool.means
        self.distance = cdist(self.means, pool.known_means).min(axis=1)

    def add(self, frame: int) -> None:
        """Count ``frame`` as known."""
        self.distance = np.minimum(self.distance, np.linalg.norm(self.means - self.means[frame], axis=1))


class FarthestMean(_Means):
    """The frame whose mean descriptor is farthest from all known ones: blind to one odd atom in a large cell."""

    def scores(self, eligible: np.ndarray) -> np.ndarray:
        """Distances."""
        return self.distance

    def explain(self, frame: int, score: float) -> str:
        """The distance."""
        return f"mean descriptor {score:.3f} from data and batch"


class Product(_Means):
    """Largest force uncertainty times the distance of mean descriptors, the project's rule until now."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.largest = pool.largest

    def scores(self, eligible: np.ndarray) -> np.ndarray:
        """Products."""
        return self.largest * self.distance

    def explain(self, frame: int, score: float) -> str:
        """Both factors."""
        return f"uncertainty {self.largest[frame]:.3f} eV/Å, distance {self.distance[frame]:.3f} to data and batch"


class AtRandom(Rule):
    """Any new frame."""

    def __init__(self, pool: Pool, rng: np.random.Generator) -> None:
        self.order = rng.permutation(pool.n_frames).astype(float)

    def scores(self, eligible: np.ndarray) -> np.ndarray:
        """A shuffle."""
        return self.order

    def explain(self, frame: int, score: float) -> str:
        """Chance."""
        return "drawn at random"


class TrustLevels(AtRandom):
    """DP-GEN's rule (Zhang et al., Comput. Phys. Commun. 253, 107206 (2020)).

    At random among the frames whose largest force deviation lies between two levels. Where these are not enough, the
    lower level sinks, as it does in DP-GEN with adaptive levels; above the upper one nothing is ever taken there, here
    only when all else is.
    """

    def __init__(self, pool: Pool, rng: np.random.Generator, levels: tuple[float, float] = TRUST_LEVELS) -> None:
        super().__init__(pool, rng)
        self.largest, self.levels = pool.largest, levels
        low, high = levels
        # Candidates before accurate frames, those by deviation; failed ones last.
        inside = (self.largest >= low) & (self.largest < high)
        below = self.largest < low
        self.order = np.where(inside, 1.0 + self.order, np.where(below, self.largest / max(low, 1e-12), -self.largest))

    def explain(self, frame: int, score: float) -> str:
        """On which side of the levels."""
        low, high = self.levels
        value = f"deviation {self.largest[frame]:.3f} eV/Å"
        if self.largest[frame] >= high:
            return f"{value}, failed by the upper level {high}, for all others are taken"
        return f"{value}, at random within {low} and {high}" if score >= 1 else f"{value}, the largest below {low}"
