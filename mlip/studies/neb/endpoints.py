"""The ends of a path: built, held against each other, relaxed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from ase.optimize import BFGS

from mlip.io.constraints import movable_mask, set_movable
from mlip.structures.geometry import COINCIDENT, min_distance_ratio
from mlip.structures.starting import load_starting_structure
from mlip.studies.neb.settings import EndPoints, Hop, Inversion, Vacancy

IDENTICAL = 0.1
"""Å: ends none of whose atoms is farther from its place in the other are one and the same."""
MOST_STEPS = 300


class PathError(ValueError):
    """Ends that no path connects, or a path that cannot be measured; the message names it and the remedy."""


def build_ends(name: str, ends: EndPoints, structures: Sequence[Atoms]) -> tuple[Atoms, Atoms]:
    """Both ends of the path ``name``, not relaxed, with the constraints of their files or of the starting structure.

    Raises:
        PathError: for ends that no path connects.
    """
    if ends.initial is not None and ends.final is not None:
        initial, final = load_starting_structure(ends.initial), load_starting_structure(ends.final)
    else:
        if ends.structure >= len(structures):
            raise PathError(
                f"studies.neb.paths.{name}.structure: there is no structure {ends.structure}; the {len(structures)} of"
                " `structures` are counted from 0"
            )
        start = structures[ends.structure].copy()
        change = ends.vacancy or ends.hop or ends.inversion
        numbers = _atoms_of(change)
        if max(numbers) >= len(start):
            raise PathError(
                f"studies.neb.paths.{name}: there is no atom {max(numbers)} in {start.get_chemical_formula()}; its"
                f" {len(start)} atoms are counted from 0"
            )
        initial, final = _change(start, change)
    check_ends(name, initial, final)
    return initial, final


def _atoms_of(change: Vacancy | Hop | Inversion | None) -> list[int]:
    if isinstance(change, Vacancy):
        return [change.removed, change.moved]
    if isinstance(change, Inversion):
        return [*change.atoms, *change.plane]
    return list(change.atoms) if change is not None else []


def _change(start: Atoms, change: Vacancy | Hop | Inversion | None) -> tuple[Atoms, Atoms]:
    final = start.copy()
    final.set_constraint()
    if isinstance(change, Vacancy):
        final.positions[change.moved] = start.positions[change.removed]
        movable, keep = movable_mask(start), np.arange(len(start)) != change.removed
        start.set_constraint()
        initial, final = start[keep], final[keep]
        set_movable(initial, None if movable is None else movable[keep])
        start = initial
    elif isinstance(change, Hop):
        final.positions[list(change.atoms)] += change.by
    elif isinstance(change, Inversion):
        corners = start.positions[list(change.plane)]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        normal /= max(float(np.linalg.norm(normal)), 1e-12)
        heights = (start.positions[list(change.atoms)] - corners[0]) @ normal
        final.positions[list(change.atoms)] -= 2 * heights[:, None] * normal
    set_movable(final, movable_mask(start))
    return start, final


def check_ends(name: str, initial: Atoms, final: Atoms) -> None:
    """Refuse ends that no path connects.

    Raises:
        PathError: when their atoms, order of atoms, cells or fixed atoms differ, when an end has atoms in one place,
            or when both are the same.
    """
    place = f"studies.neb.paths.{name}"
    if sorted(initial.numbers) != sorted(final.numbers):
        raise PathError(
            f"{place}: the ends are {initial.get_chemical_formula()} and {final.get_chemical_formula()}; a path keeps"
            " its atoms: give ends of one composition"
        )
    if (initial.numbers != final.numbers).any():
        first = int(np.flatnonzero(initial.numbers != final.numbers)[0])
        raise PathError(
            f"{place}: atom {first} is {initial.symbols[first]} in one end and {final.symbols[first]} in the other;"
            " write the atoms of both files in the same order"
        )
    if not np.allclose(initial.cell, final.cell, atol=1e-4) or (initial.pbc != final.pbc).any():
        raise PathError(f"{place}: the ends have different cells; relax both in the same cell")
    fixed = [_fixed(atoms) for atoms in (initial, final)]
    if (fixed[0] != fixed[1]).any():
        raise PathError(f"{place}: other coordinates are fixed in one end than in the other; fix the same in both")
    moved = displacement(initial, final)
    if (np.abs(moved[fixed[0]]) > 1e-3).any():
        atom = int(np.flatnonzero((np.abs(moved) * fixed[0] > 1e-3).any(1))[0])
        raise PathError(f"{place}: atom {atom} is fixed and is not in the same place in both ends; free it or move it")
    for end, which in ((initial, "first"), (final, "second")):
        if len(end) > 1 and min_distance_ratio(end) < COINCIDENT:
            raise PathError(f"{place}: two atoms (nearly) coincide in the {which} end; move one")
    check_distinct(name, initial, final)


def check_distinct(name: str, initial: Atoms, final: Atoms, done: str = "") -> None:
    """Refuse ends that are the same, after what was ``done`` to them.

    Raises:
        PathError: naming how far the farthest atom moves, and a swap of like atoms that would explain it.
    """
    farthest = float(np.linalg.norm(displacement(initial, final), axis=1).max(initial=0.0))
    if farthest < IDENTICAL:
        remedy = "give another second end" + (", nearer to the minimum that is meant" if done else "")
        raise PathError(
            f"studies.neb.paths.{name}: both ends are the same{done}: no atom is farther than {farthest:.2g} Å from"
            f" its place; {remedy}"
        )


def displacement(initial: Atoms, final: Atoms) -> np.ndarray:
    """Shortest way of each atom from one structure to the other, [n_atoms, 3], Å."""
    return np.asarray(find_mic(final.positions - initial.positions, initial.cell, initial.pbc)[0])


def _fixed(atoms: Atoms) -> np.ndarray:
    movable = movable_mask(atoms)
    return np.zeros((len(atoms), 3), bool) if movable is None else ~movable


def relax_end(end: Atoms, calculator: Any, fmax: float, what: str) -> list[Atoms]:
    """``end`` and where its relaxation went, the relaxed one last, each as a copy with its constraints.

    Raises:
        PathError: when the relaxation does not end.
    """
    atoms, visited = end.copy(), []
    atoms.calc = calculator
    relaxation = BFGS(atoms, logfile=None)
    relaxation.attach(lambda: visited.append(atoms.copy()))
    if not relaxation.run(fmax=fmax, steps=MOST_STEPS):
        raise PathError(f"{what} did not relax to {fmax} eV/Å in {MOST_STEPS} steps; give one nearer to a minimum")
    return visited
