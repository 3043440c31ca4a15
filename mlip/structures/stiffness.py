"""Displacements of molecules that know their bonds: thermal ones of a model Hessian.

The Hessian is a sum over bonds, angles and torsions, ``k b bᵀ`` with ``b`` the derivative of an internal coordinate by
the positions and ``k`` from the distances alone, after Lindh, Bernhardsson, Karlström and Malmqvist, Chem. Phys. Lett.
241, 423 (1995). Bonds come out some 20 to 50 % too stiff, torsions soft: what is wanted of a scheme that must not break
bonds and knows no chemistry.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms, units
from ase.data import covalent_radii
from ase.geometry import get_angles_derivatives, get_dihedrals_derivatives
from scipy.linalg import null_space

from mlip.structures.kinds import BOND

STRETCH, BEND, TORSION = 0.45, 0.15, 0.005
"""Force constants of Lindh's model: hartree/bohr², hartree/rad², hartree/rad²."""

ALPHA = np.array([[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]])
DISTANCE = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]])
"""Lindh's decay (1/bohr²) and reference distance (bohr), by the rows of the periodic table of two elements."""

LINEAR = np.radians(170)
"""Angle from which three atoms count as being on a line."""

MODE_LIMIT = 0.35
"""Å: standard deviation of the softest modes along their unit vector, so that none without stiffness runs away."""

TAIL = 2.5
"""Thermal amplitudes that a single mode is followed for at most."""

STEPS = 4
"""Parts that a displacement is drawn in, each along the modes of the geometry that the ones before led to: methyl
groups turn instead of stretching."""


def displace_internally(molecule: Atoms, moving: np.ndarray, temperature: float, rng: np.random.Generator) -> None:
    """Displace the atoms of one whole molecule against each other, as far as kT lets the model Hessian be stretched.

    Each mode of stiffness k gets a variance of kT/k, ``MODE_LIMIT`` at most; the molecule neither moves nor turns.

    Args:
        molecule: Changed in place; periodic boundary conditions are ignored.
        moving: ``[n_atoms, 3]`` bool, Cartesian coordinates that may move.
        temperature: K.
        rng: Source of the draws.
    """
    constants = _Constants(molecule)
    for _ in range(STEPS):
        stiffness, modes = _modes(molecule.positions, constants, moving)
        spread = np.minimum(np.sqrt(units.kB * temperature / np.maximum(stiffness, 1e-12)), MODE_LIMIT)
        drawn = modes @ (spread * rng.normal(size=len(spread)))
        molecule.positions += drawn.reshape(-1, 3) / np.sqrt(STEPS)


def displace_along_mode(
    molecule: Atoms, moving: np.ndarray, size: float, temperature: float, rng: np.random.Generator
) -> None:
    """Displace one whole molecule along one of its modes, the soft ones likelier, until an atom has moved ``size`` Å.

    A mode is drawn with a probability in proportion to its thermal amplitude ``sqrt(kT/k)``, and followed for no more
    than ``TAIL`` of them, so that bonds are not broken. Other arguments as of :func:`displace_internally`.
    """
    constants = _Constants(molecule)
    stiffness, modes = _modes(molecule.positions, constants, moving)
    if not len(stiffness):
        return
    amplitude = np.minimum(np.sqrt(units.kB * temperature / np.maximum(stiffness, 1e-12)), MODE_LIMIT)
    which = int(rng.choice(len(amplitude), p=amplitude / amplitude.sum()))
    direction = modes[:, which]
    farthest = float(np.linalg.norm(direction.reshape(-1, 3), axis=1).max())
    length = min(size / farthest, TAIL * amplitude[which]) * rng.choice([-1.0, 1.0])
    for _ in range(STEPS):
        molecule.positions += direction.reshape(-1, 3) * length / STEPS
        _, modes = _modes(molecule.positions, constants, moving)
        following = modes @ (modes.T @ direction)
        direction = following / max(float(np.linalg.norm(following)), 1e-12)


class _Constants:
    """Bonds, angles and torsions of a molecule and their force constants, in eV, Å and radians."""

    def __init__(self, molecule: Atoms) -> None:
        self.size = len(molecule)
        between = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=2)
        radii = covalent_radii[molecule.numbers]
        bonded = (between < BOND * (radii[:, None] + radii[None])) & ~np.eye(self.size, dtype=bool)
        rows = np.digitize(molecule.numbers, [3, 11])
        bohr = between / units.Bohr
        decay = np.exp(ALPHA[rows[:, None], rows] * (DISTANCE[rows[:, None], rows] ** 2 - bohr**2))
        near = [np.flatnonzero(row).tolist() for row in bonded]
        self.bonds = _table([(i, j) for i in range(self.size) for j in near[i] if i < j], 2)
        self.angles = _table([(i, j, k) for j in range(self.size) for i in near[j] for k in near[j] if i < k], 3)
        self.torsions = _table(
            [
                (i, j, k, m)
                for j, k in self.bonds.tolist()
                for i in near[j]
                for m in near[k]
                if i != k and m != j and i != m
            ],
            4,
        )
        i, j = self.bonds.T
        self.stretch = STRETCH * units.Hartree / units.Bohr**2 * decay[i, j]
        i, j, k = self.angles.T
        self.bend = BEND * units.Hartree * decay[i, j] * decay[j, k]
        i, j, k, m = self.torsions.T
        self.torsion = TORSION * units.Hartree * decay[i, j] * decay[j, k] * decay[k, m]


def _table(rows: list[tuple[int, ...]], width: int) -> np.ndarray:
    return np.array(rows, dtype=int).reshape(-1, width)


def _modes(positions: np.ndarray, constants: _Constants, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stiffnesses (eV/Å²) ``[n_modes]`` and unit vectors ``[3 * n_atoms, n_modes]`` without motions of the whole."""
    hessian = np.zeros((3 * constants.size, 3 * constants.size))
    for members, derivatives, stiffness in _terms(positions, constants):
        coordinates = (3 * members[:, :, None] + np.arange(3)).reshape(len(members), -1)
        flat = derivatives.reshape(len(members), -1)
        blocks = stiffness[:, None, None] * flat[:, :, None] * flat[:, None, :]
        np.add.at(hessian, (coordinates[:, :, None], coordinates[:, None, :]), blocks)
    basis = _internal_motions(positions, moving.ravel())
    stiffness, vectors = np.linalg.eigh(basis.T @ hessian @ basis)
    return stiffness, basis @ vectors


def _internal_motions(positions: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Unit vectors ``[3 * n_atoms, n]`` that span what ``free`` coordinates can do but move and turn the whole."""
    centred = positions - positions.mean(axis=0)
    turns = np.cross(np.eye(3)[:, None], centred).reshape(3, -1)
    whole = np.concatenate([np.tile(np.eye(3), len(positions)), turns])
    # Of fixed coordinates only those motions of the whole are left that do not move them.
    whole = null_space(whole[:, ~free].T, rcond=1e-6).T @ whole if not free.all() else whole
    basis = np.eye(len(free))[:, free]
    if len(whole):
        basis = basis @ null_space(whole[:, free], rcond=1e-6)
    return basis


def _terms(positions: np.ndarray, constants: _Constants) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Members ``[n, m]``, derivatives ``[n, m, 3]`` and force constants ``[n]`` of each sort of internal coordinate."""
    i, j = constants.bonds.T
    along = positions[i] - positions[j]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    yield constants.bonds, np.stack([along, -along], axis=1), constants.stretch
    i, j, k = constants.angles.T
    to_i, to_k = positions[i] - positions[j], positions[k] - positions[j]
    linear = _angles(to_i, to_k) > LINEAR
    bent = ~linear
    if bent.any():
        yield constants.angles[bent], np.radians(get_angles_derivatives(to_i[bent], to_k[bent])), constants.bend[bent]
    if linear.any():
        for across in _perpendicular(to_i[linear]):
            by_i = across / np.linalg.norm(to_i[linear], axis=1, keepdims=True)
            by_k = across / np.linalg.norm(to_k[linear], axis=1, keepdims=True)
            yield constants.angles[linear], np.stack([by_i, -by_i - by_k, by_k], axis=1), constants.bend[linear]
    i, j, k, m = constants.torsions.T
    first, middle, last = positions[j] - positions[i], positions[k] - positions[j], positions[m] - positions[k]
    sound = (_angles(-first, middle) < LINEAR) & (_angles(-middle, last) < LINEAR)
    if sound.any():
        derivatives = np.radians(get_dihedrals_derivatives(first[sound], middle[sound], last[sound]))
        yield constants.torsions[sound], derivatives, constants.torsion[sound]


def _angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angles (rad) between rows of vectors."""
    cosines = (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
    return np.arccos(np.clip(cosines, -1.0, 1.0))


def _perpendicular(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors across each of ``vectors``, and across each other."""
    axes = np.eye(3)[np.abs(vectors).argmin(axis=1)]
    one = np.cross(vectors, axes)
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    other = np.cross(vectors, one)
    return one, other / np.linalg.norm(other, axis=1, keepdims=True)
