"""Labels that contradict themselves are found, and noise is no contradiction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.calculators.lennard_jones import LennardJones
from mlip.calculators.stillinger_weber import StillingerWeber
from mlip.config.label import Label
from mlip.labels.agreement import check_stress, compare_forces, compare_stress, displace_along
from mlip.labels.importing import LabelError
from mlip.loop.label_references import label_references, scaled_copies
from mlip.properties.eos import birch_murnaghan

VOLUMES = (-0.08, -0.05, -0.025, 0.0, 0.025, 0.05, 0.08)
# Energies (eV) and stresses' pressures (GPa) of MgO, 8 atoms, by GPAW 26.7, PBE, 2x2x2 k-points, at these volumes of
# 74.72 Å³: what a cutoff of 520 eV and one of 300 eV do.
MGO = {
    520: (
        (-47.068, -47.330, -47.432, -47.588, -47.604, -47.582, -47.493),
        (5.80, -0.74, -5.84, -9.33, -13.15, -16.47, -20.04),
    ),
    300: (
        (-18.471, -19.905, -19.275, -19.773, -19.317, -19.583, -20.165),
        (-150.8, -147.8, -151.5, -150.4, -152.3, -151.3, -148.8),
    ),
}


@pytest.fixture(autouse=True)
def _import_fakes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def labelled_by(calculator, structure: Atoms, volumes=VOLUMES) -> list[Atoms]:
    copies = scaled_copies(structure, volumes)
    for atoms in copies:
        atoms.calc = calculator
        results = {"energy": atoms.get_potential_energy(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    return copies


def with_labels(structure: Atoms, energies, pressures) -> list[Atoms]:
    copies = scaled_copies(structure, VOLUMES)
    for atoms, energy, pressure in zip(copies, energies, pressures, strict=True):
        stress = -pressure * units.GPa * np.array([1, 1, 1, 0, 0, 0])
        atoms.calc = SinglePointCalculator(atoms, energy=energy, stress=stress)
    return copies


def references(folder: Path, **parameters: float) -> None:
    limit = parameters.pop("limit", 1.0)
    settings = Label(
        calculator="fake_calculators.SmallBasisCalculator", parameters=parameters, stress_agreement=limit
    )  # fmt: skip
    label_references({0: bulk("Cu", cubic=True)}, settings, VOLUMES, store=folder / "store", out=folder / "r.extxyz")


@pytest.mark.parametrize(
    ("calculator", "structure"),
    [
        (EMT(), bulk("Cu", cubic=True)),
        (EMT(), bulk("Al", a=4.0)),
        (LennardJones(sigma=3.4, epsilon=0.0104), bulk("Ar", cubic=True)),
        (StillingerWeber(), bulk("Si", cubic=True)),
    ],
    ids=["copper", "aluminium", "argon", "silicon"],
)
def test_consistent_calculators_agree(calculator, structure):
    found = compare_stress(labelled_by(calculator, structure))
    assert np.abs(found.differences).max() < 0.05
    assert found.certain < 0.02


def test_a_pulay_stress_is_found_with_its_sign():
    copies = labelled_by(EMT(), bulk("Cu", cubic=True))
    for atoms in copies:
        atoms.calc.results["stress"] = atoms.calc.results["stress"] - 3.0 * units.GPa * np.array([1, 1, 1, 0, 0, 0])
    found = compare_stress(copies)
    assert found.differences == pytest.approx(3.0, abs=0.02)
    assert found.errors.max() < 0.02
    check_stress(copies, 3.1)
    with pytest.raises(LabelError, match=r"3\.00 ± 0\.0\d GPa apart.*cutoff.*`label.stress_agreement` above 3"):
        check_stress(copies, 1.0)


def test_a_wrong_sign_is_found_though_its_mean_is_none():
    copies = labelled_by(EMT(), bulk("Cu", a=3.59, cubic=True))
    for atoms in copies:
        atoms.calc.results["stress"] = -atoms.calc.results["stress"]
    with pytest.raises(LabelError, match="disagree"):
        check_stress(copies, 1.0)


def test_errors_hold_what_noise_does():
    """Of curves with noise and without a contradiction, some one in twenty is further off than its error."""
    rng = np.random.default_rng(5)
    crystal = bulk("Si", cubic=True)
    v0, b0 = crystal.get_volume(), 90.0 * units.GPa
    volumes = v0 * (1 + np.array(VOLUMES))
    step = 1e-3
    slope = birch_murnaghan(volumes + step, 0.0, v0, b0, 4.2) - birch_murnaghan(volumes - step, 0.0, v0, b0, 4.2)
    outside = false_alarms = 0
    for _ in range(200):
        energies = birch_murnaghan(volumes, 0.0, v0, b0, 4.2) + rng.normal(0.0, 0.1, 7)  # 12 meV/atom
        found = compare_stress(with_labels(crystal, energies, -slope / (2 * step) / units.GPa))
        outside += abs(found.differences[3]) > found.errors[3]
        false_alarms += found.certain > 1.0
    assert 2 <= outside <= 22
    assert false_alarms <= 16


@pytest.mark.parametrize(("cutoff", "apart"), [(520, 14.7), (300, 164.0)])
def test_magnesium_oxide_at_a_small_cutoff(cutoff, apart):
    crystal = bulk("MgO", "rocksalt", a=4.212, cubic=True)
    found = compare_stress(with_labels(crystal, *MGO[cutoff]))
    assert -found.differences[3] == pytest.approx(apart, rel=0.02)
    with pytest.raises(LabelError, match=r"disagree.*raise the plane-wave cutoff"):
        check_stress(with_labels(crystal, *MGO[cutoff]), 1.0)


def test_nothing_is_said_without_stress_or_volumes():
    copies = labelled_by(EMT(), bulk("Cu", cubic=True))
    assert compare_stress(copies[:4]) is None
    del copies[0].calc.results["stress"]
    assert compare_stress(copies) is None
    check_stress(copies, 1e-9)


def test_references_that_disagree_stop_before_anything_is_written(tmp_path):
    references(tmp_path, pulay=0.5)
    (tmp_path / "r.extxyz").unlink()
    with pytest.raises(LabelError, match=r"energies and stresses of the references disagree: at .* Å³"):
        references(tmp_path, pulay=5.0)
    assert not (tmp_path / "r.extxyz").exists()
    references(tmp_path, pulay=5.0, limit=6.0)
    assert (tmp_path / "r.extxyz").exists()


def test_energies_without_a_curve_are_about_the_cutoff(tmp_path):
    with pytest.raises(LabelError, match=r"meV/atom about any smooth curve: raise the plane-wave cutoff"):
        references(tmp_path, noise=1.0, limit=1e3)


def test_forces_against_energies():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=3)
    atoms.calc = EMT()
    forces = atoms.get_forces()
    energies = []
    for moved in displace_along(atoms, forces):
        moved.calc = EMT()
        energies.append(moved.get_potential_energy())
    assert compare_forces(forces, *energies).difference < 0.005
    assert compare_forces(forces, *energies).agrees
    assert not compare_forces(1.2 * forces, *energies).agrees
