"""The repulsion of each pair of elements, fitted to the labels' forces near the shortest distances.

Forces of atoms that have a near neighbour are written as sums over pairs: the terms of
:mod:`mlip.potential.continuation`, whose energies must not be negative (non-negative least squares, Lawson and Hanson
1974), and, for what surrounds a pair, free functions beyond ``BACKGROUND`` times its shortest distance. Below that
distance the terms alone explain the force: their slope at the shortest distance is the data's. Nearer still, where
no labels are, they pass into ZBL (Ziegler, Biersack and Littmark, 1985) through terms that end at ``CORE`` times the
shortest distance; ZBL holds for collisions, and at 1.6 Å is twice too strong for nickel.

Terms end at ``REACH`` times the shortest distance. Further out they would fit better still, but what surrounds a pair
in the data would come into them, which the network has to make up for wherever the surroundings differ: of oxygen on
Cu(111), terms of up to 2.4 times made forces worse by half (docs/potential.md).

A pair of elements whose forces near its shortest distance the fit does not explain, or mispredicts when they are left
out, has no repulsion of its own in the data (hydrogen atoms of one methyl group): it gets ZBL alone, below the data. So
does a pair that the data do not hold. Of both the bare ZBL tells how much is doubted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from scipy.optimize import nnls

from mlip.potential.atomic_basis import AtomicBasis
from mlip.potential.continuation import Continuation, Term, sum_terms
from mlip.potential.zbl import bare_zbl, covalent_sums, inner_radii, outer_radii, pair_name
from mlip.structures.labelled import labelled_forces
from mlip.structures.neighbors import Pairs

REACH = 1.3
GRID = tuple((REACH, decay) for decay in (0.0, 3.0, 6.0, 10.0))
"""Reach over the shortest distance, and decay, of the terms among which the fit chooses. The steepest grows as 1/r^13
does below the shortest distance: nothing that repels is steeper, and a few noisy labels may look so."""
BACKGROUND, N_BACKGROUND = 1.15, 5
"""Distance over the shortest one where the surroundings' functions begin, and their number up to the cutoff."""
NEAR = 1.35
"""Atoms with a neighbour nearer than this many shortest distances are fitted to."""
EMPHASIS = 4.0
"""Weight of an atom's force: nearest distance over the shortest one to minus this power."""
RIDGE = 1e-3
"""Relative to the columns; of steep terms as much more as they are steeper: labels have to show it."""
CLOSEST, LEFT_OUT = 1.08, 1.15
"""Pairs that tell whether terms explain the forces, over the shortest distance; and those, a little more, that the fit
leaves out which they judge."""
LEAST_EXPLAINED = 0.5
"""Share of the closest pairs' squared force below which a pair of elements gets ZBL."""
LEAST_DOUBT, UNFITTED_DOUBT, MOST_DOUBT = 1.0, 3.0, 6.0
"""Expected error of a continuation, over its force and depth: at least; without a fit; at most."""
CORE, CORE_DECAYS = 0.8, (0.0, 4.0, 8.0, 16.0, 24.0, 32.0)
"""Reach, over the shortest distance, and decays of the terms that lead to ZBL."""
WIDE = tuple((reach, decay) for reach in (1.5, 1.0, 0.7, 0.5, 0.3, 0.2) for decay in CORE_DECAYS)
"""Reach over the shortest distance, or the cutoff, and decay of the terms that are the bare ZBL's."""
CORE_INSIDE, ZBL_HOLDS = 0.55, 0.8
"""Share of their reach, and distance (Å), below which the repulsion is to be ZBL's."""
MOST_ATOMS, MOST_NUMBERS = 6000, 30_000_000
"""Atoms, nearest pairs first, and numbers of the design matrix that a fit rests on at most."""


@dataclass(frozen=True)
class RepulsionFit:
    """Forces as a linear function of energies of terms and sizes of background functions.

    Attributes:
        names: pairs of elements.
        columns: [3 n, n_names * (terms + background)], pair by pair.
        forces: [3 n], eV/Å.
        ratios: nearest distance over the shortest one, [3 n].
        kinds: pair of elements that each atom's nearest one is, [3 n].
    """

    names: list[str]
    columns: np.ndarray
    forces: np.ndarray
    ratios: np.ndarray
    kinds: np.ndarray

    @property
    def terms(self) -> np.ndarray:
        """Which columns are terms, not background, [n_names, n_terms]."""
        return np.arange(len(self.names))[:, None] * (len(GRID) + N_BACKGROUND) + np.arange(len(GRID))

    def solve(self, rows: np.ndarray) -> np.ndarray:
        """Energies and sizes [n_columns] from the ``rows`` [3 n] (bool)."""
        weights = self.ratios[rows] ** -EMPHASIS
        free = np.ones(self.columns.shape[1], dtype=bool)
        free[self.terms.ravel()] = False
        weighted = self.columns[rows] * weights[:, None]
        # Free functions enter twice, with either sign.
        steepness = np.tile(np.append(_steepness(GRID), np.ones(N_BACKGROUND)), len(self.names))
        ridge = RIDGE * np.append(steepness, steepness[free])
        both = np.concatenate([weighted, -weighted[:, free]], 1)
        found = _solve_nonnegative(both, self.forces[rows] * weights, ridge)
        result = found[: len(free)]
        result[free] -= found[len(free) :]
        return result


def _steepness(grid: Sequence[tuple[float, float]]) -> np.ndarray:
    """By how much the force of each term grows from the shortest distance to .7 of it, over that of the softest."""
    growth = [np.divide(*_force([(1.0, decay, reach)], np.array([0.7, 1.0]))) for reach, decay in grid]
    return np.array(growth) / min(growth)


def _solve_nonnegative(columns: np.ndarray, target: np.ndarray, ridge: float | np.ndarray) -> np.ndarray:
    """x >= 0 of least |columns x - target|^2 + |ridge x|^2, columns brought to length one."""
    size = np.sqrt((columns**2).sum(0)) + 1e-30
    full = np.concatenate([columns / size, ridge * np.eye(len(size))])
    q, r = np.linalg.qr(full)
    found, _ = nnls(r, q.T @ np.concatenate([target, np.zeros(len(size))]), maxiter=100 * len(size))
    return np.asarray(found / size)


def fit_continuation(structures: Sequence[Atoms], pairs: Sequence[Pairs], basis: AtomicBasis) -> AtomicBasis:
    """``basis`` with the repulsion that the forces of ``structures`` show, and how far it can be trusted."""
    problem = pose_problem(structures, pairs, basis)
    fitted = _fit_terms(problem, basis) if problem is not None else {}
    doubts = _measure_doubt(structures, pairs, basis) if fitted else {}
    covalent = covalent_sums(basis.species)
    inner = inner_radii(basis.species, basis.shortest, basis.margin)
    outer = outer_radii(basis.species, basis.shortest, basis.margin)
    terms: dict[str, tuple[Term, ...]] = {}
    expected: dict[str, tuple[Term, ...]] = {}
    doubt: dict[str, float] = {}
    frozen: dict[str, float] = {}
    for i, a in enumerate(basis.species):
        for j, b in enumerate(basis.species[i:], i):
            name = pair_name(a, b)
            shortest = basis.shortest.get(name, np.inf)
            # Unjudged terms of atoms that are not bonded would be what their neighbours do to them.
            doubted = doubts.get(name, UNFITTED_DOUBT if shortest < covalent[i, j] else MOST_DOUBT)
            own = fitted.get(name, ()) if doubted < MOST_DOUBT else ()
            reach = CORE * shortest if own else min(float(outer[i, j]), shortest, basis.cutoff)
            terms[name] = (*own, *_lead_to_zbl(own, a, b, reach))
            doubt[name] = doubted if own else UNFITTED_DOUBT
            frozen[name] = basis.margin * shortest if own else float(inner[i, j])
            if not own:
                expected[name] = _bare_terms(a, b, min(shortest, basis.cutoff))
    going_on = Continuation(terms, doubt, dict(basis.shortest), frozen, expected, basis.cutoff)
    return replace(basis, continuation=going_on)


def pose_problem(structures: Sequence[Atoms], pairs: Sequence[Pairs], basis: AtomicBasis) -> RepulsionFit | None:
    """The fit to the atoms of ``structures`` with the nearest neighbours; None where no atom has one."""
    names = sorted(basis.shortest)
    if not names:
        return None
    starts = np.cumsum([0, *(len(atoms) for atoms in structures)])
    centers = np.concatenate([p.centers + start for p, start in zip(pairs, starts[:-1], strict=True)])
    distances = np.concatenate([p.distances for p in pairs])
    directions = -np.concatenate([p.vectors for p in pairs]) / distances[:, None]
    kinds = np.concatenate([_name_pairs(a, p, basis, names) for a, p in zip(structures, pairs, strict=True)])
    ratios = distances / np.array([basis.shortest[name] for name in names])[kinds]
    first = np.lexsort((ratios, centers))
    own, place = np.unique(centers[first], return_index=True)
    place = first[place]
    width = len(names) * (len(GRID) + N_BACKGROUND)
    order = np.argsort(ratios[place], kind="stable")[: min(MOST_ATOMS, MOST_NUMBERS // (3 * width))]
    order = order[ratios[place][order] < NEAR]
    row = np.full(starts[-1], -1)
    row[own[order]] = np.arange(len(order))
    kept = row[centers] >= 0
    values = _functions(distances[kept], kinds[kept], names, basis)
    columns = _scatter(values, directions[kept], kinds[kept], row[centers[kept]], len(order), len(names))
    forces = np.concatenate([labelled_forces(atoms) for atoms in structures])[own[order]]
    nearest = np.repeat(ratios[place][order], 3), np.repeat(kinds[place][order], 3)
    return RepulsionFit(names, columns, forces.ravel(), *nearest)


def _name_pairs(atoms: Atoms, pairs: Pairs, basis: AtomicBasis, names: Sequence[str]) -> np.ndarray:
    """Number among ``names`` of each of ``pairs``."""
    number = {name: k for k, name in enumerate(names)}
    table = np.array([[number.get(pair_name(a, b), -1) for b in basis.species] for a in basis.species])
    species = basis.indices(atoms)
    return np.asarray(table[species[pairs.centers], species[pairs.neighbors]])


def _functions(distances: np.ndarray, kinds: np.ndarray, names: Sequence[str], basis: AtomicBasis) -> np.ndarray:
    """Forces [E, terms + background] of pairs at unit energy or size."""
    shortest = np.array([basis.shortest[name] for name in names])[kinds]
    reach, decay = np.array(GRID).T
    r, one = torch.from_numpy(distances)[:, None], torch.ones(len(reach), 1, dtype=torch.float64)
    reaches = torch.from_numpy(np.minimum(shortest[:, None] * reach, basis.cutoff))[..., None]
    _, slopes = sum_terms(r.expand(-1, len(reach)), one, torch.from_numpy(decay)[:, None], reaches)
    begin = BACKGROUND * shortest
    width = np.maximum((basis.cutoff - begin) / (N_BACKGROUND + 1), 1e-3)
    x = (distances - begin)[:, None] / width[:, None] - np.arange(N_BACKGROUND)
    bumps = np.where((x > 0) & (x < 2), x * (2 - x), 0.0) ** 2
    return np.concatenate([-slopes.numpy(), bumps], 1)


def _scatter(
    values: np.ndarray, directions: np.ndarray, kinds: np.ndarray, rows: np.ndarray, n_rows: int, n_names: int
) -> np.ndarray:
    """Columns [3 n_rows, n_names * width] from ``values`` [E, width] of pairs along ``directions`` [E, 3]."""
    width = values.shape[1]
    total = torch.zeros(n_rows * n_names, 3 * width, dtype=torch.float64)
    pulls = torch.from_numpy((directions[:, :, None] * values[:, None, :]).reshape(len(values), -1))
    total.index_add_(0, torch.from_numpy(rows * n_names + kinds), pulls)
    return total.view(n_rows, n_names, 3, width).transpose(1, 2).reshape(3 * n_rows, n_names * width).numpy()


def _fit_terms(problem: RepulsionFit, basis: AtomicBasis) -> dict[str, tuple[Term, ...]]:
    """Terms of the pairs of elements whose forces near the shortest distance they explain."""
    found = problem.solve(np.ones(len(problem.forces), dtype=bool))
    misfit = problem.forces - problem.columns @ found
    result: dict[str, tuple[Term, ...]] = {}
    for k, (name, chosen) in enumerate(zip(problem.names, problem.terms, strict=True)):
        closest = (problem.kinds == k) & (problem.ratios < CLOSEST)
        pushed = problem.columns[np.ix_(closest, chosen)] @ found[chosen]
        unexplained, all_of_it = (float((f**2).sum()) for f in (misfit[closest], misfit[closest] + pushed))
        if unexplained < (1.0 - LEAST_EXPLAINED) * all_of_it:
            result[name] = tuple(
                (float(energy), decay, min(reach * basis.shortest[name], basis.cutoff))
                for energy, (reach, decay) in zip(found[chosen], GRID, strict=True)
                if energy > 0.0
            )
    return result


def _measure_doubt(structures: Sequence[Atoms], pairs: Sequence[Pairs], basis: AtomicBasis) -> dict[str, float]:
    """Errors on the closest pairs, over force and depth, of a fit to atoms beyond ``LEFT_OUT`` shortest distances.

    Pairs of elements without such closest pairs are left out.
    """
    further = {name: LEFT_OUT * distance for name, distance in basis.shortest.items()}
    problem = pose_problem(structures, pairs, replace(basis, shortest=further))
    if problem is None or not (seen := problem.ratios >= 1.0).any():
        return {}
    found = problem.solve(seen)
    missed = problem.forces - problem.columns @ found
    doubts: dict[str, float] = {}
    for k, (name, chosen) in enumerate(zip(problem.names, problem.terms, strict=True)):
        closest = (problem.kinds == k) & (problem.ratios < CLOSEST / LEFT_OUT)
        expected = (1.0 - problem.ratios[closest]) * (problem.columns[np.ix_(closest, chosen)] @ found[chosen])
        square = float((expected**2).sum())
        if square > 0.0:
            share = float(np.sqrt((missed[closest] ** 2).sum() / square))
            doubts[name] = float(np.clip(share, LEAST_DOUBT, MOST_DOUBT))
    return doubts


def _lead_to_zbl(terms: Sequence[Term], first: str, second: str, reach: float) -> tuple[Term, ...]:
    """Terms of ``reach`` (Å) that bring the repulsion of ``terms`` up to ZBL's where that holds.

    Where it is above ZBL's already, it stays there.
    """
    r = np.linspace(0.4, 1.0, 25) * min(CORE_INSIDE * reach, ZBL_HOLDS)
    wanted = _zbl(first, second, r)
    return _match(np.maximum(wanted - _force(terms, r), 0.0), wanted, r, [(reach, decay) for decay in CORE_DECAYS])


def _bare_terms(first: str, second: str, start: float) -> tuple[Term, ...]:
    """Terms that are ZBL's force below ``start`` (Å)."""
    r = np.geomspace(0.1, 1.0, 50) * start
    wanted = _zbl(first, second, r)
    return _match(wanted, wanted, r, [(reach * start, decay) for reach, decay in WIDE])


def _match(
    forces: np.ndarray, scale: np.ndarray, r: np.ndarray, grid: Sequence[tuple[float, float]]
) -> tuple[Term, ...]:
    """Terms of reach (Å) and decay in ``grid`` of ``forces`` [n] at ``r`` [n] (Å); errors count over ``scale`` [n]."""
    basis = np.stack([_force([(1.0, decay, reach)], r) for reach, decay in grid], 1)
    energies = _solve_nonnegative(basis / scale[:, None], forces / scale, RIDGE)
    return tuple((float(e), decay, reach) for e, (reach, decay) in zip(energies, grid, strict=True) if e > 0.0)


def _zbl(first: str, second: str, r: np.ndarray) -> np.ndarray:
    """Force of ZBL (eV/Å) between two elements at ``r`` [n] (Å)."""
    charges = (torch.tensor(float(atomic_numbers[s]), dtype=torch.float64) for s in (first, second))
    return np.asarray(-bare_zbl(torch.from_numpy(r), *charges)[1].numpy())


def _force(terms: Sequence[Term], r: np.ndarray) -> np.ndarray:
    """Force (eV/Å) of ``terms`` at distances ``r`` [n] (Å)."""
    if not terms:
        return np.zeros_like(r)
    table = torch.tensor(list(terms), dtype=torch.float64)
    return np.asarray(-sum_terms(torch.from_numpy(r), *table.unbind(-1))[1].numpy())
