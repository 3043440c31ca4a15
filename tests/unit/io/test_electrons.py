"""A structure's total charge and multiplicity travel with it, from its file to its label and to the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.data import DataSource
from mlip.config.label import Guards
from mlip.config.loop import Walker
from mlip.config.structures import Prepare, PrepareKinds, StartingStructure
from mlip.config.walkers import Demand, plan_walkers
from mlip.dynamics.walker_starts import begin_walker
from mlip.io.electrons import ElectronsError, electronic_state
from mlip.io.extxyz import write_structures
from mlip.io.trajectory import Frame, read_frames, write_trajectory
from mlip.loop.import_data import find_fault, read_file
from mlip.loop.label_references import scaled_copies
from mlip.loop.prepare_structures import perturb_structure
from mlip.structures.kinds import dissect
from mlip.structures.starting import StructureError, load_starting_structure
from mlip.structures.walkability import check_walkable


def charged(folder: Path, **info: object) -> StartingStructure:
    """A file of water with ``info`` in its header."""
    atoms = molecule("H2O")
    atoms.info = dict(info)
    write_structures(folder / "water.extxyz", [atoms])
    return StartingStructure(file=str(folder / "water.extxyz"))


@pytest.mark.parametrize("name", ["spin", "multiplicity"])
def test_prepared_structures_have_the_charge_and_spin_of_the_file(tmp_path: Path, name: str) -> None:
    start = load_starting_structure(charged(tmp_path, charge=1, **{name: 2}))
    assert start.info == {"charge": 1, "spin": 2}
    kinds = PrepareKinds(vacancy=1.0, dimer=1.0, mode=1.0)
    made = perturb_structure(start, Prepare(n_structures=8, kinds=kinds), 8, seed=0, index=0, min_ratio=0.6)
    assert len(made) == 8
    assert all(electronic_state(atoms) == {"charge": 1, "spin": 2} for atoms in made)
    assert {atoms.info["origin"] for atoms in made} == {"start", "rattle", "mode"}, "others have other electrons"


def test_references_have_the_charge() -> None:
    crystal = bulk("Si")
    crystal.info["charge"] = 1
    assert [electronic_state(atoms) for atoms in scaled_copies(crystal, (0.0, 0.1))] == [{"charge": 1}] * 2


def test_walkers_begin_with_it_and_their_frames_keep_it(tmp_path: Path) -> None:
    (plan,) = plan_walkers([charged(tmp_path, charge=-1.0, spin=2)], [Walker(temperatures=(300.0,))])
    start = begin_walker(plan, np.random.default_rng(0)).atoms
    bare = Atoms(start.numbers, positions=start.positions)
    frame = Frame(bare, 0.0, 0.0, np.zeros(3), 300.0, float("nan"), 1.0)
    write_trajectory(tmp_path / "walker.nc", start, [frame], {"walker": 0})
    structures, _ = read_frames(tmp_path / "walker.nc")
    assert structures[0].info == {"charge": -1, "spin": 2}
    assert all(isinstance(value, int) for value in structures[0].info.values())


def test_a_supercell_of_what_is_charged_is_refused(tmp_path: Path) -> None:
    source = charged(tmp_path, charge=1)
    with pytest.raises(StructureError, match=r"repeat \[2, 1, 1\] of a structure with charge=1 has another charge"):
        load_starting_structure(source.model_copy(update={"repeat": (2, 1, 1)}))
    demand = Demand(source_number=0, ensemble="nvt", repeat=(2, 1, 1), is_pressed=False)
    start = bulk("Si")
    start.info["spin"] = 3
    with pytest.raises(StructureError, match="of a structure with spin=3 has another charge and spin"):
        check_walkable(start, dissect(start), demand, "x")
    start.info = {"charge": 0, "spin": 1}
    check_walkable(start, dissect(start), demand, "x")


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"charge": "plus"}, "charge=plus is not a number"),
        ({"spin": 0}, "spin=0 is no multiplicity"),
        ({"multiplicity": 2.5}, "multiplicity=2.5 is no multiplicity"),
        ({"spin": 1, "multiplicity": 3}, "spin=1 and multiplicity=3 contradict each other"),
    ],
)
def test_what_is_no_charge_or_spin_is_refused(tmp_path: Path, info: dict[str, object], words: str) -> None:
    source = charged(tmp_path, **info)
    with pytest.raises(StructureError, match=words):
        load_starting_structure(source)
    atoms = molecule("H2O")
    atoms.info = dict(info)
    with pytest.raises(ElectronsError, match=words):
        electronic_state(atoms)


def test_existing_data_keep_either_name_of_the_multiplicity(tmp_path: Path) -> None:
    structures = []
    for key, value in (("spin", 3), ("multiplicity", 3), ("multiplicity", 0)):
        atoms = molecule("O2")
        atoms.info = {key: value}
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)))
        structures.append(atoms)
    path = tmp_path / "o2.extxyz"
    write_structures(path, structures)
    read = list(read_file(path, DataSource(file=str(path), settings="same"), "0" * 64, 0))
    assert [atoms.info.get("spin") for atoms in read] == [3, 3, None]
    assert read[0].info["label_key"] == read[1].info["label_key"], "one structure in one state"
    assert [bool(find_fault(atoms, Guards())) for atoms in read] == [False, False, True]
    assert "multiplicity=0 is no multiplicity" in find_fault(read[2], Guards())
