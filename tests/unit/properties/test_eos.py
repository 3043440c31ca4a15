"""Equation of state: recovered parameters, identities, literature values."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT

from mlip.properties.eos import EquationOfState, compute_eos, fit_eos
from mlip.properties.symmetry import PropertyError, lattice_constant

SCAN = np.linspace(-0.04, 0.04, 9)


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
