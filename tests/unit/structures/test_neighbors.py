"""Neighbour pairs, asked for by several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip.structures.neighbors import Pairs, find_pairs


def crystals() -> list[Atoms]:
    rng, found = np.random.default_rng(0), []
    for k in range(6):
        atoms = bulk("Cu", cubic=True).repeat((2, 2, 1 + k % 3))
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        found.append(atoms)
    return found


def test_threads_find_the_pairs_that_one_finds():
    structures = crystals()
    serial = [find_pairs(atoms, 5.0) for atoms in structures]

    def often(k: int) -> list[Pairs]:
        return [find_pairs(structures[k], 5.0) for _ in range(40)]

    with ThreadPoolExecutor(len(structures)) as pool:
        for expected, found in zip(serial, pool.map(often, range(len(structures))), strict=True):
            for pairs in found:
                np.testing.assert_array_equal(pairs.neighbors, expected.neighbors)
                np.testing.assert_array_equal(pairs.vectors, expected.vectors)


@pytest.mark.parametrize("factor", [1e200, 1e12])
def test_boundless_cells_are_refused_before_the_search_divides_by_zero(factor):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array * [[1], [1], [factor]])
    with pytest.raises(ValueError, match="a cell of"):
        find_pairs(atoms, 5.0)
