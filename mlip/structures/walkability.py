"""What walkers cannot do with a structure: told before a label is paid for."""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms

from mlip.config.walkers import Demand
from mlip.io.electrons import describe_state, unusual_state
from mlip.structures.kinds import Anatomy
from mlip.structures.starting import StructureError

FORCES_BYTES = 10_000
"""Per atom, for forces and uncertainties of an ACE potential on a CPU: 38 MB for 4096 atoms of Si or NaCl."""
FRAME_BYTES = 200
"""Per atom, for a kept frame and its copy when the trajectory is written."""


def _check_size(n_atoms: int, demand: Demand, name: str) -> None:
    """Refuse a supercell beyond the limit of its walkers, which is a mistake or needs another machine."""
    total = n_atoms * math.prod(demand.repeat)
    if total > demand.max_atoms:
        raise StructureError(
            f"{name}: explore.walkers repeat {list(demand.repeat)} makes {total} atoms of {n_atoms}, more than"
            f" max_atoms: {demand.max_atoms}; MD of so many takes some {total * FORCES_BYTES / 1e9:.2g} GB of memory"
            f" for the forces and {total * FRAME_BYTES / 1e6:.2g} MB for every frame kept, more on a GPU or with"
            " backend mace."
            " Repeat less, or set `max_atoms` of these walkers higher"
        )


def check_walkable(start: Atoms, anatomy: Anatomy, demand: Demand, name: str) -> None:
    """Refuse what walkers cannot do with the starting structure ``start``, called ``name``.

    Raises:
        StructureError: for a supercell across vacuum, of too many atoms or of what has a charge or spin, NPT where no
            cell can breathe, and pressure on free surfaces.
    """
    _check_size(len(start), demand, name)
    state = unusual_state(start)
    if state and math.prod(demand.repeat) > 1:
        raise StructureError(
            f"{name}: explore.walkers repeat {list(demand.repeat)} of a structure with"
            f" {describe_state(state)} has another charge and spin; set it to"
            " [1, 1, 1], or list the `structures` of these walkers"
        )
    across = [axis for axis in np.flatnonzero(anatomy.crosses_vacuum(start)) if demand.repeat[axis] > 1]
    if across:
        raise StructureError(
            f"{name}: explore.walkers repeat {list(demand.repeat)} goes across the vacuum of this {anatomy.kind}; "
            f"set its number {across[0] + 1} to 1, or list the `structures` of these walkers"
        )
    if demand.ensemble == "nvt" or anatomy.kind == "bulk":
        return
    elsewhere = f"and the {demand.ensemble} walkers a list `structures` without number {demand.source_number}"
    if anatomy.kind == "molecule":
        raise StructureError(
            f"{name}: `{demand.ensemble}` walkers need matter that goes on in one direction at least, and around this"
            f" molecule or cluster there is vacuum; give it walkers of `ensemble: nvt`, {elsewhere};"
            " for molecules and clusters alone: explore: {walkers: [{ensemble: nvt, temperatures: ladder}]}"
        )
    if demand.is_pressed:
        raise StructureError(
            f"{name}: explore.walkers put a pressure other than 0 on this {anatomy.kind}, whose surfaces face vacuum;"
            f" give it walkers of pressure 0, which relax its cell, {elsewhere}"
        )
