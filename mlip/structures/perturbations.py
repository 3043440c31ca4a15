"""Perturbed copies of a structure that leave alone what it is: vacuum, molecules, adsorbates and fixed atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from mlip.config.structures import Prepare
from mlip.io.constraints import movable_mask
from mlip.structures.adsorption import find_adsorbed
from mlip.structures.geometry import scale_volume
from mlip.structures.kinds import NONMETALS, Anatomy, dissect
from mlip.structures.stiffness import displace_along_mode, displace_internally

NOBLE = frozenset((2, 10, 18, 36, 54, 86))
LIKE_RADII = 0.6
"""Smallest ratio of the covalent radii of two elements that may exchange places in an alloy."""


@dataclass(frozen=True)
class Original:
    """A starting structure and what it allows.

    Attributes:
        atoms: The structure, its molecules made whole.
        anatomy: Its kind, vacuum and molecules.
        moving: ``[n_atoms, 3]`` bool, coordinates that are not fixed.
    """

    atoms: Atoms
    anatomy: Anatomy
    moving: np.ndarray

    @classmethod
    def of(cls, start: Atoms) -> Original:
        """``start`` looked at; raises ValueError for constraints that cannot be kept."""
        anatomy = dissect(start)
        atoms = start.copy()
        if anatomy.molecules:
            atoms.positions += anatomy.shifts
        movable = movable_mask(start)
        return cls(atoms, anatomy, np.ones((len(start), 3), dtype=bool) if movable is None else movable)

    @property
    def is_free(self) -> bool:
        """Whether no coordinate is fixed, so that the cell may change, too."""
        return bool(self.moving.all())

    @property
    def is_plain_bulk(self) -> bool:
        """Whether it is bulk without molecules."""
        return self.anatomy.kind == "bulk" and not self.anatomy.molecules

    @cached_property
    def sites(self) -> np.ndarray:
        """Indices of atoms that may be removed or exchanged: not fixed, of no molecule, and not adsorbed."""
        return np.flatnonzero(
            self.moving.all(axis=1) & (self.anatomy.molecule_of < 0) & ~find_adsorbed(self.atoms, self.anatomy)
        )

    @cached_property
    def swaps(self) -> dict[int, np.ndarray]:
        """For each site that has any: the sites of other elements that it may exchange places with."""
        numbers = self.atoms.numbers
        partners = {
            one: np.array([i for i in self.sites if numbers[i] != numbers[one] and _alike(numbers[i], numbers[one])])
            for one in self.sites.tolist()
        }
        return {one: others for one, others in partners.items() if len(others)}

    def without(self, index: int) -> Original:
        """The original without one atom that belongs to no molecule."""
        atoms = self.atoms.copy()
        del atoms[index]
        molecules = tuple(members - (members > index) for members in self.anatomy.molecules)
        shifts = np.delete(self.anatomy.shifts, index, axis=0)
        anatomy = Anatomy(self.anatomy.kind, self.anatomy.projector, molecules, shifts, self.anatomy.lone)
        return Original(atoms, anatomy, np.delete(self.moving, index, axis=0))

    def strained(self, deformation: np.ndarray) -> Atoms:
        """A copy deformed by ``deformation`` ``[3, 3]`` within the directions of matter; molecules keep their shape."""
        projector = self.anatomy.projector
        # Bulk takes the deformation as it is, bit for bit.
        inside = (
            deformation
            if self.anatomy.kind == "bulk"
            else np.eye(3) + projector @ (deformation - np.eye(3)) @ projector
        )
        atoms = self.atoms.copy()
        if self.anatomy.kind == "bulk" and not self.anatomy.molecules:
            atoms.set_cell(atoms.cell.array @ inside, scale_atoms=True)
            return atoms
        # A slab may have no third cell vector to scale positions by.
        atoms.cell[:] = atoms.cell.array @ inside
        atoms.positions = self.atoms.positions @ inside
        for members in self.anatomy.molecules:
            shape = self.atoms.positions[members]
            atoms.positions[members] = shape + shape.mean(axis=0) @ (inside - np.eye(3))
        return atoms


def scale(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """Another volume."""
    return _scaled(original, rng.uniform(*settings.volume_range))


def strain(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """A random symmetric strain with a small rattle, so that internal relaxation is seen too."""
    components = rng.uniform(-settings.max_strain, settings.max_strain, (3, 3))
    atoms = original.strained(np.eye(3) + (components + components.T) / 2)
    return displace(atoms, original, min(settings.rattle), settings, rng)


def rattle(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """Random displacements, of bulk at another volume."""
    if original.anatomy.kind == "bulk" and original.is_free:
        atoms = _scaled(original, rng.uniform(*settings.volume_range) / 2)
    else:
        atoms = original.atoms.copy()
    return displace(atoms, original, float(rng.choice(settings.rattle)), settings, rng)


def remove_atom(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """One site left empty, with a small rattle."""
    rest = original.without(int(original.sites[rng.integers(len(original.sites))]))
    return displace(rest.atoms.copy(), rest, float(rng.choice(settings.rattle[:2])), settings, rng)


def swap(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """One to ``1 + n_atoms // 8`` random pairs of unlike atoms on like sites exchanged, with a small rattle."""
    atoms = original.atoms.copy()
    sites = list(original.swaps)
    for _ in range(int(rng.integers(1, 2 + len(atoms) // 8))):
        one = sites[int(rng.integers(len(sites)))]
        other = int(rng.choice(original.swaps[one]))
        # Moving the atoms takes their magnetic moments and charges along.
        atoms.positions[[one, other]] = atoms.positions[[other, one]]
    return displace(atoms, original, min(settings.rattle), settings, rng)


def displace_mode(original: Original, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """One mode displaced: a soft one of a molecule, else a standing wave of random direction through the cell."""
    atoms = original.atoms.copy()
    molecules = original.anatomy.molecules
    size = float(rng.choice(settings.rattle)) * 2
    if molecules and (len(molecules) == 1 or rng.random() < 0.5 or len(np.concatenate(molecules)) == len(atoms)):
        members = molecules[int(rng.integers(len(molecules)))]
        part = atoms[members]
        displace_along_mode(part, original.moving[members], size, settings.temperature, rng)
        atoms.positions[members] = part.positions
        return atoms
    wave = rng.integers(0, 3, 3) * atoms.pbc
    phases = (
        2 * np.pi * (atoms.get_scaled_positions(wrap=False) @ wave if atoms.cell.rank == 3 else np.zeros(len(atoms)))
    )
    # Elements move with amplitudes of their own, so that optical modes are among them.
    amplitude = {number: rng.normal() for number in sorted(set(atoms.numbers.tolist()))}
    direction = rng.normal(size=3)
    moves = np.cos(phases + rng.uniform(0, 2 * np.pi))[:, None] * direction
    moves *= np.array([amplitude[number] for number in atoms.numbers.tolist()])[:, None]
    moves *= original.moving & (original.anatomy.molecule_of < 0)[:, None]
    atoms.positions += moves * size / max(float(np.linalg.norm(moves, axis=1).max()), 1e-12)
    return displace(atoms, original, min(settings.rattle), settings, rng)


def displace(atoms: Atoms, original: Original, stdev: float, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """``atoms`` displaced in place: atoms by ``stdev`` (Å) a coordinate, molecules as bodies that know their bonds.

    A molecule is displaced within itself at a random temperature up to ``settings.temperature``
    (:mod:`mlip.structures.stiffness`), then moved and turned by about ``stdev``, unless it is alone or has fixed atoms.
    """
    noise = rng.normal(0.0, stdev, atoms.positions.shape)
    if original.is_free and not original.anatomy.molecules:
        atoms.positions += noise
        return atoms
    atoms.positions += np.where(original.moving & (original.anatomy.molecule_of < 0)[:, None], noise, 0.0)
    for members in original.anatomy.molecules:
        part = atoms[members]
        part.set_constraint()
        moving = original.moving[members]
        displace_internally(part, moving, settings.temperature * rng.uniform(0.1, 1.0), rng)
        if moving.all() and not original.anatomy.lone:
            _move_rigidly(part, stdev, rng)
        atoms.positions[members] = part.positions
    return atoms


def keeps_molecules(atoms: Atoms, molecules: Sequence[np.ndarray]) -> bool:
    """Whether ``atoms`` still consist of ``molecules``, none broken and none bonded to another."""
    found = dissect(atoms).molecules
    return [m.tolist() for m in found] == [m.tolist() for m in molecules]


def _scaled(original: Original, relative_volume: float) -> Atoms:
    if original.anatomy.molecules:
        return original.strained(np.eye(3) * (1 + relative_volume) ** (1 / 3))
    return scale_volume(original.atoms, relative_volume)


def _move_rigidly(part: Atoms, stdev: float, rng: np.random.Generator) -> None:
    """Move by ``stdev`` along each axis, and turn so that atoms at the radius of gyration move as much."""
    centre = part.positions.mean(axis=0)
    relative = part.positions - centre
    radius = float(np.sqrt((relative**2).sum(axis=1).mean()))
    axis = rng.normal(0.0, stdev / max(radius, 0.3), 3)
    angle = float(np.linalg.norm(axis))
    unit = axis / max(angle, 1e-12)
    # Rodrigues' formula for rotating by a finite angle.
    across = np.cross(unit, relative)
    turned = relative + np.sin(angle) * across + (1 - np.cos(angle)) * np.cross(unit, across)
    part.positions = centre + turned + rng.normal(0.0, stdev, 3)


def _alike(one: int, other: int) -> bool:
    """Whether two elements share the sites of an alloy: both metals or metalloids, both nonmetals, or both noble gases,
    of similar size. Hydrogen, which sits between the others, has no like."""
    if 1 in (one, other):
        return False
    kinds = [(number in NONMETALS, number in NOBLE) for number in (int(one), int(other))]
    small, large = sorted((covalent_radii[one], covalent_radii[other]))
    return kinds[0] == kinds[1] and bool(small / large >= LIKE_RADII)
