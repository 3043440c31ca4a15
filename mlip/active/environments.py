"""Atomic environments as rows of numbers, in units that make systems, species and cell sizes comparable.

A row holds what a potential's last layer sees of an atom (:meth:`mlip.potential.interface.Potential.embed`). Rows of
one species share a space; how much they vary differs from system to system, from a crystal's vibrations to a melt.
So every (system, species) has a unit, the spread of its own known environments, and a distance or a gain of
information is one of that group. What other systems the training set holds does not enter it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from mlip.seeds import derive_rng

KEPT = 16
"""Environments kept of a frame: as many of a large cell as of a small one."""
WIDTH = 96
"""Features beyond which rows are projected at random to so many: distances keep to 10 % (Johnson-Lindenstrauss)."""
LEAST_UNIT = 0.02
"""Floor of a group's unit, relative to the size of its rows: an ideal crystal has no spread of its own."""
RIDGE = 1e-2
"""Prior precision of the last layer's weights, relative to the mean eigenvalue of the known rows' Gram matrix."""
MOST_KNOWN = 10_000
"""Known environments that distances are measured to: of more, each frame's most informative and a random rest."""
FEWEST_KEPT = 4
"""Environments that every known frame keeps however many there are."""


@dataclass(frozen=True)
class EnvironmentTable:
    """Environments of several frames, one row each.

    Attributes:
        values: features [n_rows, n_features], float32 will do.
        frame: index of each row's frame, [n_rows], ascending.
        atom: index of its atom in the frame, [n_rows].
        species: atomic number, [n_rows].
        system: number of the frame's starting structure, [n_rows].
        unit: length that is one in the row's (system, species), [n_rows].
    """

    values: np.ndarray
    frame: np.ndarray
    atom: np.ndarray
    species: np.ndarray
    system: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(
        cls, blocks: Sequence[np.ndarray], species: Sequence[np.ndarray], systems: Sequence[int]
    ) -> EnvironmentTable:
        """All environments of frames with ``blocks`` [n_atoms, n_features], atomic numbers and systems."""
        sizes = [len(block) for block in blocks]
        n = sum(sizes)
        return cls(
            np.concatenate(blocks).astype(np.float32) if blocks else np.zeros((0, 0), np.float32),
            np.repeat(np.arange(len(blocks)), sizes),
            np.concatenate([np.arange(size) for size in sizes]) if blocks else np.zeros(0, int),
            np.concatenate(species).astype(int) if blocks else np.zeros(0, int),
            np.repeat(np.asarray(systems, dtype=int), sizes),
            np.ones(n, np.float32),
        )

    @classmethod
    def join(cls, tables: Sequence[EnvironmentTable]) -> EnvironmentTable:
        """One table after another, their frames numbered through."""
        first = np.cumsum([0, *(table.n_frames for table in tables)])
        shifted = [replace(table, frame=table.frame + k) for table, k in zip(tables, first[:-1], strict=True)]
        return cls(**{name: np.concatenate([getattr(t, name) for t in shifted]) for name in cls.columns()})

    @classmethod
    def columns(cls) -> list[str]:
        """Names of the arrays, e.g. for a file."""
        return [f.name for f in fields(cls)]

    @property
    def n_frames(self) -> int:
        """Frames, counted up to the last that has a row."""
        return int(self.frame[-1]) + 1 if len(self.frame) else 0

    def take(self, rows: np.ndarray) -> EnvironmentTable:
        """Some ``rows``, their frames' numbers unchanged."""
        return EnvironmentTable(**{name: getattr(self, name)[rows] for name in self.columns()})

    def rows_of(self) -> list[slice]:
        """Rows of each frame."""
        bounds = np.searchsorted(self.frame, np.arange(self.n_frames + 1))
        return [slice(a, b) for a, b in itertools.pairwise(bounds.tolist())]

    def in_units(self) -> np.ndarray:
        """``values`` over ``unit``, float64: rows of a regression whose noise is in proportion to the units."""
        return self.values.astype(float) / self.unit[:, None]


@dataclass(frozen=True)
class Metric:
    """How features become comparable: origin of each species, unit of each group, and a projection to fewer features.

    Attributes:
        origin: mean over a species' systems, [n_features], by atomic number.
        unit: root mean squared distance of a group's rows to their mean, by (system, atomic number).
        projection: [n_features, n_projected], or None.
    """

    origin: Mapping[int, np.ndarray]
    unit: Mapping[tuple[int, int], float]
    projection: np.ndarray | None = None

    @classmethod
    def fit(cls, known: EnvironmentTable, *, seed: int = 0, width: int = WIDTH) -> Metric:
        """That of the environments that a potential was trained on; ``seed`` draws the projection."""
        n_features = known.values.shape[1]
        projection = None
        if n_features > width:
            noise = derive_rng(seed, "metric", n_features, width).normal(size=(n_features, width))
            projection = (noise / width**0.5).astype(np.float32)
        origin, unit = {}, {}
        for species in np.unique(known.species).tolist():
            means = []
            for system in np.unique(known.system[known.species == species]).tolist():
                rows = known.values[(known.species == species) & (known.system == system)].astype(float)
                means.append(rows.mean(0))
                spread, size = (float(np.sqrt(np.square(x).sum(1).mean())) for x in (rows - means[-1], rows))
                unit[system, species] = max(spread, LEAST_UNIT * size, 1e-12)
            origin[species] = np.mean(means, axis=0)
        return cls(origin, unit, projection)

    def apply(self, table: EnvironmentTable) -> EnvironmentTable:
        """``table`` from the origins of its species, projected, with the units of its groups.

        A system that has no known environment of a species has the median unit of the systems that do.
        """
        groups = np.stack([table.system, table.species], 1)
        distinct, member = np.unique(groups, axis=0, return_inverse=True)
        origins = np.array([self.origin.get(s, np.zeros(table.values.shape[1])) for _, s in distinct.tolist()])
        units = np.array([self._unit(system, species) for system, species in distinct.tolist()])
        values = table.values - origins.astype(np.float32)[member.ravel()]
        values = values if self.projection is None else values @ self.projection
        return replace(table, values=values.astype(np.float32), unit=units.astype(np.float32)[member.ravel()])

    def _unit(self, system: int, species: int) -> float:
        if (system, species) in self.unit:
            return self.unit[system, species]
        others = [unit for (_, s), unit in self.unit.items() if s == species]
        return float(np.median(others or [*self.unit.values()] or [1.0]))


@dataclass(frozen=True)
class Known:
    """What is known before a batch is chosen.

    Attributes:
        metric: in which everything is measured.
        table: known environments in it: of training, and of what else must not be labelled again (audits, failed and
            pending structures); thinned where there are too many.
        teaches: whether each row's frame is trained on, or will be, [n_rows].
        factor: L with L L^T = C, C the posterior covariance of the last layer's weights given what teaches, of each
            species, [n_features, n_features].
    """

    metric: Metric
    table: EnvironmentTable
    teaches: np.ndarray
    factor: Mapping[int, np.ndarray]

    @classmethod
    def of(cls, known: EnvironmentTable, teaches: np.ndarray | None = None, *, seed: int = 0) -> Known:
        """From raw features of all known frames and whether each frame ``teaches`` [n_frames]; all do by default."""
        frames = np.ones(known.n_frames, bool) if teaches is None else np.asarray(teaches, bool)
        rows = frames[known.frame]
        if not rows.any():
            raise ValueError(
                "no known frame teaches, so nothing says what is new; give environments of the training set"
            )
        metric = Metric.fit(known.take(rows), seed=seed)
        table = metric.apply(known)
        whole = cls(metric, table, rows, _factors(table.take(rows)))
        kept = whole._thin(derive_rng(seed, "known"))
        return cls(metric, table.take(kept), rows[kept], whole.factor)

    def reduce(self, raw: EnvironmentTable, kept: int = KEPT) -> EnvironmentTable:
        """The ``kept`` environments of each frame that say most, given what is known and each other.

        Greedy by the posterior variance phi^T C phi, which each pick lowers for those like it (a Cholesky
        decomposition with pivots): of a large cell the unusual environments are kept, one of each kind.
        """
        table = self.metric.apply(raw)
        return table.take(self._pick(table, kept))

    def _pick(self, table: EnvironmentTable, kept: int) -> np.ndarray:
        white = self.whiten(table)
        chosen = [
            np.sort(rows.start + _pick_rows(white[rows], table.species[rows], kept))
            for rows in table.rows_of()
            if rows.stop > rows.start
        ]
        return np.concatenate(chosen) if chosen else np.zeros(0, int)

    def _thin(self, rng: np.random.Generator) -> np.ndarray:
        """Rows of the table, MOST_KNOWN or hardly more; a frame like a known one finds its most unusual rows there."""
        n_rows, n_frames = len(self.table.frame), len(np.unique(self.table.frame))
        if n_rows <= MOST_KNOWN:
            return np.arange(n_rows)
        first = self._pick(self.table, min(KEPT, max(FEWEST_KEPT, MOST_KNOWN // n_frames)))
        rest = rng.permutation(np.setdiff1d(np.arange(n_rows), first))[: max(0, MOST_KNOWN - len(first))]
        return np.sort(np.concatenate([first, rest]))

    def whiten(self, table: EnvironmentTable) -> np.ndarray:
        """phi L [n_rows, n_features] in units; its squared length is the posterior variance of the row."""
        rows, white = table.in_units(), np.zeros(table.values.shape)
        for species in np.unique(table.species).tolist():
            mine = table.species == species
            white[mine] = rows[mine] @ self.factor.get(species, np.eye(rows.shape[1]))
        return white


def _factors(table: EnvironmentTable) -> dict[int, np.ndarray]:
    """L of C = (Phi^T Phi + ridge)^-1 of each species; eigenvalues that round-off made negative count as 0."""
    factors, rows = {}, table.in_units()
    for species in np.unique(table.species).tolist():
        mine = rows[table.species == species]
        values, vectors = np.linalg.eigh(mine.T @ mine)
        ridge = max(RIDGE * float(values.mean()), 1e-12)
        factors[species] = vectors / np.sqrt(np.maximum(values, 0.0) + ridge)
    return factors


def _pick_rows(white: np.ndarray, species: np.ndarray, kept: int) -> np.ndarray:
    """Greedy maximum of log det(I + W W^T) over ``kept`` rows of ``white`` [n_rows, n_features]."""
    if len(white) <= kept:
        return np.arange(len(white))
    variance = np.square(white).sum(1)
    columns: list[np.ndarray] = []
    taken: list[int] = []
    for _ in range(kept):
        best = int(np.argmax(np.where(np.isin(np.arange(len(white)), taken), -1.0, variance)))
        taken.append(best)
        covariance = np.where(species == species[best], white @ white[best], 0.0)
        for column in columns:
            covariance = covariance - column * column[best]
        columns.append(covariance / np.sqrt(1.0 + max(float(variance[best]), 0.0)))
        variance = variance - columns[-1] ** 2
    return np.array(taken)
