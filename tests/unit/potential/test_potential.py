"""Parts of the potential and its answers to odd questions; the laws of physics are in ``test_physics.py``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.special import sph_harm_y

from mlip.potential import Potential, UnknownSpeciesError, load_potential
from mlip.potential.ace.basis import clamp_distance, radial_basis, sphere_quadrature, spherical_harmonics
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.zbl import repulsion
from mlip.testing import make_crystal


@pytest.fixture(scope="module")
def potential(potential_folder: Path) -> Potential:
    return load_potential(potential_folder)


@pytest.fixture
def crystal() -> Atoms:
    return make_crystal()


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


def test_what_the_last_layer_sees_is_invariant_and_gives_the_energy(potential: Potential, crystal: Atoms) -> None:
    q = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    order = np.random.default_rng(3).permutation(len(crystal))
    turned = crystal[order]
    turned.set_cell(crystal.cell.array @ q.T)
    turned.positions = turned.positions @ q.T
    first, second = potential.embed([crystal, turned])
    assert first.dtype == np.float32
    assert len(first) == len(crystal)
    np.testing.assert_allclose(first[order], second, atol=1e-5)
    assert isinstance(potential, ACEPotential)
    _, pairs, evaluation = next(potential.last_features([crystal]))
    assert evaluation.last is not None
    np.testing.assert_allclose(evaluation.last[0].numpy(), first, atol=1e-6)
    rises = [potential.network.output[:, 0, :, 0], potential.network.linear[:, 0, :, 0]]
    weights = torch.cat(rises, 1)[pairs.species]
    shift = potential.network.shift[pairs.species]
    energies = evaluation.energies[0] - potential._reference[pairs.species]
    # No pair is near enough for the repulsion, and no atom so lone that its energy fades.
    np.testing.assert_allclose((weights * torch.from_numpy(first)).sum(1) + shift, energies, atol=1e-3)


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
