"""New structures made of one's parts: interstitials, surfaces, clusters, dimers, disorder, phases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import surface
from ase.data import covalent_radii
from scipy.spatial import Voronoi

from mlip.config.structures import Prepare
from mlip.structures.geometry import make_supercell, scale_volume
from mlip.structures.kinds import dissect
from mlip.structures.neighbors import find_pairs
from mlip.structures.perturbations import Original, displace
from mlip.structures.states import typical_moments

VACUUM_WIDTH = 6.0
"""Å of vacuum on each side of a slab, cluster or dimer that is put into a cell."""

SLAB_THICKNESS = 6.0
"""Å: least thickness of slabs."""

MAX_SLAB_ATOMS = 64
"""Largest slab, unless the bulk itself is a quarter of a larger one."""

LARGEST_CLUSTER = 24
"""Atoms."""

DIMER_RATIOS = (0.7, 1.6)
"""Shortest and largest distance of a dimer over the sum of covalent radii: a shorter one has forces beyond
``label.guards.max_force``, and is no label. A larger distance guard counts instead of the shortest."""

CLOSE_RATIOS = (0.75, 0.9)
"""Shortest and largest distance of a pair pushed together in its bulk over the sum of covalent radii: 1.67 to 2.0 Å in
silicon, with forces of 27 eV/Å at most."""

CONTACT = 0.85
"""Distance over the sum of covalent radii to which atoms at random places are pushed apart."""

SQUEEZED = 0.75
"""The same around an interstitial, whose neighbours give way but little."""

DISORDER = 0.3
"""Standard deviation of a melt's displacements over the cube root of the volume per atom."""


def add_interstitial(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """An atom of the structure's elements more, in one of its largest voids, with a small rattle."""
    voids = find_voids(original.atoms)
    atoms = original.atoms.copy()
    symbol = str(rng.choice(sorted(set(atoms.get_chemical_symbols()))))
    new = Atoms(symbol, positions=[voids[int(rng.integers(len(voids)))]])
    atoms += _magnetised(new, original.atoms)
    moving = np.append(original.moving, [[True] * 3], axis=0)
    noise = rng.normal(0.0, min(settings.rattle), atoms.positions.shape)
    atoms.positions += np.where(moving, noise, 0.0)
    push_apart(atoms, SQUEEZED, moving)
    return atoms


def find_voids(atoms: Atoms) -> np.ndarray:
    """Centres ``[n, 3]`` Å of voids: the Voronoi vertices at least 0.75 times as far from atoms as the farthest.

    For bulk, periodic in three directions.
    """
    cells = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ atoms.cell.array
    points = (atoms.get_positions(wrap=True)[None] + cells[:, None]).reshape(-1, 3)
    vertices = Voronoi(points).vertices
    inside = vertices @ np.linalg.inv(atoms.cell.array)
    vertices = vertices[np.all((inside > -1e-6) & (inside < 1 - 1e-6), axis=1)]
    room = np.array([np.linalg.norm(points - vertex, axis=1).min() for vertex in vertices])
    spacious = vertices[room > 0.75 * room.max()]
    # Degenerate vertices, as in every cubic crystal, are found several times.
    return np.unique(spacious.round(3), axis=0)


def cut_surface(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms | None:
    """A low-index slab, periodic where the bulk is, with vacuum and a rattle; None where it would be too large."""
    bulk = original.atoms.copy()
    indices = list(itertools.product((0, 1), repeat=3))[1:]
    miller = indices[int(rng.integers(len(indices)))]
    spacing = 1 / np.linalg.norm(np.array(miller) @ np.linalg.inv(bulk.cell.array).T)
    layers = max(1, math.ceil(SLAB_THICKNESS / spacing))
    if layers * len(bulk) > max(MAX_SLAB_ATOMS, 4 * len(bulk)):
        return None
    # Where it is cut decides the termination.
    bulk.positions += rng.random(3) @ bulk.cell.array
    slab = surface(bulk, miller, layers, vacuum=VACUUM_WIDTH, periodic=True)
    slab.positions += rng.normal(0.0, float(rng.choice(settings.rattle[:2])), slab.positions.shape)
    return slab


def cut_cluster(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """A compact cluster around a random atom, or a few neighbouring molecules, in vacuum, displaced."""
    crystal = make_supercell(original.atoms, 8 * LARGEST_CLUSTER)
    bodies = dissect(crystal)
    crystal.positions += bodies.shifts
    owner = bodies.molecule_of
    owner = np.where(owner >= 0, owner, len(bodies.molecules) + np.arange(len(crystal)))
    middle = crystal.cell.array.sum(axis=0) / 2
    centre = crystal.positions[np.linalg.norm(crystal.positions - middle, axis=1).argmin()] + rng.normal(0, 1.0, 3)
    wanted = int(rng.integers(2, LARGEST_CLUSTER + 1))
    chosen: list[int] = []
    for atom in np.linalg.norm(crystal.positions - centre, axis=1).argsort().tolist():
        if atom not in chosen:
            body = np.flatnonzero(owner == owner[atom]).tolist()
            if chosen and len(chosen) + len(body) > wanted:
                break
            chosen += body
    cluster = crystal[sorted(chosen)]
    cluster.set_constraint()
    cluster.pbc = False
    alone = Original.of(cluster)
    return _in_box(displace(cluster, alone, float(rng.choice(settings.rattle)), settings, rng), original.atoms)


def make_dimer(original: Original, settings: Prepare, rng: np.random.Generator, min_ratio: float) -> Atoms:
    """Two atoms of the structure's elements at a drawn distance, alone or, in bulk without molecules, within the cell.

    Their distance alone goes down to ``DIMER_RATIOS`` or the guard ``min_ratio``; other atoms stay where they were, so
    that the energy tells what this pair costs.
    """
    shortest, largest = DIMER_RATIOS
    ratio = float(rng.uniform(max(min_ratio * 1.001, shortest), largest))
    if original.is_plain_bulk and original.is_free and rng.random() < 0.5:
        return _close_pair(original.atoms, min(ratio, 0.95), rng)
    numbers = sorted(set(original.atoms.numbers.tolist()))
    pair = [int(rng.choice(numbers)), int(rng.choice(numbers))]
    distance = ratio * float(covalent_radii[pair].sum())
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    alone = Atoms(pair, positions=[np.zeros(3), distance * direction])
    return _in_box(_magnetised(alone, original.atoms), original.atoms)


def push_pair(original: Original, settings: Prepare, rng: np.random.Generator, min_ratio: float) -> Atoms:
    """The bulk with two neighbours moved towards one another, to a drawn distance above the guard ``min_ratio``."""
    shortest, largest = CLOSE_RATIOS
    low = max(min_ratio * 1.001, shortest)
    return _close_pair(original.atoms, float(rng.uniform(low, max(low, largest))), rng)


def _close_pair(bulk: Atoms, ratio: float, rng: np.random.Generator) -> Atoms:
    """``bulk`` with two neighbours moved towards one another, to ``ratio`` times the sum of their covalent radii."""
    atoms = bulk.copy()
    radii = covalent_radii[atoms.numbers]
    pairs = find_pairs(atoms, 2 * float(radii.max()) * 1.9)
    apart = np.flatnonzero(pairs.centers != pairs.neighbors)
    if not len(apart):
        return atoms
    one = int(rng.choice(pairs.centers[apart]))
    bonds = apart[pairs.centers[apart] == one]
    nearest = bonds[pairs.distances[bonds].argmin()]
    other, distance = int(pairs.neighbors[nearest]), float(pairs.distances[nearest])
    wanted = min(ratio * float(radii[one] + radii[other]), distance)
    step = pairs.vectors[nearest] * (1 - wanted / distance) / 2
    atoms.positions[one] += step
    atoms.positions[other] -= step
    return atoms


def place_randomly(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """The atoms of a bulk at random places of its cell, strained and scaled, then pushed apart."""
    components = rng.uniform(-settings.max_strain, settings.max_strain, (3, 3))
    atoms = scale_volume(original.atoms, rng.uniform(*settings.volume_range))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + components + components.T))
    atoms.positions = rng.random((len(atoms), 3)) @ atoms.cell.array
    push_apart(atoms, CONTACT, original.moving)
    return atoms


def disorder(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """A bulk as disordered as its melt: large random displacements, then atoms pushed apart. No energy is computed."""
    atoms = original.atoms.copy()
    if original.is_free:
        atoms = scale_volume(atoms, rng.uniform(*settings.volume_range))
    size = DISORDER * (atoms.get_volume() / len(atoms)) ** (1 / 3) * rng.uniform(0.5, 1.2)
    atoms.positions += np.where(original.moving, rng.normal(0.0, size, atoms.positions.shape), 0.0)
    push_apart(atoms, CONTACT, original.moving)
    return atoms


def take_phase(original: Original, settings: Prepare, rng: np.random.Generator, phases: Sequence[Atoms]) -> Atoms:
    """One of ``phases`` at the volume per atom of the structure, scaled within the range and rattled."""
    phase = phases[int(rng.integers(len(phases)))]
    per_atom = original.atoms.get_volume() / len(original.atoms)
    scaled = scale_volume(
        phase, per_atom * len(phase) / phase.get_volume() * (1 + rng.uniform(*settings.volume_range)) - 1
    )
    return displace(scaled, Original.of(scaled), float(rng.choice(settings.rattle[:2])), settings, rng)


def push_apart(atoms: Atoms, ratio: float, moving: np.ndarray, n_steps: int = 100) -> None:
    """Move atoms nearer than ``ratio`` times the sum of their covalent radii apart, in place, until none are left.

    Each step moves both atoms of every such pair by half of what they lack, as a soft repulsion would. What is too
    dense stays as near as the last step left it.
    """
    radii = covalent_radii[atoms.numbers]
    for _ in range(n_steps):
        pairs = find_pairs(atoms, 2 * float(radii.max()) * ratio)
        lacking = ratio * (radii[pairs.centers] + radii[pairs.neighbors]) - pairs.distances
        near = lacking > 1e-3
        if not near.any():
            return
        # Each pair is listed from both its atoms.
        push = pairs.vectors[near] / pairs.distances[near, None] * (lacking[near, None] / 2 + 1e-3)
        moves = np.zeros_like(atoms.positions)
        np.add.at(moves, pairs.centers[near], -push)
        atoms.positions += np.where(moving, moves, 0.0)


def _magnetised(new: Atoms, like: Atoms) -> Atoms:
    """``new`` with the initial magnetic moments that its elements have in ``like``, where they have any."""
    moments = typical_moments(like, new.numbers.tolist())
    if moments is not None:
        new.set_initial_magnetic_moments(moments)
    return new


def _in_box(atoms: Atoms, like: Atoms) -> Atoms:
    """``atoms`` in a cell with vacuum, periodic where ``like`` is: plane waves know no other boundaries."""
    atoms.set_cell(np.zeros((3, 3)))
    if like.pbc.any():
        atoms.center(vacuum=VACUUM_WIDTH)
        atoms.pbc = True
    return atoms
