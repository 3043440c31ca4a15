"""Equation of state and elastic constants: recovered parameters, identities, literature values."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.tersoff import Tersoff, TersoffParameters

from mlip.properties import EquationOfState, PropertyError, compute_eos, elastic_cubic, fit_eos, lattice_constant

SCAN = np.linspace(-0.04, 0.04, 9)


def tersoff_silicon() -> Tersoff:
    """Tersoff's third silicon potential, Phys. Rev. B 38, 9902 (1988)."""
    parameters = TersoffParameters(
        m=3.0, gamma=1.0, lambda3=0.0, c=1.0039e5, d=16.217, h=-0.59825, n=0.78734, beta=1.1e-6,
        lambda2=1.73222, B=471.18, R=2.85, D=0.15, lambda1=2.4799, A=1830.8,
    )  # fmt: skip
    return Tersoff({("Si", "Si", "Si"): parameters})


def at_equilibrium(structure: Atoms, calculator) -> tuple[Atoms, EquationOfState]:
    eos = fit_eos(*compute_eos(structure, calculator, SCAN))
    relaxed = structure.copy()
    relaxed.set_cell(structure.cell.array * (eos.v0 / structure.get_volume()) ** (1 / 3), scale_atoms=True)
    return relaxed, eos


@pytest.mark.parametrize("b0_prime", [3.2, 4.0, 5.1])
def test_fit_recovers_birch_murnaghan_written_out(b0_prime):
    v0, e0, b0 = 40.9, -10.8, 88.0
    volumes = v0 * (1 + np.linspace(-0.08, 0.1, 7))
    u = (v0 / volumes) ** (2 / 3)
    energies = e0 + 9 * v0 * b0 * units.GPa / 16 * ((u - 1) ** 3 * b0_prime + (u - 1) ** 2 * (6 - 4 * u))
    eos = fit_eos(volumes, energies)
    assert (eos.v0, eos.e0, eos.b0, eos.b0_prime) == pytest.approx((v0, e0, b0, b0_prime), rel=1e-7)
    assert eos.rmse < 1e-9
    assert eos.energy(volumes) == pytest.approx(energies, abs=1e-9)


def test_fit_rmse_is_the_noise():
    eos = EquationOfState(v0=20.0, e0=-5.0, b0=100.0, b0_prime=4.2, rmse=0.0)
    volumes = np.linspace(18, 22, 400)
    noise = np.random.default_rng(1).normal(0, 1e-3, 400)
    fitted = fit_eos(volumes, eos.energy(volumes) + noise)
    assert fitted.rmse == pytest.approx(1e-3, rel=0.15)
    assert fitted.v0 == pytest.approx(20.0, rel=1e-3)


@pytest.mark.parametrize(
    ("volumes", "energies", "message"),
    [
        ([1, 2, 3, 4], [1, 0, 0, 1], "at least 5"),
        ([1, 1, 2, 2, 3], [1, 1, 0, 0, 1], "at least 5"),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1.5], "no energy minimum"),
        ([18, 19, 20, 21, 22], [0, 1, 2, 1, 0], "no energy minimum"),
        ([1, 2, 3, 4, 5], [1, 0, np.nan, 0, 1], "finite"),
        ([1, 2, 3, 4, 5], [1, 0, 1], "one energy per volume"),
    ],
)
def test_unusable_scans_are_refused(volumes, energies, message):
    with pytest.raises(PropertyError, match=message):
        fit_eos(volumes, energies)


def test_copper_eos_agrees_with_its_numeric_derivatives():
    _, eos = at_equilibrium(bulk("Cu"), EMT())

    def energy(volume: float) -> float:
        copper = bulk("Cu", a=(4 * volume) ** (1 / 3))
        copper.calc = EMT()
        return copper.get_potential_energy()

    step = 0.02 * eos.v0
    low, middle, high = energy(eos.v0 - step), energy(eos.v0), energy(eos.v0 + step)
    assert abs((high - low) / (2 * step)) < 2e-3  # eV/Å³: the pressure vanishes at v0
    assert eos.v0 * (high - 2 * middle + low) / step**2 / units.GPa == pytest.approx(eos.b0, rel=0.01)


@pytest.mark.parametrize("options", [{"cubic": False}, {"cubic": True}, {"cubic": True, "repeat": 2}])
def test_lattice_constant_is_the_same_for_every_cell(options):
    repeat = options.pop("repeat", 1)
    silicon = bulk("Si", a=5.43, **options).repeat(repeat)
    assert lattice_constant(silicon, silicon.get_volume()) == pytest.approx(5.43, rel=1e-9)
    assert lattice_constant(silicon, 1.1 * silicon.get_volume()) == pytest.approx(5.43 * 1.1 ** (1 / 3), rel=1e-9)


def test_lattice_constant_needs_a_crystal():
    with pytest.raises(PropertyError, match="periodic"):
        lattice_constant(Atoms("Cu"), 10.0)


@pytest.mark.parametrize("cubic", [False, True])
def test_copper_elastic_constants_obey_the_bulk_modulus_identity(cubic):
    copper, eos = at_equilibrium(bulk("Cu", cubic=cubic), EMT())
    elastic = elastic_cubic(copper, EMT())
    assert elastic.bulk_modulus == pytest.approx(eos.b0, rel=0.01)
    assert elastic.c44_relaxed == pytest.approx(elastic.c44_clamped, rel=1e-6)  # every atom is a symmetry centre
    assert elastic.c11 > elastic.c12 > 0
    assert elastic.kleinman_zeta is None


def test_silicon_elastic_constants_match_the_published_potential():
    silicon, eos = at_equilibrium(bulk("Si"), tersoff_silicon())
    elastic = elastic_cubic(silicon, tersoff_silicon())
    assert lattice_constant(silicon, eos.v0) == pytest.approx(5.432, abs=0.001)
    # published with the potential: 142.5, 75.4, 69.0 and 118.8 GPa
    assert (elastic.c11, elastic.c12) == pytest.approx((143, 75), abs=1)
    assert (elastic.c44_relaxed, elastic.c44_clamped) == pytest.approx((69, 119), abs=1)
    assert elastic.kleinman_zeta == pytest.approx(0.67, abs=0.01)
    assert elastic_cubic(silicon, tersoff_silicon(), relax=False).c44_relaxed is None


def test_elastic_constants_refuse_what_is_not_cubic_or_not_aligned():
    with pytest.raises(PropertyError, match="not cubic"):
        elastic_cubic(bulk("Mg"), EMT())
    turned = bulk("Cu", cubic=True)
    turned.rotate(30, "z", rotate_cell=True)
    with pytest.raises(PropertyError, match="along x, y and z"):
        elastic_cubic(turned, EMT())
