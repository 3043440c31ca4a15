"""How a potential goes on below the shortest distances of its training data, and how much that may be wrong.

Each pair of elements has a repulsion that is a sum of terms with energies e >= 0, decays b >= 0 and reaches R,

    V(r) = sum of e (4 (1 - u)^3 / u) exp(-b (u - 1/2)),     u = r / R < 1, zero beyond.

Every factor is positive, falls and is convex, so their product is, and so is the sum: however the terms were
fitted, energy and force rise without end as the distance shrinks. Value, slope and curvature vanish at R, and e is
the energy at R / 2. Training fits terms to the labels' forces near the shortest distances and the network to what
they leave (:mod:`mlip.training.repulsion`); below, where the network is frozen, the terms alone go on.

A continuation is a guess. By a share ``doubt`` of the force expected of the pair times the depth d = (shortest - r) /
shortest, it may be wrong; ``doubt`` was measured on the closest pairs of the training data with a fit that did not see
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.potential.uncertainty import Doubt
from mlip.potential.zbl import pair_name
from mlip.structures.neighbors import find_pairs

AROUND = 0.15
"""Share of an atom's doubt that its neighbours' forces have. In Ni-Cu (EMT), with pairs at .82 to 1 of the shortest
distance, errors of neighbours' forces were a sixth of those of the atoms themselves."""

Term = tuple[float, float, float]
"""Energy at half the reach (eV), decay (dimensionless), reach (Å)."""
Index = Tensor | int
"""Species of the atoms of pairs; a number where all are of one: a 0-dimensional tensor would be read by the host."""


@dataclass(frozen=True)
class Continuation:
    """The repulsion of each pair of elements, ``"A-B"``.

    Attributes:
        terms: of the repulsion.
        doubt: expected error of the force, over force and depth.
        nearest: shortest distance of the training data, Å: depth counts from there.
        inner: distance below which the network is frozen, Å.
        expected: terms of the force that ``doubt`` is a share of, where ``terms`` do not tell it.
        blind: distance (Å) below which pairs are doubted that the data lack; 0 in potentials of earlier versions.
    """

    terms: dict[str, tuple[Term, ...]]
    doubt: dict[str, float]
    nearest: dict[str, float]
    inner: dict[str, float]
    expected: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    blind: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Continuation:
        """Inverse of :func:`dataclasses.asdict`."""
        terms, expected = (
            {pair: tuple((float(e), float(b), float(r)) for e, b, r in of) for pair, of in values.get(name, {}).items()}
            for name in ("terms", "expected")
        )
        doubt, nearest, inner = (
            {k: float(v) for k, v in values[name].items()} for name in ("doubt", "nearest", "inner")
        )
        return cls(terms, doubt, nearest, inner, expected, float(values.get("blind", 0.0)))


@dataclass(frozen=True)
class RepulsionTables:
    """Terms [S, S, K], doubt and distance below which it begins [S, S] of a :class:`Continuation`, in float64."""

    energy: Tensor
    decay: Tensor
    reach: Tensor
    doubt: Tensor
    nearest: Tensor
    expected: RepulsionTables | None = None

    @classmethod
    def of(
        cls, continuation: Continuation, species: Sequence[str], device: str | torch.device = "cpu"
    ) -> RepulsionTables:
        """Those of ``species``, padded to the largest number of terms."""
        names = [[pair_name(a, b) for b in species] for a in species]
        k = max(1, *map(len, continuation.terms.values()))
        padding: Term = (0.0, 0.0, 1.0)
        terms = np.array(
            [[[*continuation.terms[n], *[padding] * (k - len(continuation.terms[n]))] for n in row] for row in names]
        )
        tables = [*np.moveaxis(terms, -1, 0)]
        tables += [
            np.array([[values.get(n, missing) for n in row] for row in names])
            for values, missing in ((continuation.doubt, 0.0), (continuation.nearest, continuation.blind))
        ]
        energy, decay, reach, doubt, nearest = (torch.tensor(t, dtype=torch.float64, device=device) for t in tables)
        own = cls(energy, decay, reach, doubt, nearest)
        if not continuation.expected:
            return own
        doubted = replace(continuation, terms=continuation.terms | continuation.expected, expected={})
        return replace(own, expected=cls.of(doubted, species, device))

    @cached_property
    def longest(self) -> float:
        """Reach of the furthest term, Å."""
        return float(self.reach.max())

    @cached_property
    def doubted(self) -> float:
        """Distance from which on no pair is doubted, Å."""
        return float(self.nearest.max())

    def evaluate(self, r: Tensor, first: Index, second: Index) -> tuple[Tensor, Tensor]:
        """Energy of pairs (eV) and its slope (eV/Å), each shaped like ``r`` (Å), from their species; can be traced."""
        return sum_terms(r, self.energy[first, second], self.decay[first, second], self.reach[first, second])

    def evaluate_near(self, r: Tensor, first: Index, second: Index) -> tuple[Tensor, Tensor]:
        """The same where few pairs are within reach; decides on the host which."""
        energy, slope = torch.zeros_like(r), torch.zeros_like(r)
        near = torch.nonzero(r < self.longest, as_tuple=True)
        if len(near[0]):
            species = (s if isinstance(s, int) else s.expand_as(r)[near] for s in (first, second))
            energy[near], slope[near] = self.evaluate(r[near], *species)
        return energy, slope


def sum_terms(r: Tensor, energy: Tensor, decay: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """V and dV/dr [...] of the terms [..., K] at distances [...]."""
    u = r[..., None] / reach
    gap = (1.0 - u).clamp(min=0.0)
    common = 4.0 * energy * gap * gap / u * torch.exp(-decay * (u - 0.5))
    return (common * gap).sum(-1), -(common * (3.0 + gap / u + decay * gap) / reach).sum(-1)


def doubt_continuation(
    tables: RepulsionTables, cutoff: float, species: Tensor, centers: Tensor, neighbors: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Expected errors that the pairs nearer than the data's bring: of each atom's force and energy, [N], squared.

    Errors of an atom's pairs add up in squares; components of a force share one value, as the calibrated ones do.
    What a frozen network does not know of such a pair, the forces on the atoms around lack as well: they get ``AROUND``
    times the pair's, less with the distance as the cutoff function falls.

    Args:
        tables: of the potential.
        cutoff: Å.
        species: of the atoms, [N].
        centers, neighbors: atoms of each pair, in both directions, [E].
        vectors: [E, 3], Å.
    """
    force, energy = vectors.new_zeros(len(species)), vectors.new_zeros(len(species))
    distances = torch.linalg.vector_norm(vectors, dim=-1)
    # Most pairs are further than any doubt reaches: a number tells it sooner than a table.
    deep = torch.nonzero(distances < tables.doubted)[:, 0]
    r, first, second = distances[deep], species[centers[deep]], species[neighbors[deep]]
    nearest = tables.nearest[first, second]
    deeper = torch.nonzero(r < nearest)[:, 0]
    if not len(deeper):
        return force, energy
    deep, r, nearest, first, second = (x[deeper] for x in (deep, r, nearest, first, second))
    expected = tables.expected or tables
    value, slope = expected.evaluate(r, first, second)
    share = tables.doubt[first, second] * (1.0 - r / nearest)
    gained = value - expected.evaluate(nearest, first, second)[0]
    force.index_add_(0, centers[deep], (share * slope) ** 2)
    # Half of each pair belongs to either of its atoms.
    energy.index_add_(0, centers[deep], 0.5 * (share * gained) ** 2)
    near = torch.nonzero(force.index_select(0, neighbors))[:, 0]
    fading = AROUND * (1.0 - (distances[near] / cutoff) ** 2).clamp(min=0.0) ** 3
    return force.index_add(0, centers[near], fading**2 * force[neighbors[near]]), energy


def split_doubt(force: Tensor, energy: Tensor, sizes: Sequence[int]) -> list[Doubt | None]:
    """Of each structure with ``sizes`` atoms; None where no pair is nearer than the data's."""
    ends = np.cumsum(sizes)[:-1]
    parts = zip(np.split(force.cpu().numpy(), ends), np.split(energy.cpu().numpy(), ends), strict=True)
    return [Doubt(np.sqrt(f), float(np.sqrt(e.sum()))) if f.any() else None for f, e in parts]


def nearest_pair_ratios(structures: Sequence[Atoms], shortest: Mapping[str, float]) -> np.ndarray:
    """Of each structure the least distance over the ``shortest`` (Å) of the same pair of elements in training data.

    Below 1 a pair is nearer than any that was trained: there the potential is a guess, and a label is worth having.
    Pairs that the data do not hold within the cutoff do not count; without any pair it is infinite.
    """
    longest = max(shortest.values(), default=0.0)
    ratios = np.full(len(structures), np.inf)
    for k, atoms in enumerate(structures):
        if not longest:
            break
        pairs = find_pairs(atoms, 1.5 * longest)
        symbols = np.array(atoms.get_chemical_symbols())
        for a, b in {
            tuple(sorted(pair)) for pair in zip(symbols[pairs.centers], symbols[pairs.neighbors], strict=True)
        }:
            if (known := shortest.get(pair_name(a, b))) is not None:
                chosen = (symbols[pairs.centers] == a) & (symbols[pairs.neighbors] == b)
                ratios[k] = min(ratios[k], float(pairs.distances[chosen].min()) / known)
    return ratios
