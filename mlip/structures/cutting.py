"""Smaller periodic cells cut out of a supercell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from ase import Atoms

Block = tuple[int, int, int]
"""Numbers of unit cells along the three cell vectors."""


def choose_block(atoms: Atoms, repeat: Sequence[int], max_atoms: int) -> Block | None:
    """The thickest block of unit cells of at most ``max_atoms`` atoms; None where one cell has more.

    Args:
        atoms: Supercell.
        repeat: Unit cells in it along each vector.
        max_atoms: Limit.
    """
    n_cell = len(atoms) // int(np.prod(repeat))
    lengths = atoms.cell.lengths() / np.asarray(repeat)
    periodic = [axis for axis in range(3) if atoms.pbc[axis] and repeat[axis] > 1]
    fitting = [
        (a, b, c)
        for a, b, c in itertools.product(*(range(1, n + 1) for n in repeat))
        if a * b * c * n_cell <= max_atoms
    ]
    if not fitting:
        return None

    def quality(block: Block) -> tuple[float, int]:
        widths = [round(block[axis] * lengths[axis], 6) for axis in periodic]
        return min(widths, default=0.0), int(np.prod(block))

    return max(fitting, key=quality)


def cut_block(atoms: Atoms, repeat: Sequence[int], block: Block, atom: int) -> Atoms:
    """The ``block`` of unit cells with the one of ``atom`` in its middle, periodic, out of a supercell in ASE's order.

    Atoms belong to the unit cell that they were repeated into, wherever they have moved since, so that composition and
    charge are those of the unit cell. Two faces that were no neighbours meet at the new boundaries: in a crystal atoms
    there are as far apart as vibrations make them. In a melt they may overlap; distances tell.
    """
    cells = np.array(list(np.ndindex(*repeat)))
    n_cell = len(atoms) // len(cells)
    middle = cells[atom // n_cell]
    positions, indices = [], []
    for offset in np.ndindex(*block):
        cell = middle - (np.asarray(block) - 1) // 2 + offset
        inside = cell % np.asarray(repeat)
        number = int(np.ravel_multi_index(tuple(inside), tuple(repeat)))
        chosen = np.arange(number * n_cell, (number + 1) * n_cell)
        # A block that reaches over the supercell's boundary goes on in its image.
        positions.append(atoms.positions[chosen] + (cell - inside) / np.asarray(repeat) @ atoms.cell.array)
        indices.append(chosen)
    piece = atoms[np.concatenate(indices)]
    piece.positions = np.concatenate(positions)
    piece.set_cell(atoms.cell.array * (np.asarray(block) / np.asarray(repeat))[:, None])
    return piece
