"""Below the shortest distances of the data: a repulsion that goes on as they say, and an uncertainty that knows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.continuation import (
    Continuation,
    RepulsionTables,
    doubt_continuation,
    nearest_pair_ratios,
    sum_terms,
)
from mlip.potential.zbl import bare_zbl
from mlip.structures.neighbors import find_pairs
from mlip.training.data import find_atomic_basis
from mlip.training.repulsion import GRID, fit_continuation
from tests.benchmarks.selection.short_range_teachers import SILICON, TEACHERS, Teacher, nearest, push
from tests.unit.conftest import SMALL

CHANGED = {"n_channels": 12, "hidden": (16,), "committee_size": 4, "n_steps": 250}
SETTINGS = Train(**(SMALL.model_dump() | CHANGED))
RATIOS = np.array([1.1, 1.0, 0.97, 0.94, 0.91, 0.88, 0.85])
"""Distances of pairs over the shortest trained one."""


@dataclass(frozen=True)
class Student:
    """A potential in ``folder`` and who taught it."""

    teacher: Teacher
    potential: Potential
    folder: Path
    train: list[Atoms]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of its elements."""
        species = self.potential.species
        return [(a, b) for k, a in enumerate(species) for b in species[k:]]

    def scan(self, pair: tuple[str, str], ratios: np.ndarray = RATIOS) -> list[Atoms]:
        """Labelled crystals with one pair at ``ratios`` of its shortest trained distance."""
        return self.teacher.scan(pair, ratios * self.potential.shortest_distances["-".join(pair)])


@pytest.fixture(scope="module", params=TEACHERS)
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Student:
    teacher, folder = TEACHERS[request.param], tmp_path_factory.mktemp("student")
    train = teacher.training_set(36, 0)
    train_committee(TrainingRequest(train, teacher.training_set(8, 1), SETTINGS, folder, seed=3))
    return Student(teacher, load_potential(folder), folder, train)


def test_a_pair_pushed_together_repels_as_the_teacher_says(student: Student) -> None:
    """Force within 30 % down to .85 of the shortest distance, rising, and within 3 sigma of the truth."""
    for pair in student.pairs:
        structures = student.scan(pair)
        predictions = student.potential.predict(structures)
        true = np.array([push(a, a.get_forces()) for a in structures])
        found = np.array([push(a, p.forces) for a, p in zip(structures, predictions, strict=True)])
        assert (np.diff(found) > 0).all()
        np.testing.assert_allclose(found, true, rtol=0.3)
        for ratio, atoms, prediction in zip(RATIOS, structures, predictions, strict=True):
            ends = list(atoms.info["pair"])
            inside = np.abs(prediction.forces - atoms.get_forces()) <= 3 * prediction.forces_std
            assert ratio >= 1.0 or inside[ends].all()


def test_crystals_with_nearer_pairs_are_within_their_uncertainty(student: Student) -> None:
    """Errors of all atoms, in crystals with pairs at .82 to .99 of the shortest trained distance."""
    structures = student.teacher.nearer_set(15, 0)
    predictions = student.potential.predict(structures)
    labels = np.concatenate([a.get_forces() for a in structures])
    errors = np.concatenate([p.forces for p in predictions]) - labels
    std = np.concatenate([p.forces_std for p in predictions])
    assert (np.abs(errors) <= 3 * std).mean() > 0.97
    assert np.sqrt((errors**2).mean()) < 0.25 * np.sqrt((labels**2).mean())


def test_forces_at_the_shortest_trained_distance_are_not_soft(student: Student) -> None:
    """Of Ni-Cu within 8 %, not 5: with terms that reach further it was, at the expense of atoms on surfaces."""
    tolerance = 0.08 if "Ni" in student.potential.species else 0.05
    for pair in student.pairs:
        for atoms in student.scan(pair, np.array([1.0, 1.03, 1.06])):
            assert push(atoms, student.potential.predict([atoms])[0].forces) == pytest.approx(
                push(atoms, atoms.get_forces()), rel=tolerance
            )


def test_doubt_begins_at_the_shortest_distance_and_grows(student: Student) -> None:
    pair = student.pairs[0]
    known = student.scan(pair, np.array([1.05, 1.001]))
    assert all(p.doubt is None for p in student.potential.predict(known))
    assert all(s.doubt is None for s in student.potential.spreads(student.train[:4]))
    doubts = [p.doubt for p in student.potential.predict(student.scan(pair, np.array([0.999, 0.97, 0.9, 0.8, 0.6])))]
    assert all(doubt is not None for doubt in doubts)
    largest, energies = zip(*((float(d.forces.max()), d.energy) for d in doubts if d is not None), strict=True)
    assert np.all(np.diff(largest) > 0)
    assert np.all(np.diff(energies) > 0)
    assert largest[0] < 0.01 * largest[3]


def test_batches_doubt_as_single_structures_do(student: Student) -> None:
    structures = [*student.scan(student.pairs[0]), *student.train[:2]]
    together = student.potential.predict(structures)
    for atoms, prediction in zip(structures, together, strict=True):
        alone = student.potential.predict([atoms])[0]
        np.testing.assert_allclose(prediction.forces_std, alone.forces_std, rtol=1e-9)
        assert prediction.energy_std == pytest.approx(alone.energy_std, rel=1e-9)


def test_shortest_distances_are_those_of_the_data_and_stay_on_disk(student: Student) -> None:
    shortest = student.potential.shortest_distances
    for name, distance in shortest.items():
        pair = name.split("-")
        found = [find_pairs(atoms, 4.0) for atoms in student.train]
        symbols = [np.array(atoms.get_chemical_symbols()) for atoms in student.train]
        lengths = [
            p.distances[(s[p.centers] == pair[0]) & (s[p.neighbors] == pair[1])]
            for p, s in zip(found, symbols, strict=True)
        ]
        assert min(float(of.min()) for of in lengths) == pytest.approx(distance)
    assert json.loads((student.folder / "potential.json").read_text())["format_version"] == 4
    nearer = student.teacher.nearer_set(4, 2)
    ratios = nearest_pair_ratios([*nearer, *student.train], shortest)
    assert (ratios[:4] < 1.0).all()
    assert ratios[4:].min() == pytest.approx(1.0)


def test_training_on_keeps_the_repulsion_and_learns_how_near_the_data_come(student: Student, tmp_path: Path) -> None:
    """Weights mean the same only with the same repulsion; what is trained now is no longer doubted."""
    pair = student.pairs[0]
    nearer = student.scan(pair, np.array([0.95]))
    settings = SETTINGS.model_copy(update={"n_steps": 40})
    request = TrainingRequest([*student.train, *nearer], [], settings, tmp_path, seed=3, previous=student.folder)
    train_committee(request)
    after = load_potential(tmp_path)
    assert isinstance(after, ACEPotential)
    assert isinstance(student.potential, ACEPotential)
    assert json.loads((tmp_path / "training.json").read_text())["previous"] is not None
    before, now = student.potential.basis.continuation, after.basis.continuation
    assert before is not None
    assert now is not None
    assert now == replace(before, nearest=now.nearest)
    assert now.nearest["-".join(pair)] == pytest.approx(0.95 * before.nearest["-".join(pair)])
    assert after.predict(nearer)[0].doubt is None
    assert student.potential.predict(nearer)[0].doubt is not None


def test_collisions_are_those_of_zbl(student: Student) -> None:
    """Where labels are softer than ZBL near the data, the repulsion has become ZBL's at a third of that distance."""
    if "Ni" not in student.potential.species:
        pytest.skip("the teacher is harder than ZBL everywhere")
    for d in (0.35, 0.5, 0.6):
        dimer = Atoms("Ni2", [[0, 0, 0], [d, 0, 0]])
        force = student.potential.predict([dimer])[0].forces[1, 0]
        charge = torch.tensor(28.0)
        assert force == pytest.approx(-float(bare_zbl(torch.tensor(d), charge, charge)[1]), rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_any_terms_repel_ever_more_and_end_smoothly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reach, decay = (torch.tensor(column, dtype=torch.float64) for column in np.array(GRID).T)
    energy = torch.from_numpy(rng.exponential(1.0, len(GRID)) * (rng.random(len(GRID)) < 0.3))
    r = torch.linspace(0.05, 2.39, 1000, dtype=torch.float64)
    values, slopes = sum_terms(r, energy, decay, reach)
    assert bool((values.diff() <= 0).all())
    assert bool((slopes.diff() >= 0).all())
    h = 1e-6
    numeric = (sum_terms(r + h, energy, decay, reach)[0] - sum_terms(r - h, energy, decay, reach)[0]) / (2 * h)
    torch.testing.assert_close(slopes, numeric, rtol=1e-6, atol=1e-6)
    beyond = sum_terms(torch.tensor([2.4, 3.0], dtype=torch.float64), energy, decay, reach)
    assert all(float(t.abs().max()) == 0.0 for t in beyond)


def test_without_pairs_nothing_is_near() -> None:
    far = Atoms("Cu2", [[0, 0, 0], [9, 0, 0]])
    assert nearest_pair_ratios([far, Atoms("Cu")], {"Cu-Cu": 2.0}).tolist() == [np.inf, np.inf]
    assert nearest_pair_ratios([Atoms("Cu2", [[0, 0, 0], [1, 0, 0]])], {}).tolist() == [np.inf]
    assert nearest(Atoms("Cu2", [[0, 0, 0], [1, 0, 0]])) == pytest.approx(1.0)


def test_pairs_that_the_data_lack_get_zbl_and_little_trust() -> None:
    """One oxygen on copper: two of them meet ZBL, and are doubted by more than its force wherever it counts."""
    slab = fcc111("Cu", (2, 2, 3), a=3.6, vacuum=6.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    train = []
    for seed in range(6):
        atoms = slab.copy()
        atoms.rattle(0.08, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
        keys = ("energy", "forces", "stress")
        atoms.calc = SinglePointCalculator(atoms, **{key: atoms.calc.results[key] for key in keys})
        train.append(atoms)
    settings = SETTINGS.model_copy(update={"cutoff": 4.5})
    pairs = [find_pairs(atoms, 4.5) for atoms in train]
    continuation = fit_continuation(train, pairs, find_atomic_basis(train, pairs, settings)).continuation
    assert continuation is not None
    assert "O-O" not in continuation.nearest
    tables, oxygen, charge = RepulsionTables.of(continuation, ["Cu", "O"]), torch.tensor([1, 1]), torch.tensor(8.0)
    for r in (0.35, 0.8, 1.2, 2.0, 2.9):
        zbl = -float(bare_zbl(torch.tensor(r), charge, charge)[1])
        vectors = torch.tensor([[r, 0.0, 0.0], [-r, 0.0, 0.0]], dtype=torch.float64)
        squares, _ = doubt_continuation(tables, 4.5, oxygen, torch.tensor([0, 1]), torch.tensor([1, 0]), vectors)
        assert float(squares[0]) ** 0.5 >= 0.99 * 3.0 * (1.0 - r / 4.5) * zbl
        force = -float(tables.evaluate(vectors[:1, 0], 1, 1)[1][0])
        assert force == pytest.approx(zbl, rel=0.1) if r < 0.5 else force <= zbl
    assert Continuation.from_json(json.loads(json.dumps(asdict(continuation)))) == continuation


def test_real_silicon_with_a_pair_pushed_together(tmp_path: Path) -> None:
    """Labels of the demo (GPAW): rattled cells whose nearest pair is at 1.82 Å, then one pair down to 1.55 Å."""
    stored = ase.io.read(SILICON, ":")
    train, valid, scan = ([a for a in stored if a.info["split"] == split] for split in ("train", "valid", "scan"))
    train_committee(TrainingRequest(train, valid, SETTINGS, tmp_path, seed=1))
    potential = load_potential(tmp_path)
    predictions = potential.predict(scan)
    ratios = nearest_pair_ratios(scan, potential.shortest_distances)
    assert min(ratios) == pytest.approx(0.85, abs=0.01)
    for atoms, prediction in zip(scan, predictions, strict=True):
        assert push(atoms, prediction.forces) == pytest.approx(push(atoms, atoms.get_forces()), rel=0.15)
        ends = list(atoms.info["pair"])
        assert (np.abs(prediction.forces - atoms.get_forces()) <= 3 * prediction.forces_std)[ends].all()
