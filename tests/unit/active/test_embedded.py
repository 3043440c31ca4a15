"""News of real structures through the last layer of trained potentials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from mlip.active.acquisition import choose
from mlip.active.cost import predict_cost
from mlip.active.environments import EnvironmentTable, Known
from mlip.active.pool import Pool
from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential
from tests.unit.conftest import label_emt, make_alloy


def embed(potential: Potential, structures: Sequence[Atoms], systems: Sequence[int]) -> EnvironmentTable:
    return EnvironmentTable.of(potential.embed(structures), [atoms.numbers for atoms in structures], systems)


def make_copper(repeat: int, rattle: float, seed: int, strain: float = 0.0) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.6 * (1 + strain), cubic=True).repeat(repeat)
    atoms.rattle(rattle, seed=seed)
    return atoms


def make_interstitial(repeat: int, seed: int) -> Atoms:
    """An atom in the octahedral hole, its neighbours pushed outwards."""
    atoms = make_copper(repeat, 0.08, seed)
    hole = np.array([1.8, 1.8, 1.8])
    apart = atoms.positions - hole
    apart -= np.round(apart / atoms.cell.lengths()) * atoms.cell.lengths()
    near = np.linalg.norm(apart, axis=1) < 2.3
    atoms.positions[near] += 0.3 * apart[near] / np.linalg.norm(apart[near], axis=1)[:, None]
    atoms.append("Cu")
    atoms.positions[-1] = hole
    return atoms


def others() -> list[tuple[Atoms, int]]:
    """Four further systems: gold, an alloy, a surface, a cluster."""
    rng = np.random.default_rng(4)
    found = [(make_alloy(seed), 1) for seed in range(6)]
    for seed in range(4):
        gold = bulk("Au", cubic=True)
        gold.rattle(0.1, seed=seed)
        slab = fcc111("Cu", (1, 1, 4), vacuum=6.0, periodic=True)
        slab.rattle(0.1, seed=seed)
        cluster = Atoms("Cu5", rng.normal(0, 1.5, (5, 3)) + 2.3 * np.arange(5)[:, None] / 3**0.5)
        cluster.center(vacuum=6.0)
        found += [(gold, 2), (slab, 3), (cluster, 4)]
    return found


def train(structures: Sequence[Atoms], settings: Train, folder: Path) -> Potential:
    labelled = [label_emt(atoms) for atoms in structures]
    train_committee(TrainingRequest(labelled, [], settings, folder, seed=1, isolated_energies={"Cu": 0.5, "Au": -0.25}))
    return load_potential(folder)


@pytest.fixture(scope="module")
def copper() -> list[Atoms]:
    return [make_copper(1, 0.1, seed, 0.01 * (seed % 3 - 1)) for seed in range(12)]


@pytest.fixture(scope="module")
def potential(copper: list[Atoms], settings: Train, tmp_path_factory: pytest.TempPathFactory) -> Potential:
    return train(copper, settings, tmp_path_factory.mktemp("copper"))


def novelty(potential: Potential, known: Known, structures: Sequence[Atoms]) -> np.ndarray:
    """Distances of the farthest environments of ``structures``, all of system 0."""
    n = len(structures)
    environments = known.reduce(embed(potential, structures, [0] * n))
    pool = Pool(environments, known, np.full(n, 0.01), np.zeros(n), np.ones(n), np.ones(n, bool))
    return choose("farthest", pool, 0, np.random.default_rng(0)).distances


def test_an_interstitial_is_as_new_in_a_large_cell_as_in_a_small_one(potential: Potential, copper: list[Atoms]) -> None:
    """By means over structures, one in 512 atoms looked more ordinary than a hot cell of 8."""
    known = Known.of(embed(potential, copper, [0] * len(copper)))
    small, middle, large = novelty(potential, known, [make_interstitial(n, 3) for n in (2, 3, 5)])
    hot = novelty(potential, known, [make_copper(1, 0.15, seed) for seed in range(20, 26)])
    cold = novelty(potential, known, [make_copper(n, 0.08, 7) for n in (1, 2, 3, 5)])
    assert min(middle, large) > 0.9 * small
    assert large > 2.0 * hot.max()
    # The same rattle, from 4 to 500 atoms: the largest grows, but far less than it did by uncertainty (3.5 times).
    assert cold.max() < 2.0 * cold[1:].min()
    assert large > 2.0 * cold.max()


def test_expanded_copper_is_as_new_beside_other_systems(
    potential: Potential, copper: list[Atoms], settings: Train, tmp_path: Path
) -> None:
    expanded = [make_copper(1, 0.1, 31, 0.03), make_copper(2, 0.1, 31, 0.03)]
    alone = novelty(potential, Known.of(embed(potential, copper, [0] * len(copper))), expanded)
    more = others()
    structures, systems = [*copper, *(a for a, _ in more)], [0] * len(copper) + [s for _, s in more]
    broad = train(structures, settings, tmp_path)
    among = novelty(broad, Known.of(embed(broad, structures, systems)), expanded)
    # By structures' means it sank 670 times. What is left: another network, and other systems' copper is known, too.
    assert (among / alone > 0.25).all()
    assert (among / alone < 4.0).all()


@pytest.mark.parametrize("defect", ["interstitial", "vacancy"])
def test_of_large_cells_those_are_taken_that_hold_what_small_ones_lack(
    defect: str, potential: Potential, copper: list[Atoms]
) -> None:
    """Twenty hot crystals of 32 atoms, twelve of 256, and two of those with a defect; costs go with the square."""
    small = [make_copper(2, 0.06 + 0.01 * (k % 5), 100 + k) for k in range(20)]
    plain = [make_copper(4, 0.06 + 0.01 * (k % 5), 200 + k) for k in range(12)]
    odd = [make_interstitial(4, 300), make_interstitial(4, 301)]
    if defect == "vacancy":
        odd = [make_copper(4, 0.08, 310), make_copper(4, 0.08, 311)]
        for atoms in odd:
            del atoms[17]
    frames = [*small, *plain, *odd]
    n = len(frames)
    known = Known.of(embed(potential, copper, [0] * len(copper)))
    cost = predict_cost(np.array([atoms.numbers.sum() for atoms in frames]), np.zeros(0), np.zeros(0))
    table = known.reduce(embed(potential, frames, [0] * n))
    pool = Pool(table, known, np.ones(n), np.ones(n), cost, np.ones(n, bool))
    rows = choose("log-determinant", pool, n, np.random.default_rng(0)).rows
    # A label of the large cells costs that of 64 small ones, which therefore come first, whatever they teach.
    assert (rows[:12] < len(small)).all()
    large = rows[rows >= len(small)]
    assert large[0] >= len(small) + len(plain), "a defect before any large crystal"
    assert len(large) > 2, "at the end there is news in hot crystals, too"
