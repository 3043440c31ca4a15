"""Inconsistent labels are found and named; consistent ones are left in peace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.calculators.tersoff import Tersoff
from ase.cluster import Octahedron
from ase.units import GPa

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.training.consistency import check_consistency
from mlip.training.data import (
    TrainingDataError,
    find_atomic_basis,
    fit_isolated_energies,
    prepare_pairs,
    resolve_cutoff,
)
from mlip.training.densities import build_dataset
from mlip.training.slopes import work_slope
from mlip.training.work import list_pairs
from tests.unit.conftest import label

QUICK = Train(n_channels=4, n_radial=6, l_max=2, hidden=(8,), committee_size=2, n_steps=2)


def perturb(perfect: Atoms, n: int, rattle: float, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(n):
        atoms = perfect.copy()
        if atoms.pbc.all():
            strain = np.eye(3) * rng.uniform(0.96, 1.05) + rng.normal(0, 0.015, (3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += rng.normal(0, rattle * rng.uniform(0.3, 1.0), (len(atoms), 3))
        result.append(atoms)
    return result


def tersoff() -> Tersoff:
    from ase.calculators.tersoff import TersoffParameters

    silicon = TersoffParameters(
        m=3.0, gamma=1.0, lambda3=0.0, c=1.0039e5, d=16.217, h=-0.59825, n=0.78734, beta=1.1e-6,
        lambda2=1.73222, B=471.18, R=2.85, D=0.15, lambda1=2.4799, A=1830.8,
    )  # fmt: skip
    return Tersoff({("Si", "Si", "Si"): silicon})


@pytest.fixture(scope="module")
def systems() -> dict[str, list[Atoms]]:
    """Labelled structures of a metal, a semiconductor, a molecule and a compound."""
    copper = perturb(bulk("Cu", cubic=True) * (2, 1, 1), 40, 0.15, 0)
    vacancy = copper[0].copy()
    del vacancy[0]
    return {
        "metal": [label(a, EMT()) for a in copper + perturb(vacancy, 8, 0.1, 1)],
        "semiconductor": [label(a, tersoff()) for a in perturb(bulk("Si", cubic=True), 40, 0.12, 2)],
        "molecule": [label(a, EMT()) for a in perturb(molecule("CH3CH2OH"), 40, 0.06, 3)],
        "compound": [label(a, EMT()) for a in perturb(bulk("CuAu", "rocksalt", a=5.2, cubic=True), 30, 0.15, 4)],
    }


def change(atoms: Atoms, energy: float = 1.0, forces: float = 1.0, stress: float = 1.0, offset: float = 0.0) -> Atoms:
    copy, results = atoms.copy(), dict(atoms.calc.results)
    results["energy"] = results["energy"] * energy + offset * len(atoms)
    results["forces"] = results["forces"] * forces
    if "stress" in results:
        results["stress"] = results["stress"] * stress
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def check(structures: list[Atoms], mode: str = "error", valid: list[Atoms] | None = None) -> list[str]:
    settings = resolve_cutoff(structures, QUICK, None)
    pairs = prepare_pairs(structures, settings.radius)
    basis = find_atomic_basis(structures, pairs, settings)
    isolated = fit_isolated_energies(structures, basis, None)
    data = build_dataset(structures, pairs, basis, isolated, "cpu")
    if not valid:
        return check_consistency(structures, data, len(basis.species), mode)
    other = build_dataset(valid, prepare_pairs(valid, settings.radius), basis, isolated, "cpu")
    return check_consistency(structures, data, len(basis.species), mode, valid=valid, valid_data=other)


@pytest.mark.parametrize("system", ["metal", "semiconductor", "molecule", "compound"])
@pytest.mark.parametrize("n", [3, 10, 100])
def test_clean_data_pass_in_silence(systems: dict[str, list[Atoms]], system: str, n: int) -> None:
    assert check(systems[system][:n]) == []


FAULTS = {
    "Hartree": ({"energy": 1 / 27.2114}, "energies in Hartree"),
    "Rydberg": ({"energy": 1 / 13.6057}, "energies in Rydberg"),
    "kcal": ({"energy": 23.0605}, "energies in kcal/mol"),
    "kJ": ({"energy": 96.485}, "energies in kJ/mol"),
    "atomic forces": ({"forces": 1 / 51.4221}, "forces in Hartree/Bohr"),
    "gradients": ({"forces": -1.0}, "forces with the wrong sign"),
}
STRESS_FAULTS = {
    "GPa": ({"stress": 160.2177}, "stresses in GPa"),
    "kbar": ({"stress": 1602.177}, "stresses in kbar"),
    "sign": ({"stress": -1.0}, "stresses with the wrong sign"),
    "VASP": ({"stress": -1602.177}, "stresses in kbar and with the wrong sign"),
}


@pytest.mark.parametrize("system", ["metal", "semiconductor", "molecule"])
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_units_are_named(systems: dict[str, list[Atoms]], system: str, fault: str) -> None:
    factors, expected = FAULTS[fault]
    with pytest.raises(TrainingDataError, match="against forces") as error:
        check([change(a, **factors) for a in systems[system]])
    assert expected in str(error.value)
    assert "convert to eV" in str(error.value)


@pytest.mark.parametrize("system", ["metal", "semiconductor"])
@pytest.mark.parametrize("fault", STRESS_FAULTS)
def test_wrong_stresses_are_named(systems: dict[str, list[Atoms]], system: str, fault: str) -> None:
    factors, expected = STRESS_FAULTS[fault]
    with pytest.raises(TrainingDataError, match="stresses against forces") as error:
        check([change(a, **factors) for a in systems[system]])
    assert expected in str(error.value)


@pytest.mark.parametrize("system", ["metal", "semiconductor", "molecule"])
def test_mixed_settings_are_found(systems: dict[str, list[Atoms]], system: str) -> None:
    moved = [change(a, offset=0.4 if k % 4 == 1 else 0.0) for k, a in enumerate(systems[system])]
    with pytest.raises(TrainingDataError, match="mixed settings") as error:
        check(moved)
    assert "train[1]" in str(error.value)


def test_a_small_offset_does_not_stop_the_training(systems: dict[str, list[Atoms]]) -> None:
    """Errors of the linear model that judges may be as large."""
    moved = [change(a, offset=0.08 if k % 4 == 1 else 0.0) for k, a in enumerate(systems["metal"])]
    (warning,) = check(moved)
    assert "mixed settings" in warning


def test_phases_of_different_energy_are_no_fault(systems: dict[str, list[Atoms]]) -> None:
    """An offset between geometries that have nothing in common may be physics."""
    other = [change(label(a, EMT()), offset=0.5) for a in perturb(bulk("Cu", "sc", a=2.6) * (2, 2, 2), 15, 0.1, 5)]
    assert check(systems["metal"] + other) == []


def test_one_geometry_with_two_labels(systems: dict[str, list[Atoms]]) -> None:
    metal = systems["metal"]
    with pytest.raises(TrainingDataError, match=r"train\[3\].*one geometry with two labels"):
        check([*metal, change(metal[3], offset=0.1)])
    (warning,) = check([*metal, change(metal[3], offset=0.005)])
    assert "5 meV/atom" in warning
    assert check([*metal, metal[3]]) == []


def test_outliers_are_warnings(systems: dict[str, list[Atoms]]) -> None:
    spoilt: Callable[[Atoms], Atoms] = lambda a: change(a, offset=2.0)  # noqa: E731
    (warning,) = check([*systems["metal"][:20], spoilt(systems["metal"][20]), *systems["metal"][21:]])
    assert "train[20]" in warning
    assert "unusual energies" in warning


def test_gross_labels_are_errors(systems: dict[str, list[Atoms]]) -> None:
    metal = systems["metal"]
    with pytest.raises(TrainingDataError, match=r"train\[20\].*eV/atom from the others'"):
        check([*metal[:20], change(metal[20], offset=1e3), *metal[21:]])
    with pytest.raises(TrainingDataError, match=r"train\[2\].*force of"):
        check([*metal[:2], change(metal[2], forces=1e4)])


def test_validation_structures_are_checked_too(systems: dict[str, list[Atoms]]) -> None:
    metal = systems["metal"]
    assert check(metal[:20], valid=metal[20:40]) == []
    with pytest.raises(TrainingDataError, match=r"valid: energies against forces.*energies in Hartree"):
        check(metal[:20], valid=[change(a, energy=1 / 27.2114) for a in metal[20:40]])
    (warning,) = check(metal[:20], valid=metal[18:40])
    assert "2 of 22 validation structures are training structures" in warning


def test_states_that_the_potential_cannot_see_are_errors(systems: dict[str, list[Atoms]]) -> None:
    charged = systems["molecule"][5].copy()
    charged.calc, charged.info["charge"] = systems["molecule"][5].calc, 1
    neutral = [a.copy() for a in systems["molecule"][:5]]
    for atoms, source in zip(neutral, systems["molecule"], strict=False):
        atoms.calc, atoms.info["charge"] = source.calc, 0
    assert check([*neutral, *systems["molecule"][6:12]]) == []
    with pytest.raises(TrainingDataError, match="C2H6O is there with charge 0 and 1"):
        check([*neutral, charged])


def test_elements_without_neighbours_are_told(systems: dict[str, list[Atoms]]) -> None:
    (warning,) = check([*systems["metal"][:10], label(Atoms("Au", cell=[20, 20, 20], pbc=True), EMT())])
    assert "Au: lone atoms only" in warning


def test_settings_decide_and_training_tells(systems: dict[str, list[Atoms]], tmp_path: Path) -> None:
    wrong = [change(a, stress=-1.0) for a in systems["metal"]]
    with pytest.raises(TrainingDataError, match=r"train\.consistency"):
        train_committee(TrainingRequest(wrong, [], QUICK, tmp_path, seed=0))
    with pytest.warns(UserWarning, match="wrong sign"):
        train_committee(TrainingRequest(wrong, [], QUICK.model_copy(update={"consistency": "warn"}), tmp_path, seed=0))
    assert "wrong sign" in json.loads((tmp_path / "training.json").read_text())["warnings"][0]
    assert check(wrong, "off") == []


def several_phases(n: int, seed: int) -> list[Atoms]:
    """Rightly labelled crystals, clusters and wires of copper: no force leads from one to another."""
    rng, found = np.random.default_rng(seed), []
    starts = [
        bulk("Cu", cubic=True).repeat((1, 1, 2)),
        Octahedron("Cu", 3, 1),
        Atoms("Cu6", [[0, 0, 2.5 * k] for k in range(6)], cell=[0, 0, 15], pbc=(0, 0, 1)),
    ]
    for start in starts:
        for _ in range(n):
            atoms = start.copy()
            atoms.positions += rng.normal(0, rng.choice([0.03, 0.08, 0.16]), atoms.positions.shape)
            found.append(label(atoms, EMT()))
    return found


def verdict(structures: list[Atoms]) -> str:
    settings = resolve_cutoff(structures, QUICK, None)
    pairs = prepare_pairs(structures, settings.radius)
    basis = find_atomic_basis(structures, pairs, settings)
    isolated = fit_isolated_energies(structures, basis, None)
    data = build_dataset(structures, pairs, basis, isolated, "cpu")
    try:
        check_consistency(structures, data, len(basis.species))
    except TrainingDataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("n", [4, 8, 14])
@pytest.mark.parametrize("seed", range(4))
def test_right_labels_of_several_phases_are_left_in_peace(n: int, seed: int) -> None:
    assert verdict(several_phases(n, seed)) == ""


@pytest.mark.parametrize(
    ("energy", "force", "told"),
    [(1 / 27.2114, 1, "Hartree"), (-1, 1, "wrong sign"), (1, -1, "wrong sign"), (1, 1, "mixed settings")],
)
def test_wrong_labels_of_several_phases_are_found(energy: float, force: float, told: str) -> None:
    wrong = []
    for k, atoms in enumerate(several_phases(14, 1)):
        copy = atoms.copy()
        results = dict(atoms.calc.results)
        results["energy"] = energy * results["energy"] + (0.5 * len(atoms) if "mixed" in told and k % 3 == 0 else 0)
        results["forces"] = force * results["forces"]
        copy.calc = SinglePointCalculator(copy, **results)
        wrong.append(copy)
    assert told in verdict(wrong)


def few_strained(n: int, seed: int) -> list[Atoms]:
    """Rightly labelled small crystals of several volumes: forces alone hardly know what a volume costs."""
    rng, found = np.random.default_rng(seed), []
    ordered = bulk("Cu", cubic=True, a=3.8)
    ordered.symbols[:2] = "Au"
    for start in (bulk("Cu", cubic=True), bulk("Au", cubic=True), ordered):
        for _ in range(n):
            atoms = start.copy()
            strain = np.eye(3) * rng.uniform(0.97, 1.04) + rng.normal(0, 0.01, (3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            atoms.positions += rng.normal(0, rng.choice([0.03, 0.08, 0.16]), atoms.positions.shape)
            found.append(label(atoms, EMT()))
    return found


@pytest.mark.parametrize("make", [several_phases, few_strained])
@pytest.mark.parametrize("seed", range(3))
def test_four_structures_of_each_phase_tell_wrong_labels_from_right_ones(
    make: Callable[[int, int], list[Atoms]], seed: int
) -> None:
    right = make(4, seed)
    assert verdict(right) == ""
    faults = [({"energy": 1 / 27.2114}, "Hartree"), ({"energy": -1}, "wrong sign"), ({"energy": 23.06}, "kcal/mol")]
    assert [told in verdict([change(a, **factors) for a in right]) for factors, told in faults] == [True] * 3


def test_work_between_copies_of_one_structure() -> None:
    groups = np.zeros(4, dtype=int)
    strained = few_strained(4, 1)[:4]
    assert work_slope(list_pairs(strained, groups), groups, 3).value == pytest.approx(1.0, abs=0.25)
    moved = [a.copy() for a in strained]
    for atoms, source, k in zip(moved, strained, range(4), strict=True):
        atoms.positions += [0.3 * k, 1.0, 0.0]
        atoms.wrap()
        atoms.calc = SinglePointCalculator(atoms, **source.calc.results)
    assert work_slope(list_pairs(moved, groups), groups, 3).value == pytest.approx(
        work_slope(list_pairs(strained, groups), groups, 3).value, abs=1e-6
    )
    shuffled = [atoms[[1, 2, 3, 0]] if k % 2 else atoms for k, atoms in enumerate(strained)]
    assert not work_slope(list_pairs(shuffled[:2], groups[:2]), groups[:2], 1).agreed, (
        "other atoms at these places: nothing is known"
    )


@pytest.mark.parametrize("factor", [1.0, -1.0, -10 / GPa])
def test_stresses_of_hardly_strained_small_cells_are_told_without_a_model(factor: float) -> None:
    """Four atoms, volumes within 9 %: forces say too little of the stress for a model to judge it."""
    rng = np.random.default_rng(3)
    structures = []
    for _ in range(40):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * (1 + rng.uniform(-0.03, 0.03)), scale_atoms=True)
        atoms.rattle(0.05, rng=rng)
        structures.append(change(label(atoms, EMT()), stress=factor))
    message = verdict(structures)
    assert ("stresses" in message and "wrong sign" in message) if factor < 0 else not message


def relabel(structures: list[Atoms], fault: str) -> list[Atoms]:
    """Copies whose energies or forces are the next structure's, or whose forces are the next atom's."""
    copies = []
    for atoms, other in zip(structures, [*structures[1:], structures[0]], strict=True):
        copy, results = atoms.copy(), dict(atoms.calc.results)
        if fault == "atoms":
            results["forces"] = np.roll(results["forces"], 1, axis=0)
        else:
            results[fault] = other.calc.results[fault]
        copy.calc = SinglePointCalculator(copy, **results)
        copies.append(copy)
    return copies


@pytest.mark.parametrize("fault", ["energy", "forces", "atoms"])
@pytest.mark.parametrize("seed", range(3))
def test_labels_of_another_structure_or_atom_are_told(fault: str, seed: int) -> None:
    """Four atoms, rattled so that their forces rule the energy."""
    rng, right = np.random.default_rng(seed), []
    for _ in range(30):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * rng.uniform(0.98, 1.02), scale_atoms=True)
        atoms.rattle(0.15, rng=rng)
        right.append(label(atoms, EMT()))
    assert "do not belong together" not in " ".join(check(right, "warn"))
    assert "do not belong together" in " ".join(check(relabel(right, fault), "warn"))
