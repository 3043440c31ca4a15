"""Labels are read whole: constraints never touch them, and the energy is the one that forces are derivatives of."""

import ast
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, Hookean
from ase.io import write

import mlip
from mlip.io.extxyz import read_structures
from mlip.potential import load_potential
from mlip.potential.evaluation import evaluate_potential
from mlip.structures.labelled import labelled_energy, labelled_forces
from mlip.training.data import fingerprint

DYNAMICS = {"mlip/loop/explore_walkers.py", "mlip/labels/process/worker.py", "mlip/studies/diffusion/dynamics.py",
            "mlip/properties/elastic/strains.py", "mlip/studies/neb/path.py"}  # fmt: skip
"""Where forces of a relaxation, of a band, of MD or of a structure that has no constraints are meant."""


def slabs(*, fixed: bool) -> list[Atoms]:
    rng, found = np.random.default_rng(3), []
    for _ in range(3):
        atoms = fcc111("Cu", (2, 2, 3), a=3.6, vacuum=6.0)
        atoms.pbc = True
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        if fixed:
            atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 3))
        found.append(atoms)
    return found


def test_forces_on_fixed_atoms_are_labels_as_any(tmp_path, potential_folder):
    for name, fixed in (("free", False), ("fixed", True)):
        write(tmp_path / f"{name}.extxyz", slabs(fixed=fixed), format="extxyz")
    free, held = (read_structures(tmp_path / f"{name}.extxyz") for name in ("free", "fixed"))
    assert held[0].constraints
    assert not np.abs(held[0].get_forces()[:4]).any()
    assert [np.abs(labelled_forces(a)[:4]).max() > 0.1 for a in held] == [True] * 3
    potential = load_potential(potential_folder)
    assert evaluate_potential(potential, held) == evaluate_potential(potential, free)
    assert fingerprint(held) == fingerprint(free)


def test_springs_of_a_relaxation_are_no_part_of_a_label():
    atoms = slabs(fixed=False)[0]
    energy = labelled_energy(atoms)
    atoms.set_constraint(Hookean(0, 1, 5.0, rt=1.0))
    assert labelled_energy(atoms) == energy != atoms.get_potential_energy()


def test_energy_is_the_one_that_forces_belong_to():
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, free_energy=-1.5, forces=np.zeros((1, 3)))
    assert labelled_energy(atoms) == -1.5
    atoms.calc = SinglePointCalculator(atoms, free_energy=-1.5, forces=np.zeros((1, 3)))
    assert labelled_energy(atoms) == -1.5


def test_no_module_reads_forces_through_constraints_unawares():
    root = Path(mlip.__file__).parent.parent
    found = []
    for path in sorted((root / "mlip").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get_forces":
                aware = any(keyword.arg == "apply_constraint" for keyword in node.keywords)
                name = path.relative_to(root).as_posix()
                found += [] if aware or name in DYNAMICS or "/experiments/" in name else [f"{name}:{node.lineno}"]
    assert found == []
