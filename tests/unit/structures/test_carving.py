"""Carved cells: in the middle all is as in the large cell, and crystals have no seam."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from mlip.structures.carving import APART, carve, choose_shares, find_core
from mlip.structures.geometry import min_distance_ratio
from mlip.structures.neighbors import find_pairs

CORE, CUTOFF = 2.6, 4.0


def silicon_with_interstitial(seed: int = 0, width: float = 0.1) -> Atoms:
    atoms = bulk("Si", "diamond", a=5.43, cubic=True).repeat(4)
    atoms += Atoms("Si", positions=[np.full(3, 5.43 * 0.5)])
    atoms.positions += np.random.default_rng(seed).normal(0, width, atoms.positions.shape)
    return atoms


def environment(atoms: Atoms, atom: int, cutoff: float) -> np.ndarray:
    """Vectors to all neighbours, sorted."""
    pairs = find_pairs(atoms, cutoff)
    vectors = np.round(pairs.vectors[pairs.centers == atom], 6)
    return vectors[np.lexsort(vectors.T)]


@pytest.mark.parametrize("atom", [0, 100, 512])
def test_environments_of_the_core_are_those_of_the_large_cell(atom: int) -> None:
    large = silicon_with_interstitial()
    carved = carve(large, atom, radius=CORE + CUTOFF)
    assert carved is not None
    assert len(carved.atoms) < 0.45 * len(large)
    core = np.flatnonzero(np.isin(carved.origin, find_core(large, atom, CORE)))
    assert len(core) > 3
    for k in core:
        wanted = environment(large, int(carved.origin[k]), CUTOFF)
        np.testing.assert_allclose(environment(carved.atoms, int(k), CUTOFF), wanted, atol=2e-6)
    outer = np.setdiff1d(np.arange(len(carved.atoms)), core)
    changed = [
        environment(carved.atoms, int(k), CUTOFF).shape != environment(large, int(carved.origin[k]), CUTOFF).shape
        or not np.allclose(
            environment(carved.atoms, int(k), CUTOFF), environment(large, int(carved.origin[k]), CUTOFF), atol=1e-5
        )
        for k in outer[:: len(outer) // 40]
    ]
    assert any(changed), "there is a seam somewhere"


def test_a_hot_crystal_is_carved_at_its_unit_cells() -> None:
    large = bulk("Cu", "fcc", a=3.61, cubic=True).repeat((6, 5, 1))
    large.positions += np.random.default_rng(2).normal(0, 0.12, large.positions.shape)
    # Two spheres of 3.5 Å and a neighbour's distance, 9.6 Å, want three of the cells along two vectors.
    assert choose_shares(large, 3.5) == (0.5, 0.6, 1.0)
    for atom in (0, 17, 119):
        carved = carve(large, atom, radius=3.5)
        assert carved is not None
        assert len(carved.atoms) == 36
        assert min_distance_ratio(carved.atoms) > 0.7


def test_atoms_that_overlap_at_the_seam_go_and_the_rest_is_pushed_apart() -> None:
    rng = np.random.default_rng(4)
    melt = Atoms("Cu", cell=[2.0] * 3, pbc=True).repeat(10)
    melt.set_cell(melt.cell.array * 1.14, scale_atoms=True)
    melt.positions += rng.normal(0, 0.25, melt.positions.shape)
    melt.positions += 0.6 * np.sin(2 * np.pi * melt.positions[:, [1, 2, 0]] / melt.cell.lengths())
    carved = carve(melt, 55, radius=6.0, shares=(0.67, 0.71, 0.69))
    assert carved is not None
    near = np.linalg.norm(carved.atoms.positions - melt.positions[55], axis=1) <= 6.0
    kept = melt.positions[carved.origin[near]]
    assert np.allclose((kept - carved.atoms.positions[near]) % melt.cell.lengths() % melt.cell.lengths(), 0, atol=1e-6)
    pairs = find_pairs(carved.atoms, 2.0)
    outside = ~(near[pairs.centers] & near[pairs.neighbors])
    assert pairs.distances[outside].min(initial=9.9) > 2 * 1.32 * APART * 0.9


def test_what_has_vacuum_a_charge_or_no_room_stays_whole() -> None:
    slab = fcc111("Cu", size=(8, 8, 3), vacuum=12, periodic=True)
    shares = choose_shares(slab, 3.0)
    assert shares is not None
    assert shares[2] == 1.0
    assert max(shares[:2]) < 1.0
    large = bulk("Cu", "fcc", a=3.61, cubic=True).repeat(6)
    assert choose_shares(large, 3.5) is not None
    assert choose_shares(large, 10.0) is None
    assert carve(large, 0, radius=10.0) is None
    large.info["charge"] = 1
    assert choose_shares(large, 3.5) is None
