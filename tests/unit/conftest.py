"""A small binary potential, trained once a session on EMT labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.train import Train
from mlip.dynamics.bias import bias_energy, bias_forces
from mlip.potential import Potential

SMALL = Train(
    n_channels=8,
    n_radial=6,
    l_max=2,
    hidden=(8,),
    committee_size=3,
    n_steps=120,
    learning_rate=0.01,
    checkpoint_every=40,
)


def label(atoms: Atoms, calculator: object) -> Atoms:
    """A copy of ``atoms`` with energy and forces of ``calculator``, and its stress in a crystal."""
    copy = atoms.copy()
    copy.calc = calculator
    results = {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
    if copy.pbc.all():
        results["stress"] = copy.get_stress()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def label_emt(atoms: Atoms) -> Atoms:
    """``atoms`` with energy, forces and stress of ASE's effective medium theory."""
    labelled = atoms.copy()
    labelled.calc = EMT()
    forces, energy, stress = labelled.get_forces(), labelled.get_potential_energy(), labelled.get_stress()
    labelled.calc = SinglePointCalculator(labelled, energy=energy, forces=forces, stress=stress)
    return labelled


def make_alloy(seed: int) -> Atoms:
    """Four atoms of strained, rattled copper with some gold, unlabelled."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.75, cubic=True)
    atoms.numbers[rng.random(4) < 0.4] = 79
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) * rng.uniform(0.95, 1.08) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True
    )
    atoms.positions += rng.normal(0, 0.12, (4, 3))
    return atoms


def _predict_members(potential: Potential, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    prediction = potential.predict([atoms])[0]
    return prediction.energy_members, prediction.forces_members


def check_bias_slope(potential: Potential, atoms: Atoms) -> None:
    """Forces of the bias are minus the slope of its energy, by central differences along every coordinate."""
    forces = bias_forces(*_predict_members(potential, atoms), 7.0, 0.05)
    slopes, h = np.zeros_like(forces), 1e-4
    for place in np.ndindex(forces.shape):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[place] += sign * h
            ends.append(bias_energy(_predict_members(potential, moved)[0], 7.0, 0.05))
        slopes[place] = (ends[0] - ends[1]) / (2 * h)
    assert np.abs(forces).max() > 0.01
    np.testing.assert_allclose(forces, -slopes, atol=1e-4 * np.abs(forces).max())


@pytest.fixture(scope="session")
def alloys() -> list[Atoms]:
    """Labelled copper-gold cells."""
    return [label_emt(make_alloy(seed)) for seed in range(24)]


@pytest.fixture(scope="session")
def settings() -> Train:
    """Small enough to train in a second or two."""
    return SMALL


@pytest.fixture(scope="session")
def potential_folder(alloys: list[Atoms], settings: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trained copper-gold potential."""
    from mlip.loop.train_committee import TrainingRequest, train_committee

    folder = tmp_path_factory.mktemp("potential")
    train_committee(
        TrainingRequest(alloys[:18], alloys[18:], settings, folder, seed=3, isolated_energies={"Au": -0.25, "Cu": 0.5})
    )
    return folder
