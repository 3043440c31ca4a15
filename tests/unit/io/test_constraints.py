"""Constraints and masses travel from file to file, and from a walker's structure to its frames."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixScaled

from mlip.io.constraints import ConstraintError, movable_mask, set_movable
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.trajectory import Frame, read_frames, write_trajectory


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 1, 3), vacuum=5.0)
    atoms.info.clear()
    atoms.set_masses([63.0, 65.0, 63.0, 65.0, 63.0, 65.0])
    return atoms


CONSTRAINTS = [
    FixAtoms([0, 1]),
    [FixAtoms([0]), FixCartesian(1, (True, False, False)), FixCartesian([2, 3], (False, False, True))],
    [FixScaled([4], (False, False, True)), FixScaled([5], (True, True, False))],
]


@pytest.mark.parametrize("constraints", CONSTRAINTS)
def test_fixed_coordinates_and_masses_survive_files(tmp_path, constraints):
    atoms = slab()
    atoms.set_constraint(constraints)
    free = bulk("Cu")
    write_structures(tmp_path / "a.extxyz", [atoms, free])
    held, loose = read_structures(tmp_path / "a.extxyz")
    np.testing.assert_array_equal(movable_mask(held), movable_mask(atoms))
    np.testing.assert_array_equal(held.get_masses(), atoms.get_masses())
    assert movable_mask(loose) is None
    frame = Frame(atoms, 0.0, 0.0, np.zeros(6), 300.0, 0.0, 1.0)
    write_trajectory(tmp_path / "walker.nc", atoms, [frame, frame], {})
    for moment in read_frames(tmp_path / "walker.nc")[0]:
        np.testing.assert_array_equal(movable_mask(moment), movable_mask(atoms))
        np.testing.assert_array_equal(moment.get_masses(), atoms.get_masses())


def test_constraints_act_as_before(tmp_path):
    atoms = slab()
    atoms.set_constraint(CONSTRAINTS[1])
    other = slab()
    set_movable(other, movable_mask(atoms))
    for structure in (atoms, other):
        structure.set_positions(structure.positions + np.random.default_rng(0).normal(size=(6, 3)))
    np.testing.assert_allclose(atoms.positions, other.positions)


def test_constraints_that_files_cannot_hold_are_named(tmp_path):
    atoms = slab()
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ConstraintError, match="FixBondLength"):
        movable_mask(atoms)
    with pytest.warns(UserWarning, match="FixBondLength"):
        write_structures(tmp_path / "a.extxyz", [atoms])
    slanted = bulk("Cu")
    slanted.set_constraint(FixScaled([0], (True, False, False)))
    with pytest.raises(ConstraintError, match="selective dynamics"):
        movable_mask(slanted)
