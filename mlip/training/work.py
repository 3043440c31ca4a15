"""Do energies rise as the labelled forces and stresses work? Asked of pairs of copies of one structure.

Between two copies that differ by displacements ``u`` of the atoms, in coordinates that move with the cell, and by a
strain ``e``, the trapezoidal rule gives

    E_2 - E_1 = a W_F + b W_s,  W_F = -(F_1 + F_2)/2 · u,  W_s = (V_1 s_1 + V_2 s_2)/2 : e,

with a = b = 1 for right labels. Where forces are read f times, energies e times and stresses s times what they are,
a = e/f and b = e/s, which names the unit (:mod:`mlip.training.units`). The rule is wrong in the third order; a linear
model that knows the forces (:mod:`mlip.training.linear`) tells by how much, and that is added to W_F: it scales with
them. The errors of a and b are of the jackknife over structures (B. Efron and C. Stein, Ann. Stat. 9, 586 (1981)).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.geometry import wrap_positions
from ase.neighborlist import natural_cutoffs, neighbor_list

from mlip.statistics import deviation
from mlip.structures.labelled import has_label, labelled_energy, labelled_forces, labelled_stress
from mlip.training.linear import Implied

FAR, MAX_STRAIN = 1.0, 0.2
"""Å that an atom has moved, and strain, from which the work between two structures is not their mean force's."""
MOST_MEMBERS = 30
"""Structures of a group between which work is taken."""
FEWEST_CELLS = 8
"""Different cells below which stresses are not judged: pairs of a few cells say the same again and again."""
STILL = 1e-6
"""Strain, and work in eV/atom, that counts as none."""
BENT = 0.1
"""Shortening of bonds halfway, over their change from end to end, from which a path is no straight one."""
MOST_STILL = 0.2
"""Share of pairs up to which work is that of a few."""
BETTER, CERTAIN = 0.3, 8.0
"""Share of what is left that another order of components may leave, and standard errors by which it counts."""
ROUNDS, HUBER = 20, 2.5
"""Rounds of reweighting, and robust deviations from which a pair loses weight (P. J. Huber, 1964)."""
SHEAR_ORDERS = {
    "xx yy zz xy xz yz": (2, 1, 0),
    "xx yy zz xy yz xz, as VASP writes them": (1, 2, 0),
    "xx yy zz xz yz xy": (1, 0, 2),
    "xx yy zz yz xy xz": (0, 2, 1),
    "xx yy zz xz xy yz": (2, 0, 1),
}
"""Orders of the components other than ASE's, and where each has what ASE has at yz, xz and xy."""


@dataclass(frozen=True)
class Factor:
    """A coefficient of the fit and its standard error."""

    value: float = math.nan
    error: float = math.inf

    @property
    def known(self) -> bool:
        """Whether there was anything to fit it to."""
        return math.isfinite(self.error) and math.isfinite(self.value)


@dataclass(frozen=True)
class CopyPairs:
    """Pairs of copies of one structure: ``members`` [P, 2]; the rest in eV/atom.

    Attributes:
        members: indices of both structures.
        rise: difference of labelled energies, [P].
        force, stress: work of the labelled forces and stresses, [P].
        missed: what the trapezoidal rule leaves out of the model's energy difference, [P].
        exchanged: change of the work of the stresses in each of ``SHEAR_ORDERS``, [P, 5].
    """

    members: np.ndarray
    rise: np.ndarray
    force: np.ndarray
    stress: np.ndarray
    missed: np.ndarray
    exchanged: np.ndarray

    def take(self, chosen: np.ndarray) -> CopyPairs:
        """The ``chosen`` [P] of these."""
        return CopyPairs(*(values[chosen] for values in vars(self).values()))


@dataclass(frozen=True)
class Work:
    """What the pairs of a set say; see :func:`fit_work`.

    Attributes:
        force, stress: the factors a and b.
        explained: weighted share of the energy differences' variance that both explain.
        n_independent: structures less one of each group.
        spread: standard deviation of the energy differences, eV/atom.
        order: name of the order of the stresses' components in which they do fit, where that is not ASE's.
        pairs, weights, residuals: the pairs, and what the fit gives and leaves to each [P] (eV/atom).
    """

    force: Factor
    stress: Factor
    explained: float
    n_independent: int
    spread: float
    order: str
    pairs: CopyPairs
    weights: np.ndarray
    residuals: np.ndarray

    def contradiction(self, index: int) -> float:
        """Energy (eV/atom) by which structure ``index`` is off what work leads to it; NaN where too few pairs know."""
        own = np.nonzero((self.pairs.members == index).any(axis=1))[0]
        best = own[np.argsort(self.weights[own])[-5:]]
        return float(np.median(np.abs(self.residuals[best]))) if len(best) == 5 else math.nan

    def offset(self, minority: np.ndarray) -> float:
        """Energy (eV/atom) of ``minority`` [n] beyond what work from the rest leads to; NaN where few pairs know."""
        first, second = minority[self.pairs.members].astype(float).T
        across = np.nonzero(first != second)[0]
        best = across[np.argsort(self.weights[across])[len(across) // 2 :]]
        return float(np.median((self.residuals * (second - first))[best])) if len(best) >= 5 else math.nan


@dataclass(frozen=True)
class _Copy:
    """A structure, its labels and what the model says of it: eV, eV/Å, and virials in eV."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None
    model_energy: float
    model_forces: np.ndarray
    model_virial: np.ndarray


@dataclass(frozen=True)
class _Fit:
    coefficients: np.ndarray
    errors: np.ndarray
    explained: float
    residuals: np.ndarray


def find_path(a: Atoms, b: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Displacements [n, 3] (Å), strain [3, 3] and rotation [3, 3] from ``a`` to ``b``; None where they are not near.

    What is not periodic is turned first (W. Kabsch, Acta Cryst. A 32, 922 (1976)): ``b`` in rows times the rotation.
    """
    if len(a) != len(b) or (a.numbers != b.numbers).any() or (a.pbc != b.pbc).any():
        return None
    if not a.pbc.any():
        first, second = (atoms.positions - atoms.positions.mean(axis=0) for atoms in (a, b))
        left, _, right = np.linalg.svd(second.T @ first)
        rotation = (left * [1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
        moved, strain = second @ rotation - first, np.zeros((3, 3))
    else:
        cells = [Cell(atoms.cell.array * atoms.pbc[:, None]).complete().array for atoms in (a, b)]
        mean, rotation = 0.5 * (cells[0] + cells[1]), np.eye(3)
        gradient = np.linalg.solve(mean, cells[1] - cells[0])
        strain = 0.5 * (gradient + gradient.T)
        fractions = np.linalg.solve(cells[1].T, b.positions.T).T - np.linalg.solve(cells[0].T, a.positions.T).T
        moved = wrap_positions(fractions @ mean, mean, pbc=a.pbc, center=(0, 0, 0))
        moved -= moved.mean(axis=0)  # forces do no work on a shift of all
    if np.abs(moved).max() > FAR or np.abs(strain).max() > MAX_STRAIN:
        return None
    return moved, strain if np.abs(strain).max() > STILL else np.zeros((3, 3)), rotation


def list_pairs(structures: Sequence[Atoms], groups: np.ndarray, implied: Implied | None = None) -> CopyPairs:
    """Pairs of ``structures`` [n] of one of the ``groups`` [n] that are near each other."""
    species = {symbol: k for k, symbol in enumerate(sorted({s for atoms in structures for s in atoms.symbols}))}
    members, rows, copies = list[tuple[int, int]](), list[list[float]](), dict[int, _Copy]()
    for group in np.unique(groups):
        near = np.nonzero(groups == group)[0][:MOST_MEMBERS].tolist()
        for i, j in itertools.combinations(near, 2):
            path = find_path(structures[i], structures[j])
            if path is None:
                continue
            for k in (i, j):
                if k not in copies:
                    copies[k] = _read_copy(structures[k], k, implied, species)
            row = _measure(copies[i], copies[j], *path)
            if row is not None:
                members.append((i, j))
                rows.append(row)
    table = np.array(rows, dtype=float).reshape(-1, 4 + len(SHEAR_ORDERS))
    rise, force, stress, missed = table[:, :4].T
    return CopyPairs(np.array(members, dtype=int).reshape(-1, 2), rise, force, stress, missed, table[:, 4:])


def _read_copy(atoms: Atoms, index: int, implied: Implied | None, species: dict[str, int]) -> _Copy:
    """The labels of one structure, read once: ASE compares whole structures at each look."""
    virial = None
    if atoms.pbc.all() and has_label(atoms, "stress"):
        virial = atoms.get_volume() * labelled_stress(atoms, voigt=False)
    energy, forces = labelled_energy(atoms), labelled_forces(atoms)
    if implied is None:
        return _Copy(energy, forces, virial, 0.0, np.zeros_like(forces), np.zeros((3, 3)))
    # The model has atoms by element.
    back = np.argsort(np.argsort([species[symbol] for symbol in atoms.symbols], kind="stable"))
    model = float(implied.energies[index]), implied.forces[index][back], implied.virials[index]
    return _Copy(energy, forces, virial, *model)


def _measure(a: _Copy, b: _Copy, moved: np.ndarray, strain: np.ndarray, rotation: np.ndarray) -> list[float] | None:
    """The row of a table of pairs, eV/atom; None where a strained one has no stress."""
    virial = np.zeros((3, 3))
    if strain.any():
        if a.virial is None or b.virial is None:
            return None
        virial = 0.5 * (a.virial + b.virial)
    force = -0.5 * float(np.sum((a.forces + b.forces @ rotation) * moved))
    model = -0.5 * np.sum((a.model_forces + b.model_forces @ rotation) * moved)
    model += 0.5 * np.sum((a.model_virial + b.model_virial) * strain)
    missed = b.model_energy - a.model_energy - float(model)
    row = [b.energy - a.energy, force, float(np.sum(virial * strain)), missed, *_exchange(virial, strain)]
    return [value / len(moved) for value in row]


def _exchange(virial: np.ndarray, strain: np.ndarray) -> list[float]:
    """How the work of a ``virial`` [3, 3] on a ``strain`` [3, 3] changes with each other order of its components."""
    stress, shear = (np.array([m[1, 2], m[0, 2], m[0, 1]]) for m in (virial, strain))
    return [2.0 * float(shear @ (stress[list(order)] - stress)) for order in SHEAR_ORDERS.values()]


def fit_work(structures: Sequence[Atoms], pairs: CopyPairs, groups: np.ndarray, *, trusted: bool) -> Work | None:
    """Factors of the work of forces and of stresses in energy differences; None where no pair tells.

    Args:
        structures: labelled, [n].
        pairs: of these; see :func:`list_pairs`.
        groups: number of what each is one of, [n]; see :func:`mlip.training.consistency.phase_groups`.
        trusted: whether the model that the pairs were measured with knows the forces well enough to say what the
            trapezoidal rule misses.
    """
    strained = _judges_stress(structures, pairs)
    if not strained:
        pairs = pairs.take(pairs.stress == 0.0)
    moved = bool((np.abs(pairs.force) > STILL).mean() > MOST_STILL) if len(pairs.rise) else False
    if not trusted and _count_straight(structures, pairs) < 0.5 * len(pairs.rise):
        return None
    if len(pairs.rise) < FEWEST_CELLS or not (moved or strained):
        return None
    doubt = np.abs(pairs.missed) if trusted else np.abs(pairs.force) + np.abs(pairs.stress)
    weights = 1.0 / (0.5 * np.median(doubt) + doubt + 1e-12) ** 2
    fits = []
    for missed in (pairs.missed, 0.0) if trusted else (0.0,):
        design = np.column_stack([pairs.force + missed] * moved + [pairs.stress] * strained)
        fits.append((_regress(pairs, design, weights), design))
    # Of cells that forces say little of, the model may be far off with what the rule misses: then it explains less.
    fit, design = max(fits, key=lambda pair: pair[0].explained)
    factors = [Factor(float(c), float(e)) for c, e in zip(fit.coefficients, fit.errors, strict=True)]
    return Work(
        factors[0] if moved else Factor(),
        factors[-1] if strained else Factor(),
        fit.explained,
        count_independent(pairs, groups),
        float(pairs.rise.std()),
        _find_order(pairs, design, weights, fit) if strained else "",
        pairs,
        weights,
        fit.residuals,
    )


def _count_straight(structures: Sequence[Atoms], pairs: CopyPairs) -> int:
    """Pairs whose bonds change along the straight path as its ends tell: not those of molecules that turn or twist.

    Halfway, a bond that turns is shorter than the mean of its ends, and a stiff one costs more than it changes.
    """
    bonds = {}
    for k in np.unique(pairs.members).tolist():
        bonds[k] = neighbor_list("ijD", structures[k], natural_cutoffs(structures[k], mult=1.25))
    n_straight = 0
    for i, j in pairs.members.tolist():
        moved, strain, _ = find_path(structures[i], structures[j]) or (np.zeros((1, 3)), np.zeros((3, 3)), None)
        first, second, vector = bonds[i]
        change = moved[second] - moved[first] + vector @ strain if len(first) else np.zeros((0, 3))
        ends, middle = (np.linalg.norm(vector + share * change, axis=1) for share in (1.0, 0.5))
        begin = np.linalg.norm(vector, axis=1)
        shorter, longer = np.linalg.norm(0.5 * (begin + ends) - middle), np.linalg.norm(ends - begin)
        n_straight += int(shorter <= BENT * longer)
    return n_straight


def _judges_stress(structures: Sequence[Atoms], pairs: CopyPairs) -> bool:
    """Whether enough pairs are strained, of enough different cells."""
    if not len(pairs.rise) or (pairs.stress != 0.0).mean() <= MOST_STILL:
        return False
    members = np.unique(pairs.members[pairs.stress != 0.0]).tolist()
    return len({np.round(structures[k].cell.array, 4).tobytes() for k in members}) >= FEWEST_CELLS


def count_independent(pairs: CopyPairs, groups: np.ndarray) -> int:
    """Structures that are in pairs, less one of each group."""
    members = np.unique(pairs.members)
    return len(members) - len(np.unique(groups[members]))


def _regress(pairs: CopyPairs, design: np.ndarray, weights: np.ndarray) -> _Fit:
    """Robust weighted regression of energy differences on the ``design`` [P, c], with errors from the jackknife."""
    rise, robust = pairs.rise, weights
    for _ in range(ROUNDS):
        gram, moment = (design * robust[:, None]).T @ design, design.T @ (robust * rise)
        coefficients = np.linalg.lstsq(gram, moment, rcond=1e-12)[0]
        residuals = rise - design @ coefficients
        scaled = np.abs(residuals) * np.sqrt(weights)
        limit = HUBER * max(deviation(scaled), 1e-300)
        robust = weights * np.minimum(1.0, limit / np.maximum(scaled, 1e-300))
    without = []
    for k in np.unique(pairs.members):
        own = (pairs.members == k).any(axis=1)
        part = design[own] * robust[own, None]
        without.append(np.linalg.lstsq(gram - part.T @ design[own], moment - part.T @ rise[own], rcond=1e-12)[0])
    spread, n = np.array(without) - np.mean(without, axis=0), len(without)
    errors = np.sqrt((n - 1) / n * np.sum(spread**2, axis=0))
    explained = 1.0 - float(np.sum(robust * residuals**2) / max(np.sum(robust * rise**2), 1e-300))
    return _Fit(coefficients, errors, explained, residuals)


def _find_order(pairs: CopyPairs, design: np.ndarray, weights: np.ndarray, fit: _Fit) -> str:
    """The one of ``SHEAR_ORDERS`` in which the stresses fit, where that leaves much less; else empty."""
    best, found = BETTER * (1.0 - fit.explained), ""
    for name, change in zip(SHEAR_ORDERS, pairs.exchanged.T, strict=True):
        if np.sqrt(np.mean(change**2)) < STILL:
            continue
        other = _regress(pairs, np.column_stack((design, change)), weights)
        factor, share = other.coefficients[-2], other.coefficients[-1] / other.coefficients[-2]
        certain = CERTAIN * other.errors[-1] < abs(factor) and abs(share - 1.0) < 0.25
        if certain and 1.0 - other.explained < best:
            best, found = 1.0 - other.explained, name
    return found
