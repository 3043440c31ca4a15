"""Where no data are, energies do not run away: no holes at short distance, under pressure, or in disorder."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential
from mlip.testing import make_crystal
from tests.unit.conftest import SMALL

DEPTH = 3.0
"""How far (eV/atom) a model of 18 training structures may err below the lowest energy that the data hold.

EMT binds Cu and Au by 3.5 and 3.8 eV/atom: a hole, once there is one, is deeper by tens to thousands of eV.
"""


@dataclass(frozen=True)
class Trained:
    """A potential, energies of its isolated atoms and the lowest energy per atom of its training set (eV)."""

    potential: Potential
    isolated: dict[str, float]
    lowest: float

    def energies(self, structures: list[Atoms]) -> np.ndarray:
        """Per atom and member, [n_structures, n_members], eV."""
        members = [p.energy_members for p in self.potential.predict(structures)]
        return np.array(members) / np.array([[len(atoms)] for atoms in structures])


@pytest.fixture(scope="module", params=[1, 2], ids=["one_layer", "two_layers"])
def trained(request: pytest.FixtureRequest, alloys: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    isolated = {}
    for symbol in ("Au", "Cu"):
        atom = Atoms(symbol, calculator=EMT())
        isolated[symbol] = float(atom.get_potential_energy())
    folder = tmp_path_factory.mktemp("trained")
    settings = Train(**(SMALL.model_dump() | {"n_layers": request.param}))
    train_committee(TrainingRequest(alloys[:18], alloys[18:], settings, folder, seed=3, isolated_energies=isolated))
    lowest = min(a.get_potential_energy() / len(a) for a in alloys[:18])
    return Trained(load_potential(folder), isolated, lowest)


@pytest.mark.parametrize("pair", ["Cu2", "CuAu", "Au2"])
def test_pairs_repel_ever_more_below_the_data_and_never_bind_madly(trained: Trained, pair: str) -> None:
    distances = np.arange(0.4, trained.potential.cutoff + 0.2, 0.02)
    dimers = [Atoms(pair, [[0, 0, 0], [d, 0, 0]]) for d in distances]
    energies = trained.energies(dimers)
    short = distances < 1.6
    assert (np.diff(energies[short], axis=0) < 0).all()
    assert energies[0].min() > 500.0
    assert energies.min() > trained.lowest - DEPTH
    forces = np.array([p.forces[1, 0] for p in trained.potential.predict(dimers)])
    assert (forces[short] > 0).all()


def test_compressed_crystal_has_no_hole(trained: Trained) -> None:
    crystal = make_crystal()
    squeezed = []
    for scale in np.arange(0.88, 0.3, -0.02):
        squeezed.append(crystal.copy())
        squeezed[-1].set_cell(crystal.cell.array * scale, scale_atoms=True)
    assert (np.diff(trained.energies(squeezed), axis=0) > 0).all()


def random_packing(seed: int, density: float) -> Atoms:
    """Ten atoms anywhere in a box, at ``density`` times that of the crystal."""
    rng = np.random.default_rng(seed)
    edge = (10 * 15.0 / density) ** (1 / 3)
    return Atoms(rng.choice([29, 79], 10), rng.uniform(0, edge, (10, 3)), cell=np.eye(3) * edge, pbc=True)


def test_random_packings_have_no_hole_on_the_way_down(trained: Trained) -> None:
    """Steepest descent from random positions passes no energy far below the data, nor collapses."""
    packings = [random_packing(seed, density) for seed, density in enumerate(np.repeat([0.4, 1.0, 1.6], 4))]
    assert trained.energies(packings).min() > trained.lowest - DEPTH
    for _ in range(40):
        for atoms, prediction in zip(packings, trained.potential.predict(packings), strict=True):
            norms = np.linalg.norm(prediction.forces, axis=1, keepdims=True)
            atoms.positions += prediction.forces * np.minimum(0.02, 0.15 / np.maximum(norms, 1e-9))
    assert trained.energies(packings).min() > trained.lowest - DEPTH
    shortest = [np.min(a.get_all_distances(mic=True)[np.triu_indices(10, 1)]) for a in packings]
    assert min(shortest) > 1.5, "atoms fell into each other"


def test_every_close_triplet_repels(trained: Trained) -> None:
    """Three atoms near each other: the repulsion of pairs outdoes whatever the network makes of the third."""
    for names in itertools.combinations_with_replacement(("Au", "Cu"), 3):
        triangles = [
            Atoms(names, np.array([[0, 0, 0], [d, 0, 0], [d / 2, 0.8 * d, 0]])) for d in np.arange(0.5, 1.5, 0.05)
        ]
        assert (np.diff(trained.energies(triangles), axis=0) < 0).all()
