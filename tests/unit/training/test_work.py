"""Labels that do not work as their energies differ are told with the unit that explains it; right ones are not."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.units import Bohr, GPa, Hartree, Ry, fs, kcal, mol

from mlip.calculators.lennard_jones import LennardJones
from mlip.config.train import Train
from mlip.structures.labelled import labelled_energy, labelled_forces, labelled_stress
from mlip.training.label_check import check_labels
from mlip.training.units import name_faults
from mlip.training.work import Factor, find_path
from tests.unit.conftest import label


def strained(n: int, seed: int, volume: float = 0.03, shear: float = 0.02, rattle: float = 0.1) -> list[Atoms]:
    """Copper, four atoms: volumes within 3 % of the length."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        strain = np.eye(3) * (1 + rng.uniform(-volume, volume)) + rng.normal(0, shear, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += rng.normal(0, rattle, (4, 3)) * rng.uniform(0.3, 1)
        found.append(label(atoms, EMT()))
    return found


def dynamics(start: Atoms, calculator: object, temperature: float, n: int, step: float, vary: float) -> list[Atoms]:
    rng, atoms, found = np.random.default_rng(1), start.copy(), []
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    run = Langevin(atoms, step * fs, temperature_K=temperature, friction=0.02, rng=rng)
    run.run(60)
    for _ in range(n):
        run.run(15)
        copy = atoms.copy()
        copy.set_cell(copy.cell * (1 + rng.uniform(-vary, vary)), scale_atoms=True)
        found.append(label(copy, calculator))
    return found


def slabs(n: int, periodic: bool) -> list[Atoms]:
    rng, found = np.random.default_rng(2), []
    for _ in range(n):
        atoms = fcc111("Cu", (2, 2, 3), vacuum=7, periodic=periodic)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        found.append(label(atoms, EMT()))
    return found


def read(structures: list[Atoms], energy: float = 1.0, forces: float = 1.0, stress: object = 1.0) -> list[Atoms]:
    """Copies whose labels are read in another unit, or whose stresses in another order."""
    found = []
    for atoms in structures:
        copy = atoms.copy()
        results = {"energy": energy * labelled_energy(atoms), "forces": forces * labelled_forces(atoms)}
        if "stress" in atoms.calc.results:
            given = labelled_stress(atoms)
            results["stress"] = given[stress] if isinstance(stress, list) else stress * given
        copy.calc = SinglePointCalculator(copy, **results)
        found.append(copy)
    return found


def told(structures: list[Atoms]) -> str:
    """What the check says, and whether it stops a training."""
    try:
        return "warns: " + "; ".join(check_labels(structures, Train()))
    except ValueError as error:
        return f"refused: {error}"


def rattled_molecules(n: int) -> list[Atoms]:
    """Turned, too, as in a trajectory."""
    rng, found = np.random.default_rng(7), []
    for _ in range(n):
        atoms = molecule("CH3CH2OH")
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        atoms.rotate(rng.uniform(0, 360), rng.normal(size=3))
        found.append(label(atoms, EMT()))
    return found


RIGHT = {
    "molecule": lambda: rattled_molecules(30),
    "molecule that EMT lets fall apart": lambda: dynamics(molecule("CH3CH2OH"), EMT(), 300, 25, 1.0, 0.0),
    "melt": lambda: dynamics(bulk("Cu", cubic=True) * (2, 2, 1), EMT(), 2500, 25, 5.0, 0.03),
    "liquid": lambda: dynamics(
        bulk("Ar", cubic=True, a=5.7) * (2, 2, 1), LennardJones(sigma=3.405, epsilon=0.0104), 150, 25, 5.0, 0.04
    ),
    "slab": lambda: slabs(20, periodic=False),
    "slab in a box": lambda: slabs(20, periodic=True),
    "strained": lambda: strained(30, 1, volume=0.1, shear=0.0),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_labels_of_every_kind_are_left_in_peace(name: str) -> None:
    assert told(RIGHT[name]()) == "warns: "


@pytest.mark.parametrize(("volume", "shear", "rattle", "seed"), [(0.06, 0.03, 0.15, 6), (0.1, 0.0, 0.1, 4)])
def test_a_strained_structure_is_no_outlier_and_no_unit(volume: float, shear: float, rattle: float, seed: int) -> None:
    """The model that forces are fitted to guesses what a volume costs; work from the others knows it."""
    assert told(strained(30, seed, volume, shear, rattle)) == "warns: "


HA, RY, KCAL = 1 / Hartree, 1 / Ry, mol / kcal
WRONG = {
    "sign of the stress": ({"stress": -1.0}, "stresses with the wrong sign"),
    "forces in eV/Bohr": ({"forces": Bohr}, "forces in eV/Bohr"),
    "Hartree and Hartree/Bohr": ({"energy": HA, "forces": HA * Bohr}, "energies in Hartree, forces in Hartree/Bohr"),
    "Rydberg and Rydberg/Bohr": ({"energy": RY, "forces": RY * Bohr}, "energies in Rydberg, forces in Rydberg/Bohr"),
    "kcal/mol": ({"energy": KCAL, "forces": KCAL}, "energies in kcal/mol, forces in kcal/mol/Å"),
    "GPa": ({"stress": 1 / GPa}, "stresses in GPa"),
    "kbar of VASP": ({"stress": -10 / GPa}, "stresses in kbar and with the wrong sign"),
}


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("shear", [0.0, 0.02])
def test_wrong_units_of_forty_strained_cells_are_refused(fault: str, shear: float) -> None:
    factors, name = WRONG[fault]
    message = told(read(strained(40, 3, shear=shear), **factors))
    assert message.startswith("refused: ")
    assert name in message


@pytest.mark.parametrize(("forces", "name"), [(Bohr, "forces in eV/Bohr"), (1 / Bohr, "taken for eV/Bohr")])
def test_a_factor_of_bohr_is_told_without_stresses(forces: float, name: str) -> None:
    assert name in told(read(RIGHT["molecule"](), forces=forces))


@pytest.mark.parametrize(
    ("order", "name"),
    [([0, 1, 2, 5, 4, 3], "xx yy zz xy xz yz"), ([0, 1, 2, 5, 3, 4], "xx yy zz xy yz xz, as VASP writes them")],
)
def test_another_order_of_the_stress_is_named(order: list[int], name: str) -> None:
    assert f"stresses are in the order {name}" in told(read(strained(40, 4), stress=order))


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_labels_of_the_next_frame_are_told(name: str) -> None:
    right, wrong = strained(40, 5), []
    for atoms, other in zip(right, [*right[1:], right[0]], strict=True):
        copy, results = atoms.copy(), atoms.calc.results | {name: other.calc.results[name]}
        copy.calc = SinglePointCalculator(copy, **results)
        wrong.append(copy)
    assert "do not belong together" in told(wrong)
    assert ("stresses do not belong together" in told(wrong)) == (name == "stress")


def test_a_turned_molecule_has_not_moved() -> None:
    first = molecule("CH3CH2OH")
    second = first.copy()
    second.rotate(70, (1, 2, 3))
    second.positions += 3.0
    moved, strain, rotation = find_path(first, second) or ()
    assert np.abs(moved).max() < 1e-9
    assert not strain.any()
    assert np.allclose(rotation @ rotation.T, np.eye(3))


def test_names_of_factors() -> None:
    """Energies e, forces f and stresses s times what they are work by e/f and e/s."""
    unknown, exact = Factor(), lambda value: Factor(value, 1e-3 * value)
    assert name_faults(exact(1.0), exact(1.0)) == []
    assert name_faults(exact(1.0), unknown) == []
    assert name_faults(exact(0.0367), exact(0.0367))[0] == "energies in Hartree (factor 0.03675)"
    assert name_faults(exact(1.0), exact(1 / 1602.0)) == ["stresses in kbar (factor 1602)"]
    assert name_faults(exact(0.25), exact(0.25), size=4)[0] == "energies per atom (factor 0.25)"
    assert name_faults(exact(0.7), exact(1.0)) == []
    assert name_faults(Factor(1.0, 0.05), Factor(-0.8, 0.07))[0].startswith("stresses with the wrong sign")


def test_names_of_virials() -> None:
    """A virial is minus the volume times the stress; read as a stress it works by -1 / volume."""
    exact, volume = lambda value: Factor(value, 1e-3 * abs(value)), 70.0
    (name,) = name_faults(exact(1.0), exact(-1 / volume), volume=volume)
    assert name.startswith("virials (eV) in place of stresses")
    (name,) = name_faults(exact(1.0), exact(1 / volume), volume=volume)
    assert name.startswith("negative virials (eV) in place of stresses")
    found = name_faults(exact(1.0), exact(volume * GPa / 10), volume=volume)
    assert any(name.startswith("stresses in kbar in place of virials (eV), positive under pressure") for name in found)


def test_stresses_of_two_signs_are_told_with_their_own_remedy() -> None:
    structures = strained(40, 6, volume=0.08, rattle=0.03)
    half = read(structures[::2], stress=-1.0) + structures[1::2]
    assert "do not belong together" in told(half)
    assert "stresses of another unit or sign in a part of them" in told(half)
