"""One potential, evaluated in several ways: in pieces, from pairs, in single precision, without uncertainty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

from mlip import load_calculator
from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import load_potential
from mlip.potential.ace import committee
from mlip.potential.ace.committee import ACEPotential
from mlip.structures.neighbors import find_pairs
from mlip.testing import make_crystal
from mlip.training.data import CUTOFF_RANGE, NEIGHBOUR_DISTANCES, find_cutoff
from tests.unit.conftest import SMALL

KINDS: dict[str, dict[str, object]] = {
    "one_layer": {},
    "two_layers": {"n_layers": 2},
    "last_layer": {"committee_size": 1, "uncertainty": "last_layer"},
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, alloys: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kind")
    settings = Train(**(SMALL.model_dump() | {"n_steps": 40} | KINDS[request.param]))
    train_committee(TrainingRequest(alloys[:18], alloys[18:], settings, out, seed=3))
    return out


@pytest.fixture
def potential(folder: Path) -> ACEPotential:
    found = load_potential(folder)
    assert isinstance(found, ACEPotential)
    return found


def make_structures() -> list[Atoms]:
    """Mixtures, one element only, a lone atom, a molecule; 40 atoms."""
    cluster = Atoms("CuAu2", [[0, 0, 0], [2.5, 0, 0], [0, 2.6, 0]])
    return [make_crystal(), Atoms("Au"), bulk("Cu"), cluster, make_crystal().repeat((1, 1, 3)), bulk("Au", cubic=True)]


def test_results_do_not_depend_on_chunks(potential: ACEPotential, monkeypatch: pytest.MonkeyPatch) -> None:
    structures = make_structures()
    whole = potential.predict(structures)
    described = potential.describe(structures)
    for rows, pairs in ((7, committee.MAX_PAIRS), (1, 300), (10**6, 1)):
        monkeypatch.setitem(committee.CHUNK_ROWS, "cpu", rows)
        monkeypatch.setattr(committee, "MAX_PAIRS", pairs)
        for a, b in zip(whole, potential.predict(structures), strict=True):
            np.testing.assert_allclose(b.energy_members, a.energy_members, atol=1e-9)
            np.testing.assert_allclose(b.forces_members, a.forces_members, atol=1e-9)
            np.testing.assert_allclose(b.forces_std, a.forces_std, rtol=1e-6)
            assert b.energy_std == pytest.approx(a.energy_std, rel=1e-6, abs=1e-12)
            if a.stress is not None:
                np.testing.assert_allclose(b.stress, a.stress, atol=1e-10)
        for first, second in zip(described, potential.describe(structures), strict=True):
            np.testing.assert_allclose(second, first, atol=1e-9)


def test_pairs_found_by_anyone_give_energies_and_forces(potential: ACEPotential) -> None:
    atoms = make_crystal()
    found = find_pairs(atoms, potential.cutoff)
    species = torch.tensor([potential.species.index(s) for s in atoms.get_chemical_symbols()])
    centers, neighbors, vectors = (torch.from_numpy(v) for v in (found.centers, found.neighbors, found.vectors))
    expected = potential.predict([atoms])[0]
    for members in (True, False):
        result = potential.evaluate_pairs(species, centers, neighbors, vectors, members=members)
        assert result.energies.shape == (potential.n_members, len(atoms))
        np.testing.assert_allclose(result.energies.sum(1), expected.energy_members, atol=1e-9)
        wanted = expected.forces_members if members and potential.last_layer is None else expected.forces[None]
        # Force on k: what pairs with centre k pull, less what pairs with neighbour k do.
        forces = torch.zeros(len(atoms), result.gradients.shape[1], 3, dtype=torch.float64)
        forces.index_add_(0, centers, result.gradients).index_add_(0, neighbors, -result.gradients)
        np.testing.assert_allclose(forces.permute(1, 0, 2), wanted, atol=1e-9)
        strain = np.einsum("ei,ej->ij", vectors.numpy(), result.gradients.mean(1).numpy()) / atoms.get_volume()
        np.testing.assert_allclose(strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], expected.stress, atol=1e-9)


def test_pairs_in_another_order_per_atom_give_the_same(potential: ACEPotential) -> None:
    atoms = make_crystal()
    found = find_pairs(atoms, potential.cutoff)
    order = np.lexsort((np.random.default_rng(0).random(len(found.centers)), found.centers))
    species = torch.tensor([potential.species.index(s) for s in atoms.get_chemical_symbols()])
    arrays = found.centers, found.neighbors, found.vectors
    results = [
        potential.evaluate_pairs(species, *(torch.from_numpy(v[o]) for v in arrays))
        for o in (np.arange(len(order)), order)
    ]
    np.testing.assert_allclose(results[1].energies, results[0].energies, atol=1e-9)
    np.testing.assert_allclose(results[1].gradients, results[0].gradients[order], atol=1e-9)


def test_single_precision_is_near_double(potential: ACEPotential) -> None:
    structures = make_structures()
    single = potential.in_precision("single")
    assert single.in_precision("single") is single
    largest = 0.0
    for exact, rough in zip(potential.predict(structures), single.predict(structures), strict=True):
        # float32 keeps seven digits; the largest intermediate terms are some ten times the result.
        assert rough.energy == pytest.approx(exact.energy, abs=2e-5 * len(exact.forces))
        np.testing.assert_allclose(rough.forces_members, exact.forces_members, atol=1e-4)
        np.testing.assert_allclose(rough.forces_std, exact.forces_std, rtol=1e-3, atol=1e-5)
        if exact.stress is not None:
            np.testing.assert_allclose(rough.stress, exact.stress, atol=1e-5)
        largest = max(largest, float(np.abs(rough.forces - exact.forces).max()))
    assert largest > 1e-12, "single precision was double"
    # Isolated atoms and repulsion stay in float64.
    assert single.predict([Atoms("Au")])[0].energy == pytest.approx(potential.isolated_energies["Au"], rel=1e-15)
    near = Atoms("AuCu", [[0, 0, 0], [0.5, 0, 0]])
    rough, exact = single.predict([near])[0], potential.predict([near])[0]
    assert rough.energy == pytest.approx(exact.energy, abs=1e-4)
    assert exact.energy > 1e3


def test_calculator_without_uncertainty_gives_the_same_forces(folder: Path) -> None:
    atoms = make_crystal()
    full, lean = load_calculator(folder), load_calculator(folder, uncertainty=False)
    atoms.calc = full
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    atoms.calc = lean
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), stress, atol=1e-12)
    assert {"energy_std", "forces_std", "force_uncertainty"} <= set(full.results)
    assert not {"energy_std", "forces_std", "force_uncertainty"} & set(lean.results)
    cluster = Atoms("CuAu", [[0, 0, 0], [2.5, 0, 0]], calculator=lean)
    with pytest.raises(PropertyNotImplementedError):
        cluster.get_stress()


def test_prediction_without_uncertainty_says_so(potential: ACEPotential) -> None:
    lean = potential.predict([make_crystal()], uncertainty=False)[0]
    full = potential.predict([make_crystal()])[0]
    assert lean.forces_members.shape == (1, *full.forces.shape)
    assert np.isnan(lean.forces_std).all()
    assert np.isnan(lean.force_uncertainty).all()


@pytest.mark.parametrize(
    ("atoms", "nearest"),
    [
        (bulk("Si", cubic=True), 2.352),
        (bulk("Al", "fcc", a=4.05, cubic=True), 2.864),
        (bulk("Li", "bcc", a=3.5), 3.031),
        (bulk("Ar", "fcc", a=5.26), 3.72),
    ],
    ids=["Si", "Al", "Li", "Ar"],
)
def test_automatic_cutoff_follows_the_neighbour_distance(atoms: Atoms, nearest: float) -> None:
    wanted = np.clip(NEIGHBOUR_DISTANCES * nearest, *CUTOFF_RANGE)
    assert find_cutoff([atoms]) == pytest.approx(wanted, abs=0.051)
    assert find_cutoff([atoms] * 5 + [bulk("Si")]) == find_cutoff([atoms])


def test_automatic_cutoff_has_limits() -> None:
    low, high = CUTOFF_RANGE
    assert find_cutoff([molecule("CH3CH2OH")]) == low
    assert find_cutoff([Atoms("Xe2", [[0, 0, 0], [4.5, 0, 0]])]) == high
    assert low <= find_cutoff([Atoms("H")]) <= high
    assert low <= find_cutoff([]) <= high


def test_automatic_cutoff_is_trained_with_and_written(alloys: list[Atoms], tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"cutoff": "auto", "n_steps": 3})
    result = train_committee(TrainingRequest(alloys[:8], [], settings, tmp_path / "a", seed=0))
    expected = find_cutoff(alloys[:8])
    assert load_potential(tmp_path / "a").cutoff == expected
    assert result["settings"]["cutoff"] == expected
    # Other data must not change the radius of weights that are trained on.
    wide = [a.copy() for a in alloys[:8]]
    for copy, original in zip(wide, alloys, strict=False):
        copy.set_cell(copy.cell.array * 1.25, scale_atoms=True)
        copy.calc = original.calc
    assert find_cutoff(wide) > expected
    train_committee(
        TrainingRequest(alloys[:8] + alloys[8:10], [], settings, tmp_path / "b", seed=0, previous=tmp_path / "a")
    )
    assert load_potential(tmp_path / "b").cutoff == expected
    with pytest.raises(ValueError, match="auto"):
        _ = settings.radius
