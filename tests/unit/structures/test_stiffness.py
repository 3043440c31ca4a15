"""Displacements of molecules by their model Hessian."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from mlip.structures.stiffness import _Constants, _modes, displace_along_mode, displace_internally


def free(atoms: Atoms) -> np.ndarray:
    return np.ones((len(atoms), 3), dtype=bool)


@pytest.mark.parametrize(("name", "n_modes"), [("H2", 1), ("CO2", 4), ("H2O", 3), ("C2H2", 7), ("CH3CH2OH", 21)])
def test_a_molecule_has_its_modes_of_vibration_and_no_others(name: str, n_modes: int) -> None:
    """3N - 6 of them, 3N - 5 on a line; none without stiffness, linear bends included."""
    atoms = molecule(name)
    stiffness, _ = _modes(atoms.positions, _Constants(atoms), free(atoms))
    assert len(stiffness) == n_modes
    assert stiffness.min() > 0.1  # eV/Å²


def test_a_bond_is_as_stiff_as_the_model_says() -> None:
    """H2: 0.45 exp(1.35² - r²) hartree/bohr², twice that along the unit vector in which both atoms move."""
    atoms = Atoms("H2", positions=[(0, 0, 0), (0, 0, 0.76)])
    stiffness, _ = _modes(atoms.positions, _Constants(atoms), free(atoms))
    bohr = 0.76 / 0.52917721
    assert stiffness[0] == pytest.approx(2 * 0.45 * np.exp(1.35**2 - bohr**2) * 27.211386 / 0.52917721**2, rel=1e-5)


def test_stiff_bonds_move_little_and_groups_turn() -> None:
    ethanol = molecule("CH3CH2OH")
    bonds = _Constants(ethanol).bonds.T
    rng = np.random.default_rng(0)
    stretched, moved = [], []
    for _ in range(30):
        displaced = ethanol.copy()
        displace_internally(displaced, free(ethanol), 600, rng)
        change = displaced.get_all_distances() - ethanol.get_all_distances()
        stretched.append(change[tuple(bonds)])
        moved.append(np.abs(displaced.positions - ethanol.positions).max())
    assert 0.02 < np.std(stretched) < 0.05
    assert np.abs(stretched).max() < 0.15
    assert np.mean(moved) > 3 * np.std(stretched)


def test_colder_is_nearer_and_fixed_atoms_stay() -> None:
    water = molecule("H2O")
    moving = free(water)
    moving[1] = False
    spread = {}
    for temperature in (50, 800):
        rng, found = np.random.default_rng(1), []
        for _ in range(20):
            displaced = water.copy()
            displace_internally(displaced, moving, temperature, rng)
            assert np.array_equal(displaced.positions[1], water.positions[1])
            found.append(displaced.get_distance(0, 1))
        spread[temperature] = np.std(found)
    assert spread[800] / spread[50] == pytest.approx(4, rel=0.5)


def test_a_mode_moves_as_far_as_asked_and_keeps_bonds() -> None:
    ethanol = molecule("CH3CH2OH")
    bonds = tuple(_Constants(ethanol).bonds.T)
    rng, farthest = np.random.default_rng(0), []
    for _ in range(20):
        displaced = ethanol.copy()
        displace_along_mode(displaced, free(ethanol), 0.3, 600, rng)
        farthest.append(np.linalg.norm(displaced.positions - ethanol.positions, axis=1).max())
        assert np.abs(displaced.get_all_distances() - ethanol.get_all_distances())[bonds].max() < 0.12
    assert 0.2 < max(farthest) <= 0.301


def test_a_stiff_mode_is_not_followed_beyond_its_thermal_tail() -> None:
    """H2 has one mode: 2.5 sqrt(kT/k) along the unit vector, shared by two atoms, changes the bond by sqrt(2) of it."""
    hydrogen = Atoms("H2", positions=[(0, 0, 0), (0, 0, 0.76)])
    (stiffness,), _ = _modes(hydrogen.positions, _Constants(hydrogen), free(hydrogen))
    displaced = hydrogen.copy()
    displace_along_mode(displaced, free(hydrogen), 0.5, 600, np.random.default_rng(0))
    expected = 2.5 * np.sqrt(8.617333e-5 * 600 / stiffness) * np.sqrt(2)
    assert abs(displaced.get_distance(0, 1) - 0.76) == pytest.approx(expected, rel=1e-3)
