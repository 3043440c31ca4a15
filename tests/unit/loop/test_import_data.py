"""Existing data: what joins, what is refused, and with which words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.data import DataCheck, DataSource, list_inputs
from mlip.config.indexing import parse_index
from mlip.config.label import Guards, Label
from mlip.config.loop import Collect
from mlip.config.system import ConfigError, parse_config
from mlip.config.train import Train
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import read_json, write_json
from mlip.loop.collect_dataset import DatasetError, collect_dataset
from mlip.loop.import_data import DataError, import_data
from mlip.loop.relabel_data import ComparisonError, relabel_data
from mlip.structures.deepmd import write_deepmd
from mlip.structures.roles import split_of
from mlip.structures.vasp_files import unconverged_steps

EMT_LABEL = Label(calculator="ase.calculators.emt.EMT")
SKIP = Train(consistency="off")


def label(atoms: Atoms, **changed: Callable[[np.ndarray], np.ndarray]) -> Atoms:
    """``atoms`` with EMT's label, of which ``changed`` alters energy, forces or stress."""
    atoms.calc = EMT()
    found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
    atoms.calc = SinglePointCalculator(
        atoms, **{name: changed.get(name, lambda x: x)(value) for name, value in found.items()}
    )
    return atoms


def coppers(n: int, **changed: Callable[[np.ndarray], np.ndarray]) -> list[Atoms]:
    rng = np.random.default_rng(1)
    found = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True, a=3.6) * ((2, 1, 1) if k % 2 else (1, 1, 1))
        strain = rng.uniform(-0.04, 0.04, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, rng.choice([0.05, 0.1, 0.2]), atoms.positions.shape)
        found.append(label(atoms, **changed))
    return found


def take(folder: Path, *sources: DataSource, train: Train = SKIP, alone: bool = False) -> tuple[list[Atoms], dict]:
    places = {"out_structures": folder / "data.extxyz", "out_records": folder / "data.json"}
    import_data(sources, guards=Guards(), train=train, max_failed_fraction=0.3, seed=5, alone=alone, **places)
    return read_structures(places["out_structures"]), read_json(places["out_records"])


def same(file: Path | str, **options: object) -> DataSource:
    return DataSource(file=str(file), settings="same", **options)


def test_every_format_gives_the_same_labels(tmp_path: Path) -> None:
    structures = coppers(6)
    write_structures(tmp_path / "mine.extxyz", structures)
    for name in ("mine.db", "mine.traj", "mine.json"):
        ase.io.write(tmp_path / name, structures)
    write_deepmd(tmp_path / "dp", structures)
    wanted = sorted(atoms.get_potential_energy() for atoms in structures)
    for name in ("mine.extxyz", "mine.db", "mine.traj", "mine.json", "dp"):
        taken, record = take(tmp_path / f"out-{name}", same(tmp_path / name))
        assert sorted(atoms.get_potential_energy() for atoms in taken) == pytest.approx(wanted, abs=1e-9), name
        by_energy = sorted(taken, key=lambda atoms: atoms.get_potential_energy())
        for one, other in zip(by_energy, sorted(structures, key=lambda a: a.get_potential_energy()), strict=True):
            np.testing.assert_allclose(one.get_stress(), other.get_stress(), atol=1e-12)
            np.testing.assert_allclose(one.get_forces(), other.get_forces(), atol=1e-12)
        assert len({atoms.info["label_key"] for atoms in taken}) == 6
        assert record["files"][0]["structures"] == 6


def test_vasp_labels_are_of_the_free_energy(tmp_path: Path) -> None:
    """Forces belong to VASP's free energy, not to the energy extrapolated to zero smearing."""
    (tmp_path / "vasprun.xml").write_text(VASPRUN.replace(">2</i>", ">60</i>"))
    (atoms,), _ = take(tmp_path / "out", same(tmp_path / "vasprun.xml"))
    assert atoms.get_potential_energy() == pytest.approx(-7.25)
    assert atoms.get_forces()[1].tolist() == [0.0, 0.0, -0.5]
    # VASP prints kbar, positive under pressure.
    assert atoms.get_stress()[0] == pytest.approx(-10.0 / 1602.1766, rel=1e-5)


def test_unconverged_steps_of_vasp_are_no_data(tmp_path: Path) -> None:
    """Two cycles of two allowed, 0.05 eV apart."""
    (tmp_path / "vasprun.xml").write_text(VASPRUN)
    with pytest.raises(DataError, match=r"vasprun\.xml:0: its SCF did not converge"):
        take(tmp_path / "out", same(tmp_path / "vasprun.xml"))
    (tmp_path / "OUTCAR").write_text(
        " aborting loop because EDIFF is reached\n\n aborting loop EDIFF was not reached (unconverged)\n"
    )
    assert unconverged_steps(tmp_path / "OUTCAR", "vasp-out") == {1}


def test_structures_carry_where_they_come_from(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_structures(tmp_path / name / "run.extxyz", coppers(4))
    taken, record = take(tmp_path / "out", same(tmp_path / "*" / "run.extxyz", index="1:3", block=2))
    assert [atoms.info["structure_id"] for atoms in taken] == [
        f"{tmp_path}/{name}/run.extxyz:{k}" for name in ("a", "b") for k in (1, 2)
    ]
    assert {atoms.info["origin"] for atoms in taken} == {"data"}
    assert taken[0].info["data_sha256"] == record["files"][0]["sha256"]
    assert taken[1].info["data_block"] != taken[0].info["data_block"]
    assert taken[0].info["label_key"] == taken[2].info["label_key"]  # one calculation in two files counts once


def test_a_sample_is_seeded_and_a_block_stays_together(tmp_path: Path) -> None:
    write_structures(tmp_path / "mine.extxyz", coppers(12))
    first, _ = take(tmp_path / "one", same(tmp_path / "mine.extxyz", sample=5))
    again, _ = take(tmp_path / "two", same(tmp_path / "mine.extxyz", sample=5))
    assert [a.info["data_index"] for a in first] == [a.info["data_index"] for a in again]
    assert len(first) == 5
    blocks, _ = take(tmp_path / "three", same(tmp_path / "mine.extxyz", block=6))
    assert len({split_of(a, Collect(valid_fraction=0.4, test_fraction=0.4)) for a in blocks[:6]}) == 1


def test_what_cannot_be_learnt_from_is_left_with_its_reason(tmp_path: Path) -> None:
    structures = coppers(12)
    structures[3].calc.results["energy"] = np.nan
    structures[5].calc = None
    structures[7] = label(structures[7].copy(), forces=lambda f: f + 40)
    ase.io.write(tmp_path / "mine.traj", structures)
    taken, record = take(tmp_path / "out", same(tmp_path / "mine.traj"))
    assert len(taken) == 9
    reasons = {r["structure_id"].rpartition(":")[2]: r["reason"] for r in record["records"] if r["status"] != "ok"}
    assert reasons["3"] == "the energy is not finite"
    assert reasons["5"].startswith("has no energy; label it")
    assert "exceeds label.guards.max_force (30)" in reasons["7"]


def test_too_many_unusable_structures_stop_it(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "mine.extxyz", [bulk("Cu", cubic=True)] * 3)
    with pytest.raises(DataError, match=r"3 of 3 structures of .*mine\.extxyz cannot be used:\n.*:0: has no energy"):
        take(tmp_path / "out", same(tmp_path / "mine.extxyz"))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.extxyz").write_text("4\nenergy=1\nCu 0 0 0\n")
    with pytest.raises(DataError, match=r"data: .*cut\.extxyz: cut short"):
        take(tmp_path / "out", same(tmp_path / "cut.extxyz"))
    (tmp_path / "noise.xyz.gz").write_bytes(b"nothing packed")
    with pytest.raises(DataError, match=r"noise\.xyz\.gz: cannot be unpacked"):
        take(tmp_path / "out", same(tmp_path / "noise.xyz.gz"))
    (tmp_path / "OUTCAR").write_text("nothing that VASP writes\n")
    with pytest.raises(DataError, match=r"OUTCAR: cannot be read as vasp-out"):
        take(tmp_path / "out", same(tmp_path / "OUTCAR"))


def test_alone_there_must_be_enough(tmp_path: Path) -> None:
    write_structures(tmp_path / "mine.extxyz", [*coppers(5), *coppers(5)])
    with pytest.raises(DataError, match="5 different usable structures are too few to begin with"):
        take(tmp_path / "out", same(tmp_path / "mine.extxyz"), alone=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"energy": lambda e: e / 27.211386}, "energies in Hartree"),
        ({"stress": lambda s: -s}, "stresses with the wrong sign"),
    ],
)
def test_wrong_units_and_signs_stop_before_anything_is_paid_for(tmp_path: Path, changed: dict, message: str) -> None:
    write_structures(tmp_path / "mine.extxyz", coppers(30, **changed))
    with pytest.raises(DataError, match=message):
        take(tmp_path / "out", same(tmp_path / "mine.extxyz"), train=Train())


def compare(folder: Path, structures: list[Atoms], **options: object) -> dict:
    write_structures(folder / "mine.extxyz", structures)
    source = DataSource(file=str(folder / "mine.extxyz"), settings="check", check=DataCheck(n_structures=4), **options)
    taken, _ = take(folder / "out", source)
    out = folder / "comparison.json"
    relabel_data(taken, [source], EMT_LABEL, store=folder / "store", seed=1, out=out)
    return read_json(out)


def test_data_of_the_labeller_itself_agree_to_the_last_digit(tmp_path: Path) -> None:
    (found,) = compare(tmp_path, coppers(6))["sources"]
    assert len(found["structures"]) == 4
    assert np.abs(found["energy_differences"]).max() < 1e-9
    assert found["force_rmse"] < 1e-9
    assert found["stress_difference_gpa"] < 1e-9
    assert found["shift"] == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"forces": lambda f: f / 51.422}, r"forces of 4 .*RMSE of .*they are 0\.0194\d* times the labels"),
        ({"stress": lambda s: -s}, r"stresses of 4 .*differ by up to .*they are -1 times the labels"),
        ({"energy": lambda e: 1.02 * e + 0.1 * np.sin(1e4 * e)}, r"energies of 4 .*differ by up to .* eV/atom"),
    ],
)
def test_disagreement_stops_with_the_numbers(tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        compare(tmp_path, coppers(6, **changed))


def moved() -> list[Atoms]:
    """Labels of an all-electron code: 45 000 eV below for each atom."""
    found = coppers(12)
    for atoms in found:
        atoms.calc.results["energy"] -= 45000.25 * len(atoms)
    return found


def test_another_zero_of_energy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match=r"-4\.5e\+04 eV/atom .*one constant for each element .*shift_energies"):
        compare(tmp_path, moved())


def test_shifted_energies_are_the_labellers(tmp_path: Path) -> None:
    (found,) = compare(tmp_path, moved(), shift_energies=True)["sources"]
    assert found["shift"]["Cu"] == pytest.approx(45000.25, abs=1e-4)
    options = {"energy_window": 5.0, "max_failed_fraction": 0.3, "comparison": tmp_path / "comparison.json"}
    places = [tmp_path / "out" / "data.extxyz"], [tmp_path / "out" / "data.json"]
    collect_dataset(*places, None, iteration=0, settings=Collect(), out=tmp_path / "set", **options)
    energies = {a.info["data_index"]: a.get_potential_energy() for a in read_structures(tmp_path / "set/new.extxyz")}
    for k, atoms in enumerate(coppers(12)):
        assert energies[k] == pytest.approx(atoms.get_potential_energy(), abs=1e-3)


def test_existing_data_are_no_labels_that_were_paid_for(tmp_path: Path) -> None:
    """They are split like labels, and count in no budget; what is unusable of them is told among the failures."""
    structures = coppers(12)
    structures[0].calc.results["energy"] = np.nan
    ase.io.write(tmp_path / "mine.traj", structures)
    take(tmp_path / "out", same(tmp_path / "mine.traj"))
    write_structures(tmp_path / "shard.extxyz", [])
    write_json(tmp_path / "shard.json", {"iteration": 0, "shard": 0, "planned": 0, "records": []})
    collect_dataset(
        [tmp_path / "shard.extxyz", tmp_path / "out" / "data.extxyz"],
        [tmp_path / "shard.json", tmp_path / "out" / "data.json"],
        None,
        iteration=0,
        settings=Collect(),
        energy_window=5.0,
        max_failed_fraction=0.0,
        out=tmp_path / "set",
    )
    summary = read_json(tmp_path / "set" / "dataset.json")
    assert summary["origins"] == {"data": 11}
    assert (summary["labels_total"], summary["failed_total"], summary["usable_new"]) == (0, 0, 11)
    assert [f["reason"] for f in summary["failures"]] == ["the energy is not finite"]
    with pytest.raises(DatasetError, match="nothing to train on"):
        collect_dataset(
            [tmp_path / "shard.extxyz"],
            [tmp_path / "shard.json"],
            None,
            iteration=0,
            settings=Collect(),
            energy_window=5.0,
            max_failed_fraction=0.0,
            out=tmp_path / "none",
        )


def test_what_the_loop_has_labelled_itself_counts_once(tmp_path: Path) -> None:
    structures = coppers(12)
    write_structures(tmp_path / "mine.extxyz", structures)
    take(tmp_path / "out", same(tmp_path / "mine.extxyz"))
    own = [structures[k].copy() for k in (2, 7)]
    for k, atoms in zip((2, 7), own, strict=True):
        atoms.calc = structures[k].calc
        atoms.info |= {"label_key": f"own{k}", "origin": "rattle", "structure_id": f"own{k}"}
    write_structures(tmp_path / "shard.extxyz", own)
    records = [
        {"structure_id": f"own{k}", "key": f"own{k}", "status": "ok", "core_seconds": 1.0, "wall_seconds": 1.0}
        for k in (2, 7)
    ]
    write_json(tmp_path / "shard.json", {"iteration": 0, "shard": 0, "planned": 2, "records": records})
    places = [[folder / f"{name}{end}" for folder, name in ((tmp_path, "shard"), (tmp_path / "out", "data"))]
              for end in (".extxyz", ".json")]  # fmt: skip
    options = {"iteration": 0, "settings": Collect(), "energy_window": 5.0, "max_failed_fraction": 0.0}
    collect_dataset(*places, None, out=tmp_path / "set", **options)
    summary = read_json(tmp_path / "set" / "dataset.json")
    assert summary["origins"] == {"data": 10, "rattle": 2}
    (warning,) = summary["warnings"].items()
    assert warning == ("data: structures that the loop has labelled, too, count once, with its own label", 2)


def test_oddities_of_existing_data_are_among_the_warnings(tmp_path: Path) -> None:
    structures = coppers(60)
    for atoms in structures[30:]:
        atoms.calc.results["energy"] += 0.09 * len(atoms)
    write_structures(tmp_path / "mine.extxyz", structures)
    _, record = take(tmp_path / "out", same(tmp_path / "mine.extxyz"), train=Train())
    (warning,) = record["warnings"]
    # Cells of four and eight atoms scatter by 7 meV/atom: one of the sixty may be put into the wrong half.
    assert re.search(r"the energies of (29|30) of 60 structures .* differ by [+-]0\.0(89|9)\d* eV/atom", warning)


# Configuration ---------------------------------------------------------------------------------------

SYSTEM = {"system": "x", "structures": [{"bulk": {"name": "Cu"}}]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": "Li100.extxyz"}, r"data: \[\{file: Li100\.extxyz, settings: same\}\]"),
        ({"data": {"file": "Li100.extxyz"}}, r"a list of files is expected"),
        ({"data": ["Li100.extxyz"]}, r"does not say how it was labelled"),
        ({"data": [{"file": "a.db"}]}, r"data\.0\.settings: this key is required"),
        ({"data": [{"file": "a.db", "settings": "same", "index": "1:2:0"}]}, r"'1:2:0' is no index"),
        ({"data": [{"file": "a.db", "settings": "same", "shift_energies": True}]}, r"needs `settings: check`"),
        ({"prepare": {"n_structures": 0}}, r"n_structures is 0 without `data`"),
        ({"prepare": {"n_structures": 3}}, r"need at least 4, or 0"),
    ],
)
def test_configuration_says_what_it_wants(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(SYSTEM | values)


def test_data_alone_need_one_empty_shard() -> None:
    values = {"data": [{"file": "a.db", "settings": "same"}], "prepare": {"n_structures": 0}, "label": {"n_shards": 9}}
    config = parse_config(SYSTEM | values)
    assert (config.n_shards_at(0), config.n_shards_at(1)) == (1, 9)


@pytest.mark.parametrize(
    ("text", "wanted"), [(":", [0, 1, 2, 3]), ("::2", [0, 2]), ("-1", [3]), ("2", [2]), ("-2:", [2, 3])]
)
def test_an_index_means_what_python_means(text: str, wanted: list[int]) -> None:
    assert [0, 1, 2, 3][parse_index(text)] == wanted


def test_files_behind_data_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_deepmd(tmp_path / "dp", coppers(1))
    (tmp_path / "a.extxyz").touch()
    found = list_inputs([same("dp"), same("*.extxyz")])
    assert found[-1] == "a.extxyz"
    assert "dp/Cu4/set.000/virial.npy" in found
    with pytest.raises(ValueError, match=r"a\.extxyz belongs to a\.extxyz and to \*\.extxyz"):
        list_inputs([same("a.extxyz"), same("*.extxyz")])
    with pytest.raises(ValueError, match=r"no file b\.extxyz; give a path relative"):
        list_inputs([same("b.extxyz")])


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="version" type="string">6.4.2</i></generator>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1</v></varray></kpoints>
 <parameters><i type="int" name="NELM">2</i><i name="EDIFF">0.0001</i></parameters>
 <atominfo>
  <atoms>2</atoms>
  <array name="atoms"><set><rc><c>Cu</c><c>1</c></rc><rc><c>Cu</c><c>1</c></rc></set></array>
 </atominfo>
 <structure name="initialpos">
  <crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v><v>0.5 0.5 0.5</v></varray>
 </structure>
 <calculation>
  <scstep><energy><i name="e_fr_energy">-7.2</i><i name="e_0_energy">-7.15</i></energy></scstep>
  <scstep><energy><i name="e_fr_energy">-7.25</i><i name="e_0_energy">-7.20</i></energy></scstep>
  <structure>
   <crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
   <varray name="positions"><v>0 0 0</v><v>0.5 0.5 0.5</v></varray>
  </structure>
  <varray name="forces"><v>0 0 0.5</v><v>0 0 -0.5</v></varray>
  <varray name="stress"><v>10 0 0</v><v>0 10 0</v><v>0 0 10</v></varray>
  <energy><i name="e_fr_energy">-7.25</i><i name="e_wo_entrp">-7.20</i><i name="e_0_energy">-7.20</i></energy>
 </calculation>
</modeling>
"""


def test_labels_under_another_name_are_pointed_at(tmp_path: Path) -> None:
    cell, path = "3.6 0 0 0 3.6 0 0 0 3.6", tmp_path / "mine.xyz"
    columns = "Properties=species:S:1:pos:R:3:REF_forces:R:3"
    path.write_text(f'1\nLattice="{cell}" {columns} REF_energy=-1.0 pbc="T T T"\nCu 0 0 0 0 0 0\n')
    with pytest.raises(DataError, match="has no energy, but `REF_energy`; if that is it, call it `energy`"):
        take(tmp_path / "out", same(path))
    path.write_text(path.read_text().replace("REF_energy", "energy"))
    with pytest.raises(DataError, match="has no forces, but `REF_forces`; if that is it, call it `forces`"):
        take(tmp_path / "out", same(path))
