"""When dynamics has come apart: the limits that exploration, stability tests and studies share."""

from __future__ import annotations

from ase import units

HOTTEST = 5.0
"""Kinetic over intended temperature above which dynamics has exploded."""
LEEWAY = 1000.0
"""K on top of that, for few atoms fluctuate."""
NEAREST = 0.45
"""Distance over summed covalent radii below which atoms have collapsed."""
EXPLODED_VOLUME = 2.0
"""Volume over its start, or the inverse, at which a structure has exploded."""
EXPLODED_ENERGY = 5.0
"""eV/atom from the start, besides what heat brings, beyond which there is a hole or a wall in the potential."""
EXPLODED_POSITION = 1e6
"""Coordinate, Å, at which it has, too: no neighbour list is asked to span it."""


def is_too_hot(kinetic: float, intended: float) -> bool:
    """Whether the ``kinetic`` temperature is one of an explosion (or NaN), K."""
    return not kinetic <= HOTTEST * intended + LEEWAY


def is_far_off(energy: float, intended: float) -> bool:
    """Whether ``energy``, in eV/atom from the start, is more than heat of ``intended`` K and any bond explain."""
    return not abs(energy) <= EXPLODED_ENERGY + 3 * units.kB * intended
