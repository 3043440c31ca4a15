"""Frames that may be labelled, what is chosen of them, and the growth of a batch, whatever the method."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlip.active.environments import EnvironmentTable, Known

DUPLICATE = 0.05
"""Units below which environments are the same: a twentieth of what a system's known ones vary."""
CHUNK = 4096
"""Rows whose distances to all known ones are held at once."""
NOBODY = -1


@dataclass(frozen=True)
class Pool:
    """Candidates for labels.

    Attributes:
        environments: of all frames, as :meth:`mlip.active.environments.Known.reduce` leaves them.
        known: what they are measured against.
        squared_error: expected squared error of a force component of each frame, calibrated, (eV/Å)², [n_frames].
        largest: largest uncertainty of a force over its atoms, eV/Å, [n_frames]; only the rules of old look at it.
        cost: of each label in any unit, [n_frames].
        usable: whether a label is worth having at all, [n_frames]; broken frames are not.
        squared_force: mean squared force component of each system's labels, (eV/Å)²; what is absent is relative to
            the pool's mean expected squared error of the system.
        quotas: most frames of a system in one batch, while other systems have something new.
        names: of the frames, for reasons that a person reads; by default their numbers.
        known_names: of the known frames, likewise.
        means: descriptors of whole structures, [n_frames, n_descriptors], in units of the known ones' spread; only
            the rules of old look at them, and at ``known_means``, [n_known, n_descriptors].
    """

    environments: EnvironmentTable
    known: Known
    squared_error: np.ndarray
    largest: np.ndarray
    cost: np.ndarray
    usable: np.ndarray
    squared_force: Mapping[int, float] = field(default_factory=dict)
    quotas: Mapping[int, int] = field(default_factory=dict)
    names: Sequence[str] = ()
    known_names: Sequence[str] = ()
    means: np.ndarray | None = None
    known_means: np.ndarray | None = None

    def __post_init__(self) -> None:
        sizes = {name: len(getattr(self, name)) for name in ("squared_error", "largest", "cost", "usable")}
        if len({*sizes.values()}) > 1 or self.environments.n_frames != len(self.cost):
            raise ValueError(f"a pool of {self.environments.n_frames} frames has columns of other lengths: {sizes}")
        if len(np.unique(self.environments.frame)) != self.n_frames or not np.isfinite(self.environments.values).all():
            raise ValueError("some frame has no environments, or such that are not finite; leave it out of the pool")
        if not (np.isfinite(self.cost).all() and (self.cost > 0).all()):
            raise ValueError(f"labels must cost more than nothing, got {float(np.min(self.cost)):g}; use 1 if unknown")

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.cost)

    @property
    def systems(self) -> np.ndarray:
        """System of each frame, [n_frames]."""
        return self.environments.system[np.searchsorted(self.environments.frame, np.arange(self.n_frames))]

    def name(self, frame: int) -> str:
        """What to call a frame."""
        return self.names[frame] if self.names else f"frame {frame}"

    def known_name(self, frame: int) -> str:
        """What to call a known one."""
        return self.known_names[frame] if self.known_names else f"known frame {frame}"

    def weights(self) -> np.ndarray:
        """Expected error of each frame's force components over its system's RMS force, [n_frames]."""
        squared, systems = np.where(np.isfinite(self.squared_error), self.squared_error, 0.0), self.systems
        scale = {s: self.squared_force.get(s) or float(squared[systems == s].mean()) for s in set(systems.tolist())}
        return np.sqrt(squared / np.maximum([scale[s] for s in systems.tolist()], 1e-20))


@dataclass(frozen=True)
class Choice:
    """A batch, and what was thought of every frame.

    Attributes:
        rows: frames taken, in the order of choice.
        reasons: why each frame was taken or left, a text for each of the pool.
        atoms: the atom that each frame is interesting for, [n_frames].
        distances: how far that atom's environment is from the nearest known one when the choice was made (for frames
            that were left, when it was over), in units of its system and species, [n_frames].
        nearest: row of ``pool.known.table`` that is this nearest one, [n_frames]; -1 where it is of the batch.
        scores: what the method ranked by, at the same moment, [n_frames]; NaN where it does not rank.
    """

    rows: np.ndarray
    reasons: list[str]
    atoms: np.ndarray
    distances: np.ndarray
    nearest: np.ndarray
    scores: np.ndarray


class Rule(ABC):
    """What ranks frames while a batch grows."""

    @abstractmethod
    def scores(self, eligible: np.ndarray) -> np.ndarray:
        """How much each frame is wanted, given the batch so far, [n_frames]; right for the best of the ``eligible``."""

    def final_scores(self, eligible: np.ndarray) -> np.ndarray:
        """The same, right for all that are ``eligible``."""
        return self.scores(eligible)

    def add(self, frame: int) -> None:
        """``frame`` is in the batch; whoever looks at the tracker's distances alone has nothing to do."""
        return

    @abstractmethod
    def explain(self, frame: int, score: float) -> str:
        """What speaks for ``frame``, now that it has this score."""


class Tracker:
    """Distances of the pool's environments to what is known, the growing batch included."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.table = pool, pool.environments
        everything = np.ones(len(pool.known.teaches), bool)
        self.squared, nearest = measure_to(self.table, pool.known.table, everything)
        if pool.known.teaches.all():
            self.taught, self.teacher = self.squared.copy(), nearest
        else:
            self.taught, self.teacher = measure_to(self.table, pool.known.table, pool.known.teaches)
        # Who stands for each frame: in the batch so far, the one whose environments cover it.
        self.like = np.full(pool.n_frames, NOBODY)

    def over_frames(self, values: np.ndarray) -> np.ndarray:
        """Largest of each frame's rows, [n_frames]."""
        return largest_of_frames(self.table, values)

    def is_new(self) -> np.ndarray:
        """Whether some environment of each frame is like none known or in the batch, [n_frames]."""
        return self.over_frames(self.squared) >= DUPLICATE**2

    def add(self, frame: int) -> None:
        """Count ``frame``'s environments as known."""
        rows = np.flatnonzero(self.table.frame == frame)
        before = self.is_new()
        squared, nearest = measure_to(self.table, self.table.take(rows), np.ones(len(rows), bool))
        closer = squared < self.taught
        # The batch's own environments are numbered after the known ones.
        self.teacher[closer] = len(self.pool.known.teaches) + rows[nearest[closer]]
        self.taught, self.squared = np.minimum(self.taught, squared), np.minimum(self.squared, squared)
        self.like[before & ~self.is_new()] = frame

    def culprit(self, frame: int) -> int:
        """Row of the environment of ``frame`` that is farthest from what is known."""
        rows = np.flatnonzero(self.table.frame == frame)
        return int(rows[np.argmax(self.taught[rows])])


def largest_of_frames(table: EnvironmentTable, values: np.ndarray) -> np.ndarray:
    """Largest of ``values`` [n_rows] over the rows of each frame of ``table``, none of which lacks rows, [n_frames]."""
    first = np.searchsorted(table.frame, np.arange(table.n_frames))
    return np.asarray(np.maximum.reduceat(values, first) if len(values) else np.zeros(0))


def measure_to(table: EnvironmentTable, others: EnvironmentTable, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances [n_rows] to the nearest ``allowed`` row of one's species, in one's own units, and which it is.

    Infinite, and -1, where there is none.
    """
    squared, nearest = np.full(len(table.values), np.inf), np.full(len(table.values), NOBODY)
    for species in np.unique(table.species).tolist():
        mine = np.flatnonzero(table.species == species)
        theirs = np.flatnonzero((others.species == species) & allowed)
        if not len(theirs):
            continue
        points = others.values[theirs]
        sizes = np.square(points).sum(1)
        for start in range(0, len(mine), CHUNK):
            rows = mine[start : start + CHUNK]
            values = table.values[rows]
            apart = np.square(values).sum(1)[:, None] - 2.0 * (values @ points.T) + sizes
            best = apart.argmin(1)
            # By differences again: of near ones, the expansion of the square leaves rounding.
            exact = np.square(values.astype(float) - points[best]).sum(1)
            squared[rows], nearest[rows] = exact / table.unit[rows].astype(float) ** 2, theirs[best]
    return squared, nearest


def grow_batch(pool: Pool, n: int, rule: Callable[[Tracker], Rule]) -> Choice:
    """Take the frame with the best score until there are ``n``, or nothing new is left.

    A frame is new while one of its environments is. Quotas of systems hold while another system has something new.
    """
    tracker = Tracker(pool)
    method = rule(tracker)
    known_before = ~tracker.is_new()
    shown = _Shown.of(pool)
    taken: list[int] = []
    while len(taken) < n:
        eligible, lifted = _eligible(pool, tracker, taken)
        if not eligible.any():
            break
        scores = np.where(eligible, method.scores(eligible), -np.inf)
        frame = int(np.argmax(scores))
        shown.note(tracker, frame, float(scores[frame]))
        note = "; beyond its system's quota, for no other system has anything new" if lifted else ""
        shown.reasons[frame] = method.explain(frame, shown.scores[frame]) + shown.where(tracker, frame) + note
        taken.append(frame)
        tracker.add(frame)
        method.add(frame)
    _explain_rest(pool, tracker, method, taken, known_before, shown)
    rows = np.array(taken, dtype=int)
    return Choice(rows, shown.reasons, shown.atoms, shown.distances, shown.nearest, shown.scores)


@dataclass(frozen=True)
class _Shown:
    """Columns of a :class:`Choice` in the making."""

    reasons: list[str]
    atoms: np.ndarray
    distances: np.ndarray
    nearest: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, pool: Pool) -> _Shown:
        n = pool.n_frames
        return cls([""] * n, np.zeros(n, int), np.zeros(n), np.full(n, NOBODY), np.full(n, np.nan))

    def note(self, tracker: Tracker, frame: int, score: float) -> None:
        row, n_known = tracker.culprit(frame), len(tracker.pool.known.teaches)
        self.atoms[frame], self.distances[frame] = tracker.table.atom[row], np.sqrt(tracker.taught[row])
        self.nearest[frame] = tracker.teacher[row] if tracker.teacher[row] < n_known else NOBODY
        self.scores[frame] = score

    def where(self, tracker: Tracker, frame: int) -> str:
        """The atom, and how far it is from which known environment."""
        table, n_known = tracker.pool.known.table, len(tracker.pool.known.teaches)
        nearest = tracker.teacher[tracker.culprit(frame)]
        if nearest == NOBODY:
            return f"; atom {self.atoms[frame]}, of an element without known environments"
        if nearest < n_known:
            place = f"{tracker.pool.known_name(table.frame[nearest])}, atom {table.atom[nearest]}"
        else:
            place = f"{tracker.pool.name(tracker.table.frame[nearest - n_known])} of this batch"
        return f"; atom {self.atoms[frame]} is {self.distances[frame]:.2f} from the nearest taught one ({place})"


def _eligible(pool: Pool, tracker: Tracker, taken: list[int]) -> tuple[np.ndarray, bool]:
    """Frames that may be taken now, and whether that is so only because quotas are set aside."""
    new = tracker.is_new() & pool.usable
    new[taken] = False
    full = _full_systems(pool, taken)
    within = new & ~np.isin(pool.systems, full)
    return (within, False) if within.any() else (new, bool(new.any()))


def _full_systems(pool: Pool, taken: list[int]) -> list[int]:
    systems = pool.systems[taken].tolist()
    return [system for system, most in pool.quotas.items() if systems.count(system) >= most]


def _explain_rest(
    pool: Pool, tracker: Tracker, method: Rule, taken: list[int], known_before: np.ndarray, shown: _Shown
) -> None:
    """Reasons and scores, as they are in the end, of what was left."""
    open_ = tracker.is_new() & pool.usable
    open_[taken] = False
    scores = np.where(open_, method.final_scores(open_), -np.inf) if open_.any() else np.full(pool.n_frames, -np.inf)
    order = {int(frame): k + 1 for k, frame in enumerate(np.argsort(-scores, kind="stable"))}
    full = _full_systems(pool, taken)
    for frame in sorted({*range(pool.n_frames)} - {*taken}):
        shown.note(tracker, frame, float(scores[frame]) if open_[frame] else np.nan)
        if not pool.usable[frame]:
            reason = "not usable"
        elif known_before[frame]:
            reason = f"like known data: every environment is within {DUPLICATE} of one"
        elif not open_[frame]:
            reason = (
                f"duplicate: every environment is within {DUPLICATE} of one in {pool.name(tracker.like[frame])}, taken"
            )
        elif pool.systems[frame] in full:
            reason = f"its system has its quota of {pool.quotas[int(pool.systems[frame])]}"
            reason += f"; {order[frame]} of {int(open_.sum())} left"
        else:
            reason = f"batch full: {order[frame]} of {int(open_.sum())} new frames left"
        shown.reasons[frame] = reason


def share_quotas(pool: Pool, n: int, *, even: float = 0.5) -> dict[int, int]:
    """Most frames of each of several systems in a batch of ``n``: an ``even`` share, the rest by squared error.

    One at least; one system alone has no quota.
    """
    usable = pool.usable
    systems = pool.systems
    present = sorted(set(systems[usable].tolist()))
    if len(present) < 2:
        return {}
    squared = np.square(pool.weights())
    means = [float(squared[usable & (systems == system)].mean()) for system in present]
    total = sum(means)
    shares = [even / len(present) + (1.0 - even) * (mean / total if total else 1.0 / len(present)) for mean in means]
    return {system: max(1, math.ceil(n * share)) for system, share in zip(present, shares, strict=True)}
