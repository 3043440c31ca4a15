"""The ASE calculator: ASE's conventions, conserved energy, uncertainties."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet

from mlip import load_calculator


def test_results_follow_ase(potential_folder: Path, alloys: list[Atoms]) -> None:
    atoms = alloys[0].copy()
    atoms.calc = load_calculator(potential_folder)
    prediction = atoms.calc.potential.predict([atoms])[0]
    assert atoms.get_potential_energy() == atoms.get_potential_energy(force_consistent=True) == prediction.energy
    np.testing.assert_array_equal(atoms.get_forces(), prediction.forces)
    np.testing.assert_array_equal(atoms.get_stress(), prediction.stress)
    results = atoms.calc.results
    assert results["energy_std"] > 0
    assert results["forces_std"].shape == (4, 3)
    np.testing.assert_allclose(results["force_uncertainty"], np.linalg.norm(results["forces_std"], axis=1))


def test_moved_atoms_are_computed_again(potential_folder: Path, alloys: list[Atoms]) -> None:
    atoms = alloys[0].copy()
    atoms.calc = load_calculator(potential_folder)
    before = atoms.get_forces().copy()
    atoms.positions[0, 0] += 0.1
    assert np.abs(atoms.get_forces() - before).max() > 1e-3


def test_molecule_has_no_stress(potential_folder: Path) -> None:
    atoms = Atoms("CuAu", [[0, 0, 0], [2.5, 0, 0]])
    atoms.calc = load_calculator(potential_folder)
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_nve_conserves_energy(potential_folder: Path, alloys: list[Atoms]) -> None:
    atoms = alloys[1].repeat((2, 1, 1))
    atoms.calc = load_calculator(potential_folder)
    atoms.set_momenta(np.random.default_rng(0).normal(0, 1.0, (8, 3)))
    dynamics = VelocityVerlet(atoms, timestep=2.0 * units.fs)
    totals = []
    for _ in range(15):
        dynamics.run(10)
        totals.append(atoms.get_total_energy() / len(atoms))
    assert np.ptp(totals[5:]) < 2e-3
    assert abs(np.mean(totals[-5:]) - np.mean(totals[:5])) < 5e-4


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, mlip, mlip.config.system, mlip.training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
