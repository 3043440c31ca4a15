"""Correlation functions, error propagation and finite-size correction against exact results."""

import math

import numpy as np
import pytest
from ase import Atoms, units
from scipy.special import erfc

from mlip.studies.diffusion.finite_size import MPA_S, XI_CUBIC, correct_size
from mlip.studies.diffusion.propagation import MASS, Langevin, allow_force_error, correlation_time
from mlip.studies.diffusion.transport import (
    Curves,
    DiffusionError,
    Estimate,
    average_autocorrelation,
    estimate_diffusion,
    estimate_viscosity,
    find_plateau,
    remove_drift,
    running_integral,
    shear_series,
    square_displacement,
)

ARGON = Langevin(mass=40.0, temperature=120.0, friction=0.005, timestep=1.0)


def ou_curves(n_blocks, n_particles, n_steps, timestep, rng, *, every=1):
    """Curves of independent Langevin particles; positions by the trapezium rule."""
    particle = Langevin(40.0, 120.0, 0.005, timestep)
    vacf, msd = [], []
    for _ in range(n_blocks):
        velocities, _ = particle.simulate(3 * n_particles, n_steps, rng)
        positions = running_integral(velocities.T, timestep).T
        velocities, positions = (x[::every].reshape(-1, n_particles, 3) for x in (velocities, positions))
        n_lags = len(velocities) // 2
        vacf.append(average_autocorrelation(velocities, n_lags))
        msd.append(square_displacement(positions, n_lags))
    return particle, Curves(timestep * every, np.array(vacf), np.array(msd))


def test_autocorrelation_and_displacement_equal_their_definitions():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(37, 5, 3)).cumsum(0) + 1e3
    lags = range(20)
    direct = [np.mean([np.mean(x[s] * x[s + k]) for s in range(37 - k)]) for k in lags]
    moved = [np.mean([((x[s + k] - x[s]) ** 2).sum(1).mean() for s in range(37 - k)]) for k in lags]
    assert average_autocorrelation(x, 20) == pytest.approx(direct, rel=1e-10)
    assert square_displacement(x, 20) == pytest.approx(moved, rel=1e-9, abs=1e-9)
    with pytest.raises(DiffusionError, match="38 lags"):
        average_autocorrelation(x, 38)


def test_displacement_of_free_flight_is_quadratic():
    velocity = np.array([[0.01, -0.02, 0.03]])
    positions = np.arange(50)[:, None, None] * velocity
    assert square_displacement(positions, 25) == pytest.approx(np.arange(25) ** 2 * 0.0014, rel=1e-9)


def test_drift_is_removed_and_costs_one_part_in_n():
    rng = np.random.default_rng(2)
    masses = np.array([1.0, 3.0, 5.0, 7.0])
    x = rng.normal(size=(4000, 4, 3))
    wind = np.array([3.0, -2.0, 1.0])
    still = remove_drift(x, masses)
    assert remove_drift(x + wind, masses) == pytest.approx(still, abs=1e-12)
    assert np.einsum("sax,a->sx", still, masses) == pytest.approx(0, abs=1e-12)
    equal = remove_drift(x, np.ones(4))
    assert (equal**2).mean() == pytest.approx(1 - 1 / 4, rel=0.03)


def test_langevin_particles_diffuse_as_they_must_by_both_routes():
    particle, curves = ou_curves(8, 30, 16_000, 2.0, np.random.default_rng(3), every=5)
    found = estimate_diffusion(curves)
    assert found.decayed
    assert 400 < found.plateau[0] < 1500  # exp(-γt) is 2 % at 782 fs
    for estimate in (found.green_kubo, found.einstein):
        assert estimate.error < 0.05 * particle.diffusion
        assert abs(estimate.value - particle.diffusion) < 3 * estimate.error
    assert found.agree
    assert curves.vacf[:, 0].mean() == pytest.approx(particle.kt / (40 * MASS), rel=0.03)


def test_errors_are_the_scatter_of_repeated_measurements():
    rng = np.random.default_rng(4)
    repeated = [estimate_diffusion(ou_curves(6, 10, 3000, 5.0, rng)[1], window=1000.0) for _ in range(25)]
    for name in ("green_kubo", "einstein"):
        scatter = np.std([getattr(r, name).value for r in repeated], ddof=1)
        stated = np.sqrt(np.mean([getattr(r, name).error ** 2 for r in repeated]))
        assert 0.6 < stated / scatter < 1.6  # the scatter itself is known to 14 %


def test_disagreement_is_said():
    _, curves = ou_curves(6, 30, 4000, 5.0, np.random.default_rng(5))
    # Positions that lost a box length now and then (wrapped, say) no longer belong to the velocities.
    broken = Curves(curves.interval, curves.vacf, 2 * curves.msd)
    assert estimate_diffusion(curves).agree
    assert not estimate_diffusion(broken).agree


def test_undecayed_velocities_are_said():
    lags = np.arange(200)
    slow = np.exp(-lags / 500) * np.array([[1.0], [1.01], [0.99]])
    assert find_plateau(running_integral(slow, 1.0), 1.0) is None
    found = estimate_diffusion(Curves(1.0, slow, np.tile(lags**2.0, (3, 1))))
    assert not found.decayed
    ringing = np.cos(lags / 5) * np.array([[1.0], [1.01], [0.99]])  # a crystal: the integral never settles
    assert find_plateau(running_integral(ringing, 1.0), 1.0) is None
    fast = np.exp(-lags / 5) * np.array([[1.0], [1.001], [0.999]])
    # e(1 - e) = 0.02 (1 - e) with e = exp(-t/10 fs): from there on 2 % are missing.
    assert find_plateau(running_integral(fast, 2.0), 2.0) == pytest.approx(10 * math.log(50), abs=2)
    with pytest.raises(DiffusionError, match="does not fit"):
        estimate_diffusion(Curves(1.0, fast, fast), window=150.0)
    with pytest.raises(DiffusionError, match="two independent blocks"):
        estimate_diffusion(Curves(1.0, fast[:1], fast[:1]))


def test_interval_of_blocks_is_students():
    low, high = Estimate(np.array([1.0, 2.0, 3.0, 4.0])).interval()
    assert (low + high) / 2 == 2.5
    assert high - 2.5 == pytest.approx(3.182446 * math.sqrt(5 / 3 / 4), rel=1e-6)


def test_viscosity_of_exponentially_relaxing_stress():
    kt, volume, modulus, tau, interval = 0.01, 4000.0, 1e-3, 150.0, 5.0
    rng = np.random.default_rng(6)
    decay = math.exp(-interval / tau)
    spread = math.sqrt(modulus * kt / volume)
    blocks = []
    for _ in range(10):
        noise = rng.normal(0, spread, (4000, 5))
        series = np.zeros_like(noise)
        for k in range(1, len(noise)):
            series[k] = decay * series[k - 1] + math.sqrt(1 - decay**2) * noise[k]
        blocks.append(average_autocorrelation(series[400:], 600))
    found, _, decayed = estimate_viscosity(np.array(blocks), interval, volume=volume, kt=kt)
    assert decayed
    assert found.error < 0.12 * modulus * tau
    assert abs(found.value - modulus * tau) < 3 * found.error


def test_shear_components_have_equal_variance_for_an_isotropic_stress():
    rng = np.random.default_rng(7)
    # Isotropic: var(xx - yy) = 4 var(xy); with uncorrelated xx, yy, zz of variance 2 var(xy).
    stress = rng.normal(size=(20_000, 6)) * np.array([math.sqrt(2)] * 3 + [1.0] * 3)
    assert (shear_series(stress) ** 2).mean(0) == pytest.approx(np.ones(5), rel=0.06)


def test_argon_needs_the_textbook_force_error():
    assert ARGON.force_error(0.02) == pytest.approx(0.092596, abs=2e-6)
    assert Langevin(39.948, 120.0, 0.005, 1.0).force_error(0.02) == pytest.approx(0.092536, abs=2e-6)
    assert ARGON.relative_error(0.5 * ARGON.force_error(0.08)) == pytest.approx(0.02)
    assert [ARGON.force_error(0.02, tau) for tau in (20, 100)] == pytest.approx([0.0146, 0.0066], abs=6e-5)


def test_discrete_form_matches_the_check_values_and_the_continuum():
    found = [ARGON.relative_error_discrete(k * 0.0926) for k in (1, 2, 4)]
    assert found == pytest.approx([0.0201, 0.0804, 0.3216], abs=6e-5)
    fine = Langevin(40.0, 120.0, 0.005, 0.01)
    slow = math.exp(-0.01 / 50)
    assert fine.relative_error_discrete(0.03, slow) == pytest.approx(fine.relative_error(0.03, 50.0), rel=1e-3)
    with pytest.raises(DiffusionError, match="persistence"):
        ARGON.relative_error_discrete(0.1, 1.0)


@pytest.mark.parametrize(
    ("seed", "factor", "tau"), [(0, 1, None), (1, 1, None), (2, 2, None), (3, 1, 20.0), (4, 1, 20.0), (5, 0.5, 100.0)]
)
def test_simulated_errors_add_what_the_formula_says(seed, factor, tau):
    rng = np.random.default_rng(seed)
    sigma = factor * 0.092596 if tau is None else factor * 2 * ARGON.force_error(0.02, tau)
    persistence = 0.0 if tau is None else math.exp(-1 / tau)
    thermal, extra = ARGON.simulate(600, 24_000, rng, sigma=sigma, persistence=persistence)
    # Displacements over 4 ps (20/γ), from 2 ps on.
    moved = [v[2000:22_000].reshape(5, 4000, -1).sum(1) for v in (thermal, extra)]
    expected = ARGON.relative_error_discrete(sigma, persistence)
    assert (moved[1] ** 2).mean() / (moved[0] ** 2).mean() == pytest.approx(expected, rel=0.12)
    # The whole change, the cross term of the two included: three standard errors of 2 sqrt(rel/n).
    change = ((moved[0] + moved[1]) ** 2).mean() / (moved[0] ** 2).mean() - 1
    assert abs(change - expected) < 3 * 2 * math.sqrt(expected / 3000) + 0.1 * expected
    if tau is None:
        assert (extra[2000:] ** 2).mean() / (thermal[2000:] ** 2).mean() == pytest.approx(expected, rel=0.05)


def test_white_noise_formula_fails_for_lasting_errors():
    _, extra = ARGON.simulate(400, 20_000, np.random.default_rng(8), sigma=0.092596, persistence=math.exp(-1 / 20))
    spread = (extra[2000:18_000].reshape(4, 4000, -1).sum(1) ** 2).mean()
    added = spread / (2 * ARGON.diffusion * 4000)
    assert added > 20 * 0.02  # the textbook says 0.02


def test_correlation_time_of_known_errors():
    rng = np.random.default_rng(9)
    n_samples, interval = 4000, 5.0
    for tau in (20.0, 100.0):
        keep = math.exp(-interval / tau)
        x = np.zeros((n_samples, 30, 3))
        for k in range(1, n_samples):
            x[k] = keep * x[k - 1] + math.sqrt(1 - keep**2) * rng.normal(size=(30, 3))
        discrete = interval * (0.5 + keep / (1 - keep))
        assert correlation_time(x[100:], interval) == pytest.approx(discrete, rel=0.1)
    assert correlation_time(rng.normal(size=(500, 40, 3)), 4.0) == pytest.approx(2.0, rel=0.15)
    with pytest.raises(DiffusionError, match="zero"):
        correlation_time(np.zeros((10, 2, 3)), 1.0)


def test_target_does_not_let_a_potential_without_forces_pass():
    found = allow_force_error(ARGON, 0.02, correlation_time=20.0, force_rms=0.0458, max_ratio=0.3)
    assert found.textbook == pytest.approx(0.0926, abs=1e-4)
    assert found.textbook_is_empty
    assert found.target == pytest.approx(0.3 * 0.0458)  # below the correlated 0.0146
    slow = allow_force_error(ARGON, 0.02, correlation_time=100.0, force_rms=0.0458, max_ratio=0.3)
    assert slow.target == slow.correlated == pytest.approx(0.0066, abs=6e-5)


def test_particle_of_a_diffusion_coefficient_is_the_inverse():
    again = Langevin.of_diffusion(40.0, 120.0, ARGON.diffusion, 1.0)
    assert again.friction == pytest.approx(0.005)
    with pytest.raises(DiffusionError, match="solid"):
        Langevin.of_diffusion(40.0, 120.0, 0.0, 1.0)


def test_xi_is_the_madelung_constant_of_a_cubic_lattice_of_charges():
    # Ewald's sum for a unit charge in a unit cube with a uniform background; energy = -ξ/2.
    alpha, reach = 2.5, np.arange(-6, 7)
    n = np.stack(np.meshgrid(reach, reach, reach), -1).reshape(-1, 3)
    square = (n**2).sum(1)
    square = square[square > 0]
    r = np.sqrt(square)
    real = (erfc(alpha * r) / r).sum()
    k = 4 * math.pi**2 * square
    reciprocal = (4 * math.pi / k * np.exp(-k / (4 * alpha**2))).sum()
    potential = real + reciprocal - math.pi / alpha**2 - 2 * alpha / math.sqrt(math.pi)
    assert -potential == pytest.approx(XI_CUBIC, abs=1e-6)


def test_correction_has_the_units_of_si():
    cube = Atoms("Ar", cell=[20.0] * 3, pbc=True)
    found = correct_size(cube, units.kB * 100, 0.2, 0.02, "given")
    si = XI_CUBIC * 1.380649e-23 * 100 / (6 * math.pi * 0.2e-3 * 20e-10)  # m²/s
    assert found.value == pytest.approx(si * 1e20 / 1e15, rel=1e-6)
    assert found.error == pytest.approx(found.value / 10)
    assert pytest.approx(6.2415, abs=1e-4) == MPA_S
    assert correct_size(Atoms("Ar", cell=[20, 20, 25], pbc=True), 0.01, 0.2, 0.0, "given").value is None
    assert correct_size(cube, 0.01, -0.2, 0.0, "stress").value is None
