"""Smaller periodic cells carved around an atom, in whose middle all is as in the large cell.

The atoms within a radius of the centre keep their places and all their neighbours. Around them is as much of the large
cell as makes a periodic one. Where new faces meet it is patched: of atoms too near to each other one goes, others are
pushed apart. A label of the carved cell is right for that cell, seams and all, however far forces reach. Others learn
the forces in the middle alone (J. Chem. Phys. 156, 064104 (2022)), which taught less here: docs/selection.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from mlip.io.electrons import GROUND, electronic_state
from mlip.structures.kinds import periodic_axes
from mlip.structures.neighbors import find_pairs

LARGEST_DENOMINATOR = 8
"""Of the shares of a cell vector that are tried: supercells of up to so many unit cells have their boundaries there."""
ALIKE = 0.3
"""Distance of an atom, moved by a share of a cell vector, to the next of its element, over that of neighbours, below
which the structure goes on there as here: vibrations of a crystal leave 0.1 to 0.2, a wrong share, or a melt, .5."""
BEST = 1.3, 0.05
"""Of these shares those that fit as well as the best: up to so many times its distance, and of that of neighbours."""
SAMPLED_ATOMS = 100
OVERLAP, APART = 0.7, 0.85
"""Distance over the sum of covalent radii below which one of two atoms goes, and to which the rest is pushed apart."""
PUSHES, SETTLED = 200, 1e-3
"""Steps of the pushing at most, and what may be missing at its end (Å)."""
OFFSETS, BLUR = 21, 0.3
"""Places tried for a boundary, and the width (Å) of an atom that it should not cut."""


@dataclass(frozen=True)
class CarvedCell:
    """A cell to be labelled and where it comes from.

    Attributes:
        atoms: as they are to be labelled.
        origin: number of each atom in the large cell, ascending.
    """

    atoms: Atoms
    origin: np.ndarray


def choose_shares(atoms: Atoms, radius: float) -> tuple[float, float, float] | None:
    """Shares of the cell vectors of the smallest cell that holds a sphere of ``radius`` (Å); None if it is no smaller.

    In a crystal a share is kept only if the crystal goes on after it, so that the new cell has no seam. A vector
    along which there is vacuum stays whole; so does all of a structure that has a charge or a spin, which parts do not.
    """
    state = electronic_state(atoms)
    if any(state.get(name, value) != value for name, value in GROUND.items()):
        return None
    neighbours = _neighbour_distance(atoms)
    periodic = periodic_axes(atoms) & (atoms.cell.rank == 3)
    shares = [1.0, 1.0, 1.0]
    for axis in np.flatnonzero(periodic).tolist():
        height = _height(atoms, axis)
        # Half a neighbour's distance on both sides is left to choose where the boundary lies.
        shares[axis] = _choose_share(atoms, axis, (2 * radius + neighbours) / height, neighbours)
    return None if min(shares) == 1.0 else (shares[0], shares[1], shares[2])


def _height(atoms: Atoms, axis: int) -> float:
    """Distance (Å) between the faces of the cell that an axis leads through."""
    return float(atoms.get_volume() / np.linalg.norm(np.cross(*np.delete(atoms.cell.array, axis, 0))))


def _choose_share(atoms: Atoms, axis: int, least: float, neighbours: float) -> float:
    tried = sorted({p / q for q in range(2, LARGEST_DENOMINATOR + 1) for p in range(1, q)})
    misfits = {share: _misfit(atoms, axis, share) for share in tried}
    limit = min(ALIKE * neighbours, BEST[0] * min(misfits.values()) + BEST[1] * neighbours)
    alike = [share for share in tried if misfits[share] < limit]
    if min(misfits.values()) > ALIKE * neighbours:  # no crystal
        alike = tried
    return min((share for share in alike if share >= least), default=1.0)


def _misfit(atoms: Atoms, axis: int, share: float) -> float:
    """Median distance (Å) from atoms moved by ``share`` of a cell vector to the next of their elements."""
    scaled, found = atoms.get_scaled_positions(), []
    for k in range(0, len(atoms), 1 + len(atoms) // SAMPLED_ATOMS):
        apart = scaled[atoms.numbers == atoms.numbers[k]] - scaled[k]
        apart[:, axis] -= share
        apart -= np.round(apart) * atoms.pbc
        found.append(np.linalg.norm(apart @ atoms.cell.array, axis=1).min())
    return float(np.median(found))


def _neighbour_distance(atoms: Atoms) -> float:
    """Median distance of nearest neighbours, Å; that of two covalent radii where there are none."""
    bond = 2 * float(covalent_radii[atoms.numbers].max())
    pairs, nearest = find_pairs(atoms, 2 * bond), np.full(len(atoms), np.inf)
    np.minimum.at(nearest, pairs.centers, pairs.distances)
    return float(np.median(np.where(np.isfinite(nearest), nearest, bond)))


def carve(
    atoms: Atoms, atom: int, *, radius: float, shares: tuple[float, float, float] | None = None
) -> CarvedCell | None:
    """The cell around ``atom``; None where it would be no smaller.

    Args:
        atoms: Large cell.
        atom: In the middle of the new one.
        radius: Within it nothing is changed, Å.
        shares: Of the cell vectors, by :func:`choose_shares`, of this or of another frame of the same walker.
    """
    shares = shares or choose_shares(atoms, radius)
    if shares is None:
        return None
    center, piece = atoms.positions[atom].copy(), atoms.copy()
    piece.positions = center + _nearest_images(atoms, center)
    scaled = np.linalg.solve(atoms.cell.array.T, (piece.positions - center).T).T
    kept = np.ones(len(atoms), bool)
    for axis in np.flatnonzero(np.array(shares) < 1.0):
        low = _place_boundary(scaled[:, axis], shares[axis], atoms, int(axis), radius)
        kept &= (scaled[:, axis] >= low) & (scaled[:, axis] < low + shares[axis])
    origin = np.flatnonzero(kept)
    piece = piece[origin]
    piece.set_cell(atoms.cell.array * np.array(shares)[:, None])
    patched = _patch(piece, center, radius)
    piece, origin = piece[patched], origin[patched]
    _push_apart(piece, center, radius)
    return CarvedCell(piece, origin)


def find_core(atoms: Atoms, atom: int, core: float) -> np.ndarray:
    """Numbers of the atoms within ``core`` (Å) of ``atom`` in the large cell."""
    distances = np.linalg.norm(_nearest_images(atoms, atoms.positions[atom]), axis=1)
    return np.flatnonzero(distances <= core)


def _nearest_images(atoms: Atoms, center: np.ndarray) -> np.ndarray:
    """Vectors [n, 3] from ``center`` to the images in the cell around it."""
    vectors = atoms.positions - center
    if not atoms.pbc.any():
        return np.asarray(vectors)
    scaled = np.linalg.solve(atoms.cell.array.T, vectors.T).T
    return np.asarray(vectors - (np.round(scaled) * atoms.pbc) @ atoms.cell.array)


def _place_boundary(scaled: np.ndarray, share: float, atoms: Atoms, axis: int, radius: float) -> float:
    """Where, along an axis, the new cell begins: outside of the sphere, and where it cuts fewest atoms.

    An atom right at the boundary would be there twice, or not at all.
    """
    height = _height(atoms, axis)
    slack = share / 2 - radius / height
    begins = -share / 2 + np.linspace(-slack, slack, OFFSETS)
    ends = np.stack([begins, begins + share], 1)
    apart = scaled[None, None, :] - ends[:, :, None]
    apart = (apart - np.round(apart)) * height / BLUR
    cut = np.exp(-(apart**2) / 2).sum((1, 2))
    return float(begins[np.lexsort((np.abs(begins + share / 2), np.round(cut, 6)))[0]])


def _patch(piece: Atoms, center: np.ndarray, radius: float) -> np.ndarray:
    """Numbers of the atoms that stay: of two that overlap the one outside goes, or the one farther from the centre."""
    radii = covalent_radii[piece.numbers]
    pairs = find_pairs(piece, 2 * OVERLAP * float(radii.max()))
    i, j, distances = pairs.centers, pairs.neighbors, pairs.distances
    from_center = np.linalg.norm(piece.positions - center, axis=1)
    close = (distances < OVERLAP * (radii[i] + radii[j])) & (from_center[j] > np.maximum(from_center[i], radius))
    gone: set[int] = set()
    for k in np.argsort(distances):
        if close[k] and i[k] not in gone:
            gone.add(int(j[k]))
    return np.setdiff1d(np.arange(len(piece)), list(gone))


def _push_apart(piece: Atoms, center: np.ndarray, radius: float) -> None:
    """Move atoms outside of ``radius`` until no two are nearer than APART: by half of what is missing each step."""
    movable = np.linalg.norm(piece.positions - center, axis=1, keepdims=True) > radius
    radii = covalent_radii[piece.numbers]
    for _ in range(PUSHES):
        pairs = find_pairs(piece, 2 * APART * float(radii.max()))
        i, j = pairs.centers, pairs.neighbors
        missing = np.maximum(APART * (radii[i] + radii[j]) - pairs.distances, 0.0)
        if not (missing[movable[i, 0]] > SETTLED).any():
            return
        moves = np.zeros((len(piece), 3))
        np.add.at(moves, i, -(0.5 * missing / pairs.distances)[:, None] * pairs.vectors)
        piece.positions += moves * movable
        # None may get into the sphere in which all is as it was.
        out = piece.positions - center
        length = np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        piece.positions = np.where(movable & (length < radius), center + out / length * radius * 1.001, piece.positions)
