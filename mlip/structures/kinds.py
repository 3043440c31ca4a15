"""What a structure is: bulk, slab, wire or molecule, where its vacuum is and which atoms make molecules.

Periodic boundary conditions do not tell: a slab in a plane-wave cell is periodic in three directions. Two graphs of
the atoms do. The first joins atoms with less than ``VACUUM`` between them, metals up to a stretched bond; the rank of
its lattice vectors, that is in how many directions it connects a periodic image to itself, is the dimensionality of the
matter (rank determination, Mounet et al., Nat. Nanotechnol. 13, 246 (2018)). Pores of a framework and the gaps of a
layered crystal are bridged by atoms, so both are bulk. The second joins bonded atoms and finds the molecules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.data import covalent_radii, vdw_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from mlip.structures.neighbors import Pairs, find_pairs

BOND = 1.25
"""Distance over the sum of covalent radii up to which two atoms are bonded: 1.35 Å for O-H, 1.9 Å for C-C, 3.3 Å for
Na-Cl; hydrogen bonds (1.8) and layers of graphite (2.2) are far beyond."""

VACUUM = 1.5
"""Å between the van der Waals spheres of two atoms from which there is vacuum between them."""

STRETCHED = 1.5
"""Distance over the sum of covalent radii from which there is vacuum between two atoms of which one is a metal or
metalloid: 4.0 Å for Cu-Cu, 3.1 Å for Mg-O. What faces a gap in layered and molecular crystals are nonmetals, or, as in
Bi, SnO and PbO (up to 1.33), nearer; crystals at twice their volume are below it, too."""

VDW_EXCESS = 0.8
"""Å by which a van der Waals radius exceeds the covalent one at least; ASE has none for many metals."""

NONMETALS = frozenset((1, 2, 6, 7, 8, 9, 10, 15, 16, 17, 18, 34, 35, 36, 53, 54, 86))
"""Atomic numbers of H, He, C, N, O, F, Ne, P, S, Cl, Ar, Se, Br, Kr, I, Xe and Rn."""

Kind = Literal["bulk", "slab", "wire", "molecule"]
KINDS: tuple[Kind, ...] = ("molecule", "wire", "slab", "bulk")
"""By the number of directions in which matter is periodic; ``molecule`` stands for clusters, too."""


@dataclass(frozen=True)
class Anatomy:
    """What :func:`dissect` finds in a structure.

    Attributes:
        kind: By the number of directions in which matter goes on without vacuum.
        projector: ``[3, 3]``, symmetric; projects a vector onto those directions. The identity for bulk, zero for
            molecules; strain ``P e P`` leaves vacuum alone.
        molecules: Indices of the atoms of each molecule: two or more atoms bonded to one another, of finite extent.
            Clusters of metals and metalloids are none. A molecule adsorbed on a metal, a molecular ion, or the linker
            of a framework is one: of such, bonds between nonmetals count alone.
        shifts: ``[n_atoms, 3]`` Å; added to the positions they make each molecule whole where the cell cuts it.
        lone: Whether the structure is one molecule, so that moving it as a whole changes nothing.
    """

    kind: Kind
    projector: np.ndarray
    molecules: tuple[np.ndarray, ...]
    shifts: np.ndarray
    lone: bool

    @property
    def molecule_of(self) -> np.ndarray:
        """``[n_atoms]``: number of each atom's molecule, -1 where it belongs to none."""
        owner = np.full(len(self.shifts), -1)
        for number, members in enumerate(self.molecules):
            owner[members] = number
        return owner

    def crosses_vacuum(self, atoms: Atoms) -> np.ndarray:
        """``[3]`` bool: which cell vectors of ``atoms`` do not lie within the directions of matter."""
        vectors = atoms.cell.array
        outside = np.linalg.norm(vectors - vectors @ self.projector, axis=1)
        return ~atoms.pbc | (outside > 1e-3 * np.maximum(np.linalg.norm(vectors, axis=1), 1.0))


def periodic_axes(atoms: Atoms) -> np.ndarray:
    """``[3]`` bool: along which cell vectors matter goes on; none for molecules and isolated atoms, boxed or not.

    Raises:
        ValueError: as :func:`dissect`.
    """
    if not atoms.pbc.any() or atoms.cell.rank == 0:
        return np.zeros(3, dtype=bool)
    return ~dissect(atoms).crosses_vacuum(atoms)


def dissect(atoms: Atoms) -> Anatomy:
    """Kind, vacuum and molecules of ``atoms``, under any boundary conditions.

    Raises:
        ValueError: where no neighbour list can be made (:func:`mlip.structures.neighbors.find_pairs`).
    """
    covalent = covalent_radii[atoms.numbers]
    outer = np.fmax(vdw_radii[atoms.numbers], covalent + VDW_EXCESS)
    pairs = find_pairs(atoms, 2 * float(outer.max()) + VACUUM)
    reach = outer[pairs.centers] + outer[pairs.neighbors] + VACUUM
    metal = ~np.isin(atoms.numbers, list(NONMETALS))
    metallic = metal[pairs.centers] | metal[pairs.neighbors]
    stretched = STRETCHED * (covalent[pairs.centers] + covalent[pairs.neighbors])
    close = pairs.distances < np.where(metallic, np.minimum(reach, stretched), reach)
    _, _, lattices = _components(atoms, pairs, close)
    basis = np.concatenate(lattices) @ atoms.cell.array if lattices else np.zeros((0, 3))
    rank = int(np.linalg.matrix_rank(basis, tol=1e-6)) if len(basis) else 0
    directions = np.linalg.svd(basis)[2][:rank] if rank else np.zeros((0, 3))
    molecules, shifts = _find_molecules(
        atoms, pairs, pairs.distances < BOND * (covalent[pairs.centers] + covalent[pairs.neighbors])
    )
    return Anatomy(
        kind=KINDS[rank],
        projector=np.eye(3) if rank == 3 else directions.T @ directions,
        molecules=molecules,
        shifts=shifts,
        lone=rank == 0 and len(molecules) == 1 and len(molecules[0]) == len(atoms),
    )


def _find_molecules(atoms: Atoms, pairs: Pairs, bonded: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Molecules by all bonds where they are finite and not metallic, else by those between nonmetals."""
    nonmetal = np.isin(atoms.numbers, list(NONMETALS))
    shifts = np.zeros((len(atoms), 3))
    molecules: list[np.ndarray] = []
    taken = np.zeros(len(atoms), dtype=bool)
    for joined in (bonded, bonded & nonmetal[pairs.centers] & nonmetal[pairs.neighbors]):
        labels, offsets, lattices = _components(atoms, pairs, joined)
        for number, lattice in enumerate(lattices):
            members = np.flatnonzero(labels == number)
            if len(members) < 2 or len(lattice) or taken[members].any() or not nonmetal[members].any():
                continue
            taken[members] = True
            shifts[members] = offsets[members] @ atoms.cell.array
            molecules.append(members)
    return tuple(sorted(molecules, key=lambda members: int(members[0]))), shifts


def _components(atoms: Atoms, pairs: Pairs, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Component of each atom, whole cells to add to it to be near its component, and each component's lattice vectors.

    A lattice vector of a component is the sum of cell vectors along a closed path in it, ``[n, 3]`` integers, reduced
    to different ones; there are none where the component is finite.
    """
    n, i, j = len(atoms), pairs.centers[joined], pairs.neighbors[joined]
    cells = _crossed_cells(atoms, i, j, pairs.vectors[joined])
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(n, n)).tocsr()
    count, labels = connected_components(graph, directed=False)
    keys = i * n + j
    by_key = np.argsort(keys, kind="stable")
    offsets = np.zeros((n, 3), dtype=int)
    for first in np.unique(labels, return_index=True)[1]:
        order, before = breadth_first_order(graph, int(first), directed=False)
        reached, parents = order[1:], before[order[1:]]
        # Any of the parallel edges between two atoms will do to walk along; the others close paths.
        steps = cells[by_key[np.searchsorted(keys, parents * n + reached, sorter=by_key)]]
        for atom, parent, step in zip(reached.tolist(), parents.tolist(), steps, strict=True):
            offsets[atom] = offsets[parent] + step
    closed = offsets[i] + cells - offsets[j]
    found = np.unique(np.column_stack([labels[i], closed]), axis=0) if len(i) else np.zeros((0, 4), dtype=int)
    found = found[np.any(found[:, 1:] != 0, axis=1)]
    return labels, offsets, [found[found[:, 0] == number, 1:] for number in range(count)]


def _crossed_cells(atoms: Atoms, i: np.ndarray, j: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Whole cells ``[n_pairs, 3]`` between atom j in its own cell and the image of it that ``vectors`` point to."""
    if not atoms.pbc.any():
        return np.zeros((len(i), 3), dtype=int)
    gaps = vectors - (atoms.positions[j] - atoms.positions[i])
    periodic = np.flatnonzero(atoms.pbc)
    counts = np.zeros((len(i), 3), dtype=int)
    counts[:, periodic] = np.rint(gaps @ np.linalg.pinv(atoms.cell.array[periodic])).astype(int)
    return counts


def find_widest_gap(atoms: Atoms) -> tuple[int, float]:
    """Cell vector and Å of the widest gap without atoms between two planes parallel to two cell vectors."""
    widest = (0, 0.0)
    for axis in np.flatnonzero(atoms.pbc).tolist():
        normal = np.linalg.inv(atoms.cell.array)[:, axis]
        inside = np.sort(atoms.positions @ normal % 1.0)
        gap = float(np.diff(np.append(inside, inside[0] + 1.0)).max() / np.linalg.norm(normal))
        widest = max(widest, (axis, gap), key=lambda found: found[1])
    return widest
