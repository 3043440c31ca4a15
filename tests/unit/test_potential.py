"""The potential obeys physics: symmetries, derivatives, smoothness, limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.special import sph_harm_y

from mlip.potential import Potential, UnknownSpeciesError, load_potential
from mlip.potential.basis import clamp_distance, radial_basis, sphere_quadrature, spherical_harmonics
from mlip.potential.zbl import repulsion

ISOLATED = {"Au": -0.25, "Cu": 0.5}


@pytest.fixture(scope="module")
def potential(potential_folder: Path) -> Potential:
    return load_potential(potential_folder)


@pytest.fixture
def crystal() -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True).repeat((2, 1, 1))
    atoms.numbers[[0, 3, 5]] = 79
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.2, 0], [0, 0, 0.3], [0.1, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.15, seed=5)
    return atoms


def energy(potential: Potential, atoms: Atoms) -> float:
    return potential.predict([atoms])[0].energy


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_orthogonal_transformations_leave_energy_and_turn_forces(
    potential: Potential, crystal: Atoms, determinant: int
) -> None:
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    q *= determinant * np.sign(np.linalg.det(q))
    turned = crystal.copy()
    turned.set_cell(crystal.cell.array @ q.T)
    turned.positions = crystal.positions @ q.T
    before, after = potential.predict([crystal])[0], potential.predict([turned])[0]
    np.testing.assert_allclose(after.energy_members, before.energy_members, atol=1e-8)
    np.testing.assert_allclose(after.forces_members, before.forces_members @ q.T, atol=1e-8)
    np.testing.assert_allclose(after.force_uncertainty, before.force_uncertainty, atol=1e-8)
    full = [
        np.array([[s[0], s[5], s[4]], [s[5], s[1], s[3]], [s[4], s[3], s[2]]]) for s in (before.stress, after.stress)
    ]
    np.testing.assert_allclose(full[1], q @ full[0] @ q.T, atol=1e-8)


def test_translation_wrapping_and_permutation_leave_the_prediction(potential: Potential, crystal: Atoms) -> None:
    before = potential.predict([crystal])[0]
    moved = crystal.copy()
    moved.positions += [1.3, -20.1, 7.7]
    moved.wrap()
    order = np.random.default_rng(1).permutation(len(crystal))
    after = potential.predict([moved[order]])[0]
    np.testing.assert_allclose(after.energy_members, before.energy_members, atol=1e-8)
    np.testing.assert_allclose(after.forces_members, before.forces_members[:, order], atol=1e-8)


def test_forces_are_the_negative_gradient_for_every_member(potential: Potential, crystal: Atoms) -> None:
    forces = potential.predict([crystal])[0].forces_members
    step = 1e-4
    for atom, axis in [(0, 0), (1, 2), (5, 1)]:
        members = []
        for sign in (1, -1):
            shifted = crystal.copy()
            shifted.positions[atom, axis] += sign * step
            members.append(potential.predict([shifted])[0].energy_members)
        np.testing.assert_allclose(forces[:, atom, axis], (members[1] - members[0]) / (2 * step), atol=2e-6)


def test_stress_is_the_derivative_with_respect_to_strain(potential: Potential, crystal: Atoms) -> None:
    stress = potential.predict([crystal])[0].stress
    step = 1e-5
    for k, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += 0.5 * sign * step
            strain[j, i] += 0.5 * sign * step
            strained = crystal.copy()
            strained.set_cell(crystal.cell.array @ strain, scale_atoms=True)
            energies.append(energy(potential, strained))
        expected = (energies[0] - energies[1]) / (2 * step) / crystal.get_volume()
        assert stress[k] == pytest.approx(expected, abs=2e-7)


def test_energy_force_and_curvature_are_continuous_at_the_cutoff(potential: Potential) -> None:
    def pair(distance: float) -> np.ndarray:
        forces = potential.predict([Atoms("CuAuCu", [[0, 0, 0], [0, 2.6, 0], [distance, 0, 0]])])[0].forces
        return forces[2, 0]

    cutoff = potential.cutoff
    h = 1e-3
    outside = np.array([pair(cutoff + k * h) for k in range(3)])
    inside = np.array([pair(cutoff - k * h) for k in range(1, 5)])
    reach = abs(pair(cutoff - 1.0))
    assert np.ptp(outside) < 1e-12
    # With two continuous derivatives the force vanishes quadratically: ratio 4 at twice the distance.
    deviation = np.abs(inside - outside[0])
    assert deviation[3] < 1e-4 * max(reach, 1e-3)
    assert deviation[3] / deviation[1] == pytest.approx(4.0, rel=0.1)


def test_supercell_is_extensive(potential: Potential, crystal: Atoms) -> None:
    single, double = potential.predict([crystal, crystal.repeat((1, 2, 2))])
    np.testing.assert_allclose(double.energy_members, 4 * single.energy_members, atol=1e-7)
    np.testing.assert_allclose(double.forces[: len(crystal)], single.forces, atol=1e-8)
    np.testing.assert_allclose(double.stress, single.stress, atol=1e-9)


def test_far_fragments_add_up(potential: Potential) -> None:
    first, second = Atoms("CuAu", [[0, 0, 0], [2.5, 0, 0]]), Atoms("Cu3", [[0, 0, 0], [2.4, 0, 0], [0, 2.6, 0]])
    far = second.copy()
    far.positions += 40.0
    energies = [energy(potential, a) for a in (first, second, first + far)]
    assert energies[2] == pytest.approx(energies[0] + energies[1], abs=1e-9)


def test_batch_agrees_with_single_structures(potential: Potential, crystal: Atoms) -> None:
    structures = [crystal, Atoms("Au"), bulk("Cu"), Atoms("CuAu", [[0, 0, 0], [2.2, 0, 0]])]
    for together, structure in zip(potential.predict(structures), structures, strict=True):
        alone = potential.predict([structure])[0]
        np.testing.assert_allclose(together.energy_members, alone.energy_members, atol=1e-9)
        np.testing.assert_allclose(together.forces_members, alone.forces_members, atol=1e-9)
        assert (together.stress is None) == (alone.stress is None)


@pytest.mark.parametrize("symbol", ["Cu", "Au"])
def test_isolated_atom_has_exactly_its_energy(potential: Potential, symbol: str) -> None:
    prediction = potential.predict([Atoms(symbol)])[0]
    assert prediction.energy == ISOLATED[symbol]
    assert prediction.energy_std == 0.0
    assert not prediction.forces.any()
    assert prediction.stress is None


@pytest.mark.parametrize("pair", ["Cu2", "CuAu", "Au2"])
def test_atoms_repel_ever_more_at_short_distance(potential: Potential, pair: str) -> None:
    distances = np.arange(1.6, 0.3, -0.05)
    energies = np.array([energy(potential, Atoms(pair, [[0, 0, 0], [d, 0, 0]])) for d in distances])
    assert (np.diff(energies) > 0).all()
    assert energies[-1] > 500.0


def test_compressed_crystal_has_no_hole(potential: Potential, crystal: Atoms) -> None:
    scales = np.arange(0.85, 0.45, -0.02)
    energies = []
    for scale in scales:
        squeezed = crystal.copy()
        squeezed.set_cell(crystal.cell.array * scale, scale_atoms=True)
        energies.append(energy(potential, squeezed))
    assert (np.diff(energies) > 0).all()


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, True), (False, False, False)])
def test_open_directions_equal_a_large_vacuum(potential: Potential, crystal: Atoms, pbc: tuple[bool, ...]) -> None:
    cell = np.diag([7.5, 7.5, 7.5])
    open_atoms = Atoms(crystal.numbers, crystal.positions, cell=cell, pbc=pbc)
    padded = open_atoms.copy()
    padded.set_cell(np.diag([7.5 if periodic else 60.0 for periodic in pbc]))
    padded.pbc = True
    first, second = potential.predict([open_atoms, padded])
    assert first.energy == pytest.approx(second.energy, abs=1e-9)
    np.testing.assert_allclose(first.forces, second.forces, atol=1e-9)
    assert first.stress is None
    assert second.stress is not None


def test_partial_periodicity_needs_no_third_cell_vector(potential: Potential) -> None:
    slab = Atoms(
        "CuAu", [[0, 0, 0], [1.8, 1.8, 1.0]], cell=[[3.7, 0, 0], [0, 3.7, 0], [0, 0, 0]], pbc=(True, True, False)
    )
    taller = slab.copy()
    taller.set_cell([[3.7, 0, 0], [0, 3.7, 0], [0, 0, 30.0]])
    assert energy(potential, slab) == pytest.approx(energy(potential, taller), abs=1e-10)


def test_descriptors_are_invariant_and_tell_environments_apart(potential: Potential, crystal: Atoms) -> None:
    q = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned = crystal.copy()
    turned.set_cell(crystal.cell.array @ q.T)
    turned.positions = crystal.positions @ q.T
    other = crystal.copy()
    other.rattle(0.1, seed=9)
    first, second, third = potential.describe([crystal, turned, other])
    assert first.shape[0] == len(crystal)
    np.testing.assert_allclose(first, second, atol=1e-8)
    assert np.linalg.norm(first - third, axis=1).min() > 0.02


def test_members_disagree_more_far_from_the_data(potential: Potential, alloys: list[Atoms]) -> None:
    known = [p.force_uncertainty.max() for p in potential.predict(alloys)]
    strange = Atoms("Au4", [[0, 0, 0], [2.3, 0, 0], [0, 2.3, 0], [0, 0, 2.3]])
    assert potential.predict([strange])[0].force_uncertainty.max() > 3 * np.median(known)


def test_unknown_species_is_named(potential: Potential) -> None:
    with pytest.raises(UnknownSpeciesError, match=r"Fe.*Au, Cu"):
        potential.predict([Atoms("CuFe", [[0, 0, 0], [2.5, 0, 0]])])


def test_broken_positions_are_refused(potential: Potential) -> None:
    with pytest.raises(ValueError, match="NaN"):
        potential.predict([Atoms("Cu2", [[0, 0, 0], [np.nan, 0, 0]])])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.gpu
def test_cuda_agrees_with_cpu(potential_folder: Path, crystal: Atoms) -> None:
    cpu, gpu = (load_potential(potential_folder, device).predict([crystal])[0] for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.energy_members, cpu.energy_members, atol=1e-9)
    np.testing.assert_allclose(gpu.forces_members, cpu.forces_members, atol=1e-9)


def test_harmonics_match_scipy_and_are_orthonormal() -> None:
    points, weights = sphere_quadrature(8)
    values = spherical_harmonics(torch.from_numpy(points.T[None].copy()), 4)[0][0].numpy().T
    np.testing.assert_allclose((values.T * weights) @ values, np.eye(25), atol=1e-13)
    theta, phi = np.arccos(points[:, 2]), np.arctan2(points[:, 1], points[:, 0])
    for degree in range(5):
        for order in range(-degree, degree + 1):
            complex_value = (-1.0) ** order * sph_harm_y(degree, abs(order), theta, phi)
            part = complex_value.imag if order < 0 else complex_value.real
            expected = part * (np.sqrt(2) if order else 1.0)
            np.testing.assert_allclose(
                values[:, degree * (degree + 1) + order] * np.sign(values[:, 0]), expected, atol=1e-12
            )


def _slope(function: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], r: torch.Tensor) -> torch.Tensor:
    h = 1e-6
    return (function(r + h)[0] - function(r - h)[0]) / (2 * h)


def test_radial_slopes_match_finite_differences() -> None:
    r = torch.linspace(0.4, 4.95, 40, dtype=torch.float64)
    inner, charge = torch.full_like(r, 2.0), torch.full_like(r, 14.0)
    for function in (
        lambda x: clamp_distance(x, inner),
        lambda x: radial_basis(x, inner, 5.0, 6),
        lambda x: tuple(
            t / (1 + repulsion(r, charge, charge, inner + 1)[0]) for t in repulsion(x, charge, charge, inner + 1)
        ),
    ):
        torch.testing.assert_close(function(r)[1], _slope(function, r), atol=1e-6, rtol=1e-5)


def test_distances_below_the_data_are_clamped() -> None:
    r = torch.tensor([0.1, 1.0, 1.9, 2.0, 2.5], dtype=torch.float64)
    effective, _ = clamp_distance(r, torch.full_like(r, 2.0))
    assert effective.min() >= 2.0 * (1 - 0.12)
    torch.testing.assert_close(effective[3:], r[3:])
