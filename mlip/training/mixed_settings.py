"""Were some structures labelled with other settings than the rest? Asked of all of them together.

Of the energy per atom y of structure k, a linear model fitted to the forces (:mod:`mlip.training.linear`) implies a
part x. The rest belongs to the elements (shares c), or is left open by the forces (the leading combinations u of the
model's uncertain coefficients: how the energy depends on the volume, on the phase, on what is mixed with what):

    y = a x + b·c + g·u + d z + noise,

with z = 1 for those of other settings, 0 for the others. Nobody tells z. It is found by turns, from several beginnings:
coefficients by least squares, then z from what is left, cut in two where the halves are tightest. Any data are cut in
two that way, Gaussian ones some 2.7 standard deviations apart, so an offset d counts only at many times the scatter
within the groups, with a gap between them, and where both groups are of the same kind of geometry: then no physics
tells them apart. Forces are asked likewise, by each structure's slope of the labelled forces on the model's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from mlip.statistics import cut_in_two, deviation
from mlip.training.linear import Implied

FEWEST = 12
"""Structures, and independent ones after the fit, below which nothing is said."""
SEPARATION = 8.0
"""Standard deviations within the groups by which these have to be apart."""
GAP = 0.4
"""Least empty part of the distance of the groups."""
STRAY = 50
"""Structures of which one in each group may lie in the gap: a model misses some."""
MIN_OFFSET = 0.005
"""eV/atom below which an offset is no matter."""
MIN_FACTOR = 1.04
"""Ratio of forces below which it is no matter."""
MOST_EXPLAINED = 0.5
"""Share of who is in which group that geometry may explain."""
OPEN = 1e-4
"""eV/atom that the forces must leave open of an energy for it to be fitted."""
MOST_FITTED = 0.2
"""Share of the structures up to which coefficients are fitted."""


@dataclass(frozen=True)
class Groups:
    """Two groups of structures whose labels are apart.

    Attributes:
        offset: of the energies of the ``minority``, eV/atom, or of the logarithms of its forces' slopes.
        scatter: standard deviation within the groups, in the same unit.
        minority: the smaller group, or the later one of two alike, [n].
    """

    offset: float
    scatter: float
    minority: np.ndarray


def split_energies(structures: Sequence[Atoms], implied: Implied) -> Groups | None:
    """Two groups of ``structures`` whose energies are an offset apart; None where they are one, or cannot be told."""
    design, labels = _design(structures, implied)
    if len(labels) - design.shape[1] < FEWEST:
        return None
    frame = np.linalg.qr(design)[0]
    left = labels - frame @ (frame.T @ labels)
    settled = {_settle(frame, left, upper).tobytes() for upper in _beginnings(left)}
    groups = [_part(design, labels, np.frombuffer(upper, dtype=bool)) for upper in sorted(settled)]
    apart = [g for g in groups if g is not None and abs(g.offset) >= MIN_OFFSET]
    apart = [g for g in apart if interleaved(implied.fingerprints, g.minority)]
    return max(apart, key=lambda g: abs(g.offset) / g.scatter, default=None)


def split_forces(implied: Implied) -> Groups | None:
    """Two groups of structures whose forces are a factor apart, of which the offset is the logarithm; likewise."""
    known = np.nonzero(np.nan_to_num(implied.force_slopes) > 0)[0]
    if len(known) < max(FEWEST, 0.9 * np.isfinite(implied.force_slopes).sum()):
        return None
    slopes = np.log(implied.force_slopes[known])
    groups = _judge(slopes, cut_in_two(slopes), 1)
    if groups is None or abs(groups.offset) < np.log(MIN_FACTOR):
        return None
    minority = np.zeros(len(implied.force_slopes), dtype=bool)
    minority[known] = groups.minority
    if not interleaved(implied.fingerprints, minority):
        return None
    return Groups(groups.offset, groups.scatter, minority)


def _design(structures: Sequence[Atoms], implied: Implied) -> tuple[np.ndarray, np.ndarray]:
    """What energies are made of [n, p], and these [n], eV/atom."""
    sizes = np.array([len(atoms) for atoms in structures], dtype=float)
    symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    shares = (
        np.array([[np.count_nonzero(atoms.symbols == s) for s in symbols] for atoms in structures]) / sizes[:, None]
    )
    crystals = np.array([atoms.pbc.all() for atoms in structures])
    volumes = np.array([atoms.get_volume() if atoms.pbc.all() else 0.0 for atoms in structures]) / sizes
    scaled = np.where(crystals, volumes - volumes[crystals].mean(), 0.0) if crystals.any() else volumes
    powers = [scaled, scaled**2] if np.ptp(scaled) > 1e-3 else []
    known = np.column_stack((implied.energies / sizes, shares, *powers))
    rest = implied.open_energies - known @ np.linalg.lstsq(known, implied.open_energies, rcond=None)[0]
    combined, size, _ = np.linalg.svd(rest, full_matrices=False)
    room = max(0, int(MOST_FITTED * len(sizes)) - known.shape[1])
    n_open = min(room, int(np.count_nonzero(size / np.sqrt(len(sizes)) > OPEN)))
    return np.column_stack((known, combined[:, :n_open])), implied.labels / sizes


def _beginnings(left: np.ndarray) -> list[np.ndarray]:
    """Groups [n] to begin with: of what is left [n] of the energies, and of the order in the file."""
    n = len(left)
    return [
        cut_in_two(left),
        cut_in_two(np.abs(left)),
        *(np.arange(n) < round(share * n) for share in (0.25, 0.5, 0.75)),
    ]


def _settle(frame: np.ndarray, left: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The groups [n] near ``upper`` that leave least: one structure at a time changes sides, the best one first.

    With M = 1 - Q Q' for the orthonormal ``frame`` Q [n, p] of the design and ``left`` = M y, least squares with groups
    z leave y'My - (z'My)² / z'Mz; a structure's own leverage is part of it, so that none holds itself where it is.
    """
    z, diagonal = upper.astype(float), 1 - np.sum(frame**2, axis=1)
    for _ in range(2 * len(z)):
        seen = z - frame @ (frame.T @ z)
        sign = 1 - 2 * z
        share, size = float(z @ left), float(z @ seen)
        after = (share + sign * left) ** 2 / np.maximum(size + 2 * sign * seen + diagonal, 1e-9)
        after[(z.sum() + sign < 1) | (z.sum() + sign > len(z) - 1)] = 0.0
        best = int(np.argmax(after))
        if after[best] <= (1 + 1e-9) * share**2 / max(size, 1e-9):
            break
        z[best] = 1 - z[best]
    return np.asarray(z > 0.5)


def _part(design: np.ndarray, labels: np.ndarray, upper: np.ndarray) -> Groups | None:
    """The two groups of ``labels`` [n] less what the ``design`` [n, p] says, both fitted at once."""
    coefficients = np.linalg.lstsq(np.column_stack((design, upper)), labels, rcond=None)[0]
    left = labels - design @ coefficients[:-1]
    return _judge(left, upper if coefficients[-1] > 0 else ~upper, design.shape[1] + 1)


def _judge(values: np.ndarray, upper: np.ndarray, n_fitted: int) -> Groups | None:
    """The groups ``upper`` and the rest of ``values``, ``n_fitted`` of which say nothing; None unless well apart."""
    smallest = max(4, round(0.05 * len(values)))
    if min(upper.sum(), (~upper).sum()) < smallest:
        return None
    centres = np.array([np.median(values[~upper]), np.median(values[upper])])
    within = values - centres[upper.astype(int)]
    scatter = float(np.sqrt(np.sum(within**2) / max(1, len(values) - n_fitted)))
    widths = [deviation(values[group]) for group in (upper, ~upper)]
    distance = float(centres[1] - centres[0])
    stray = len(values) // STRAY
    gap = float(np.sort(values[upper])[stray] - np.sort(values[~upper])[-1 - stray])
    if distance < SEPARATION * max(*widths, scatter, 1e-9) or gap < GAP * distance:
        return None
    later = float(np.mean(np.nonzero(upper)[0])) > float(np.mean(np.nonzero(~upper)[0]))
    minority = upper if (upper.sum(), not later) < ((~upper).sum(), later) else ~upper
    return Groups(distance if minority is upper else -distance, max(scatter, 1e-9), minority)


def interleaved(fingerprints: np.ndarray, minority: np.ndarray) -> bool:
    """Whether the geometries of ``minority`` [n] lie among the others': only then is an offset no physics.

    Asked of the nearest neighbours, and of what the leading components of the geometries explain of who is in it.
    """
    scaled = (fingerprints - fingerprints.mean(0)) / np.maximum(fingerprints.std(0), 1e-12 + 1e-6 * fingerprints.std())
    distances = np.linalg.norm(scaled[minority][:, None] - scaled[None], axis=-1)
    distances[np.arange(int(minority.sum())), np.nonzero(minority)[0]] = np.inf
    foreign = float(np.mean(~minority[distances.argmin(1)]))
    expected = float(np.sum(~minority)) / (len(minority) - 1)
    return foreign >= 0.4 * expected and _explained(scaled, minority) < MOST_EXPLAINED


def _explained(scaled: np.ndarray, minority: np.ndarray) -> float:
    """Share of the variance of ``minority`` [n] that a line in the leading components of ``scaled`` [n, F] explains.

    Less what as many random ones would (the adjusted coefficient of determination).
    """
    n = len(minority)
    components = np.linalg.svd(scaled, full_matrices=False)[0][:, : max(2, n // 6)]
    z = minority - minority.mean()
    left = float(np.sum((z - components @ (components.T @ z)) ** 2))
    return 1.0 - (n - 1) / max(1, n - 1 - components.shape[1]) * left / float(np.sum(z**2))


def share_settings(structures: Sequence[Atoms], minority: np.ndarray) -> bool:
    """Whether one and the same labeller gave some of both groups of ``structures`` [n]: then settings do not differ."""
    settings = [atoms.info.get("label_settings") for atoms in structures]
    few, rest = ({s for s, m in zip(settings, minority.tolist(), strict=True) if m is side} for side in (True, False))
    return bool((few & rest) - {None})


def list_runs(members: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of following numbers in ``members``, sorted."""
    runs = [list(run) for _, run in itertools.groupby(enumerate(members), key=lambda pair: pair[1] - pair[0])]
    return [(run[0][1], run[-1][1]) for run in runs]
