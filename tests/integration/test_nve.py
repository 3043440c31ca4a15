"""Molecular dynamics without a thermostat conserves the energy, in both precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet

from mlip import load_calculator
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Precision
from mlip.potential.calculator import MLIPCalculator
from tests.unit.conftest import SMALL, label_emt

TEMPERATURE = 500.0
DRIFT = 2e-5
"""eV per atom and picosecond: at this rate a crystal would heat up by 1 K in 13 ps (3 k_B per atom).

The integrator is symplectic, so that a conservative force gives no drift at all, only fluctuations in step^2;
float32 forces are wrong by 1e-5 eV/Å at random, which adds less than 1e-6 eV per atom and ps.
"""


def make_alloy(seed: int) -> Atoms:
    """Sixteen atoms: copper with a fifth of gold."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.75, cubic=True).repeat((2, 2, 1))
    atoms.numbers[rng.choice(16, 3, replace=False)] = 79
    return atoms


def disturb(seed: int) -> Atoms:
    """An alloy, strained and rattled as at a few hundred kelvin."""
    rng = np.random.default_rng([seed, 1])
    atoms = make_alloy(seed)
    strain = np.eye(3) * rng.uniform(0.98, 1.03) + rng.normal(0, 0.01, (3, 3))
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.normal(0, rng.uniform(0.05, 0.15), (16, 3))
    return label_emt(atoms)


@pytest.fixture(scope="module", params=[1, 2], ids=["one_layer", "two_layers"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A potential whose training set is about as hot as the MD."""
    out = tmp_path_factory.mktemp("potential")
    settings = SMALL.model_copy(update={"n_layers": request.param})
    structures = [disturb(seed) for seed in range(24)]
    train_committee(TrainingRequest(structures[:18], structures[18:], settings, out, seed=3))
    return out


def run_nve(calculator: MLIPCalculator, timestep: float, duration: float) -> tuple[np.ndarray, np.ndarray, Atoms]:
    """Times (ps) and total energies (eV/atom) at every step of ``timestep`` fs, and the final state."""
    atoms = make_alloy(7)
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3))
    # Twice as hot: half of it becomes potential energy.
    atoms.set_momenta(momenta * np.sqrt(2 * units.kB * TEMPERATURE * atoms.get_masses())[:, None])
    Stationary(atoms)
    atoms.calc = calculator
    dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)
    totals = []
    dynamics.attach(lambda: totals.append(atoms.get_total_energy() / len(atoms)))
    dynamics.run(round(duration / timestep))
    return np.arange(len(totals)) * timestep / 1000.0, np.array(totals), atoms


@pytest.mark.parametrize("precision", ["double", "single"])
def test_energy_does_not_drift(folder: Path, precision: Precision) -> None:
    calculator = load_calculator(folder, precision=precision, uncertainty=False)
    times, totals, atoms = run_nve(calculator, timestep=2.0, duration=800.0)
    drift = np.polyfit(times, totals, 1)[0]
    assert abs(drift) < DRIFT
    # EMT itself fluctuates by 6e-5 eV/atom at this step.
    assert np.ptp(totals) < 3e-4
    assert 0.5 * TEMPERATURE < atoms.get_temperature() < 2 * TEMPERATURE, "nothing moved, or everything flew apart"
    np.testing.assert_allclose(atoms.get_momenta().sum(0), 0.0, atol=1e-3)


def test_fluctuations_fall_with_the_square_of_the_step(folder: Path) -> None:
    """Only so are forces and energies of one and the same surface, however small the fluctuations."""
    calculator = load_calculator(folder, uncertainty=False)
    widths = []
    for timestep in (2.0, 1.0):
        times, totals, _ = run_nve(calculator, timestep, 150.0)
        widths.append(np.std(totals[times > 0]))
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.15)
