"""Atoms that lie on a slab and are no part of it: none of them makes a vacancy or an alloy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from mlip.structures.kinds import BOND, NONMETALS, Anatomy
from mlip.structures.neighbors import find_pairs

ONE_SIDED = 0.3
"""Å along the normal of a slab from which a neighbour is above or below."""

HOST_THICKNESS = 1.5
"""Å: thickness of a slab without its adsorbates; less would be a layer of a compound that is covered on both sides,
such as MoS2, whose outer atoms are no adsorbates."""

SAME_LAYER = 0.5
"""Å between the heights of two atoms from which they belong to different layers."""

FULL = 0.5
"""Atoms of a layer over those of the one beneath, up to which the upper one is no layer but adatoms."""


def find_adsorbed(atoms: Atoms, anatomy: Anatomy) -> np.ndarray:
    """``[n_atoms]`` bool: nonmetals and metals adsorbed on a slab.

    Nonmetals are of elements whose bonds all point to one side. Metals, which may be of the slab's own elements, are
    those few on top of a fuller layer, bonded to metals alone, or of an element that is nowhere else.
    """
    adsorbed = np.zeros(len(atoms), dtype=bool)
    if anatomy.kind != "slab":
        return adsorbed
    normal = np.linalg.svd(anatomy.projector)[2][2]
    along = np.abs(atoms.cell.array[atoms.pbc] @ normal)
    along = along[along > 1e-3]
    heights = _unwrapped(atoms.positions @ normal, float(along.min()) if len(along) else None)
    bonds = _bonds(atoms)
    adsorbed = _adsorbed_nonmetals(atoms, normal, bonds)
    host = heights[~adsorbed]
    if not len(host) or np.ptp(host) < HOST_THICKNESS:
        return np.zeros(len(atoms), dtype=bool)
    return adsorbed | _adatoms(atoms, heights, adsorbed, bonds)


Bonds = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Atoms, their neighbours and the vectors to these, Å, of every bond from both ends."""


def _bonds(atoms: Atoms) -> Bonds:
    radii = covalent_radii[atoms.numbers]
    pairs = find_pairs(atoms, 2 * float(radii.max()) * BOND)
    bonded = pairs.distances < BOND * (radii[pairs.centers] + radii[pairs.neighbors])
    return pairs.centers[bonded], pairs.neighbors[bonded], pairs.vectors[bonded]


def _adsorbed_nonmetals(atoms: Atoms, normal: np.ndarray, bonds: Bonds) -> np.ndarray:
    """``[n_atoms]`` bool: atoms of the elements none of which has a bond within its layer or to both sides."""
    centers, _, vectors = bonds
    side = vectors @ normal
    above, below = (np.bincount(centers[s * side > ONE_SIDED], minlength=len(atoms)) for s in (1, -1))
    level = np.bincount(centers[np.abs(side) <= ONE_SIDED], minlength=len(atoms))
    within = ((above > 0) & (below > 0)) | (level > 0)
    adsorbed = np.zeros(len(atoms), dtype=bool)
    for number in sorted(set(atoms.numbers.tolist()) & NONMETALS):
        if not within[atoms.numbers == number].any():
            adsorbed |= atoms.numbers == number
    return adsorbed


def _adatoms(atoms: Atoms, heights: np.ndarray, adsorbed: np.ndarray, bonds: Bonds) -> np.ndarray:
    """``[n_atoms]`` bool: metal atoms of the incomplete layers on either side of what is not ``adsorbed``."""
    centers, neighbors, _ = bonds
    metal = ~np.isin(atoms.numbers, list(NONMETALS))
    to_nonmetal = np.bincount(centers[~metal[neighbors]], minlength=len(atoms)) > 0
    found = np.zeros(len(atoms), dtype=bool)
    for direction in (1, -1):
        order = np.argsort(-direction * heights, kind="stable")
        order = order[~adsorbed[order]]
        starts = np.flatnonzero(np.diff(-direction * heights[order], prepend=-np.inf) > SAME_LAYER)
        layers = np.split(order, starts[1:])
        for upper, lower in pairwise(layers):
            if len(upper) > FULL * len(lower):
                break
            foreign = ~np.isin(atoms.numbers[upper], atoms.numbers[np.setdiff1d(order, upper)])
            found[upper[metal[upper] & (~to_nonmetal[upper] | foreign)]] = True
    return found


def _unwrapped(heights: np.ndarray, period: float | None) -> np.ndarray:
    """``heights`` of a slab in one piece: where the cell may cut it, above its widest gap."""
    if period is None:
        return heights
    inside = heights % period
    ordered = np.sort(inside)
    gaps = np.diff(np.append(ordered, ordered[0] + period))
    bottom = ordered[(int(gaps.argmax()) + 1) % len(ordered)]
    return (inside - bottom + 1e-6) % period
