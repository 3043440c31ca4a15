"""Internal strain: how atoms move within a strained cell, in linear response.

With force constants Phi = d2E/du du and couplings L = -dF/d(strain) of one cell at rest,

    u = -Phi^+ L strain,     C_relaxed = C_clamped - L^T Phi^+ L / V

(M. Born and K. Huang, Dynamical Theory of Crystal Lattices, 1954, section 11). For diamond only the
optical mode at Gamma moves, and C44_clamped - C44_relaxed = m w^2 zeta^2 / (8 a) exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.neighborlist import neighbor_list

from mlip.properties.elastic.strains import StrainPath
from mlip.properties.symmetry import find_symmetry

RIGID = 1e-4
"""Eigenvalues of Phi below this share of the largest are translations."""

Forces = Callable[[Sequence[Atoms]], np.ndarray]
"""Forces [n_structures, ..., n_atoms, 3] (eV/Å) of some structures; axes between are members."""


@dataclass(frozen=True)
class InternalStrain:
    """Linear response of the atoms of a cell.

    Attributes:
        correction: C_clamped - C_relaxed, [..., 6, 6], GPa; leading axes are members.
        shifts: du/d(strain), [..., n_atoms, 3, 6], Å.
        frequencies: at the cell's Gamma point, [..., 3 n_atoms], THz, ascending; imaginary ones negative.
    """

    correction: np.ndarray
    shifts: np.ndarray
    frequencies: np.ndarray


def forces_of(calculator: Any) -> Forces:
    """Forces by an ASE calculator."""

    def evaluate(structures: Sequence[Atoms]) -> np.ndarray:
        forces = []
        for atoms in structures:
            copy = atoms.copy()
            copy.calc = calculator
            forces.append(copy.get_forces(apply_constraint=False))
        return np.array(forces)

    return evaluate


def respond(crystal: Atoms, forces: Forces, *, strain: float = 1e-3, step: float = 0.01) -> InternalStrain:
    """Internal strain of ``crystal``, whose atoms are at rest, by central differences.

    Args:
        crystal: one cell.
        forces: of structures.
        strain: amplitude of the strains.
        step: displacement of the atoms, Å.
    """
    n = len(crystal)
    images = _symmetry_images(crystal)
    movers = sorted({image.source for image in images})
    moved, strained = [], []
    for atom, axis, sign in itertools.product(movers, range(3), (1, -1)):
        copy = crystal.copy()
        copy.positions[atom, axis] += sign * step
        moved.append(copy)
    for direction in np.eye(6):
        path = StrainPath("unit", tuple(direction.tolist()))
        strained += [path.apply(crystal, sign * strain) for sign in (1, -1)]
    rows = -_differences(forces(moved), step)  # [..., 3 n_movers, 3n]
    constants = _fill(rows.reshape(*rows.shape[:-2], len(movers), 3, n, 3), movers, images)
    constants = 0.5 * (constants + np.swapaxes(constants, -1, -2))
    coupling = -_differences(forces(strained), strain)  # [..., 6, 3n]
    values, vectors = np.linalg.eigh(constants)
    moves = np.abs(values) > RIGID * np.abs(values).max(-1, keepdims=True)
    inverse = np.where(moves, 1 / np.where(moves, values, 1.0), 0.0)
    projected = coupling @ vectors
    correction = (projected * inverse[..., None, :]) @ np.swapaxes(projected, -1, -2) / crystal.get_volume()
    shifts = -(vectors * inverse[..., None, :]) @ np.swapaxes(projected, -1, -2)
    root = np.sqrt(np.repeat(crystal.get_masses(), 3))
    squares = np.linalg.eigvalsh(constants / np.outer(root, root))
    frequencies = np.sign(squares) * np.sqrt(np.abs(squares)) / (2 * np.pi) * units.second * 1e-12
    return InternalStrain(correction / units.GPa, shifts.reshape(*shifts.shape[:-2], n, 3, 6), frequencies)


@dataclass(frozen=True)
class _Image:
    """A symmetry operation that takes atom ``source`` to another: its rotation, and where it takes every atom."""

    source: int
    rotation: np.ndarray
    target_of: np.ndarray


def _symmetry_images(crystal: Atoms) -> list[_Image]:
    """For every atom, an operation that makes it of a representative one."""
    symmetry = find_symmetry(crystal)
    cell, scaled = crystal.cell.array.T, crystal.get_scaled_positions()
    images: dict[int, _Image] = {}
    for rotation, translation in zip(symmetry.rotations, symmetry.translations, strict=True):
        offsets = (scaled @ rotation.T + translation)[:, None] - scaled[None]
        distance = np.linalg.norm((offsets - np.round(offsets)) @ cell.T, axis=-1)
        target_of = distance.argmin(1)
        turned = cell @ rotation @ np.linalg.inv(cell)
        for source in np.unique(symmetry.equivalent_atoms).tolist():
            images.setdefault(int(target_of[source]), _Image(source, turned, target_of))
    return [images[k] for k in range(len(crystal))]


def _fill(rows: np.ndarray, movers: Sequence[int], images: Sequence[_Image]) -> np.ndarray:
    """All force constants [..., 3n, 3n] from rows [..., n_movers, 3, n, 3]: Phi(Ra, Rb) = R Phi(a, b) R^T."""
    n = len(images)
    full = np.zeros((*rows.shape[:-4], n, 3, n, 3))
    for atom, image in enumerate(images):
        representative = rows[..., movers.index(image.source), :, :, :]
        full[..., atom, :, image.target_of, :] = np.moveaxis(
            np.einsum("xa,...anb,yb->...xny", image.rotation, representative, image.rotation), -2, 0
        )
    return full.reshape(*rows.shape[:-4], 3 * n, 3 * n)


def _differences(forces: np.ndarray, step: float) -> np.ndarray:
    """[..., size, 3 n_atoms] from forces [2 * size, ..., n_atoms, 3], plus before minus."""
    change = (forces[0::2] - forces[1::2]) / (2 * step)
    flat = change.reshape(*change.shape[:-2], -1)
    return np.moveaxis(flat, 0, -2)


def kleinman_zeta(structure: Atoms, shifts: np.ndarray) -> float | None:
    """Kleinman's internal-strain parameter: 0 for clamped atoms, 1 for rigid bonds.

    A bond (1, 1, 1) a/4 keeps its length under the shear when its ends move apart by -a/4 along
    x per unit of shear; zeta is the share of that which happens. L. Kleinman, Phys. Rev. 128, 2614 (1962).

    Args:
        structure: the crystal.
        shifts: internal displacement per engineering shear 2 e_yz, [n_atoms, 3], Å.

    Returns:
        None unless every atom has four bonds along cubic diagonals (diamond, zincblende).
    """
    distances = structure.repeat(2).get_all_distances(mic=True)
    nearest = float(distances[distances > 1e-6].min())
    first, second, bonds = neighbor_list("ijD", structure, 1.05 * nearest)
    along_diagonals = np.allclose(np.abs(bonds), nearest / np.sqrt(3), atol=1e-3 * nearest)
    if not along_diagonals or not (np.bincount(first, minlength=len(structure)) == 4).all():
        return None
    moved = (shifts[second] - shifts[first])[:, 0] * np.sign(bonds.prod(axis=1))
    return float(-moved.mean() / (nearest / np.sqrt(3)))
