"""Cells cut out of a supercell: crystals again, with the neighbourhood of the atom that they are cut around."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms

from mlip.structures.cutting import choose_block, cut_block

CELL = bulk("NaCl", "rocksalt", a=5.64, cubic=True)


@pytest.mark.parametrize("atom", [0, 17, 95, 143])
def test_a_block_of_a_crystal_is_the_smaller_crystal(atom: int) -> None:
    piece = cut_block(CELL.repeat((3, 2, 3)), (3, 2, 3), (2, 1, 2), atom)
    ideal = CELL.repeat((2, 1, 2))
    assert piece.get_chemical_formula() == ideal.get_chemical_formula()
    assert np.allclose(piece.cell.array, ideal.cell.array)
    found, wanted = (np.sort(a.get_all_distances(mic=True), axis=None) for a in (piece, ideal))
    assert np.allclose(found, wanted)


def test_the_neighbours_of_the_atom_stay_where_they_are() -> None:
    supercell = CELL.repeat(4)
    supercell.positions += np.random.default_rng(3).normal(0, 0.05, supercell.positions.shape)
    for atom in (0, 200, 511):
        piece = cut_block(supercell, (4, 4, 4), (3, 3, 3), atom)
        middle = int(np.argmin(np.linalg.norm(piece.positions - supercell.positions[atom], axis=1)))
        assert np.allclose(piece.positions[middle], supercell.positions[atom])
        # The block goes on for a cell, 5.64 Å, on each side of the one in the middle.
        near, before = (
            np.sort(a.get_distances(k, [j for j in range(len(a)) if j != k], mic=True))
            for a, k in ((piece, middle), (supercell, atom))
        )
        within = before < 5.64
        assert within.sum() > 25
        assert np.allclose(near[: within.sum()], before[within])


def test_fixed_atoms_moments_and_height_come_along() -> None:
    slab = fcc111("Cu", size=(1, 1, 4), vacuum=6, periodic=True)
    slab.set_constraint(FixAtoms([0, 1]))
    slab.set_initial_magnetic_moments([0, 1, 2, 3])
    piece = cut_block(slab.repeat((3, 3, 1)), (3, 3, 1), (2, 1, 1), 30)
    assert np.allclose(piece.cell.array, slab.repeat((2, 1, 1)).cell.array)
    assert piece.constraints[0].index.tolist() == [0, 1, 4, 5]
    assert piece.get_initial_magnetic_moments().tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_thickest_block_that_fits() -> None:
    long = Atoms("Cu", cell=[2.0, 4.0, 4.0], pbc=True).repeat((8, 4, 4))
    assert choose_block(long, (8, 4, 4), 128) == (8, 4, 4)
    assert choose_block(long, (8, 4, 4), 16) == (4, 2, 2)
    assert choose_block(long, (8, 4, 4), 1) == (1, 1, 1)
    assert choose_block(CELL.repeat(2), (2, 2, 2), 7) is None
