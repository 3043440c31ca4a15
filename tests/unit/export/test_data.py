"""Labelled sets written for other programs: nothing is lost, and signs and units are those of the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from typer.testing import CliRunner

from mlip.cli.app import app
from mlip.export.data import DataExportError, export_data
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import write_json
from mlip.structures.deepmd import DeepmdError, read_deepmd, write_deepmd
from mlip.structures.labelled_files import read_labelled_file


def label(atoms: Atoms, number: int = 0) -> Atoms:
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.all():
        results["stress"] = atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info = {"structure_id": f"s-{number}", "origin": "walker", "label_key": f"{number:064x}"}
    return atoms


def crystals() -> list[Atoms]:
    """Copper-gold of two compositions, compressed, its elements mixed; and a cluster."""
    rng = np.random.default_rng(3)
    found = []
    for number, symbols in enumerate(["AuCuCuAu", "CuAuCuAu", "CuCuAuCu"]):
        atoms = bulk("Cu", cubic=True, a=3.5 + 0.02 * number)
        atoms.symbols = symbols
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.rattle(0.1, seed=number)
        found.append(label(atoms, number))
    return [*found, label(Atoms("Cu2", [[0, 0, 0], [0, 0.3, 2.3]]), 3)]


def same(one: Atoms, other: Atoms, tolerance: float = 0.0) -> None:
    order, other_order = (np.argsort(atoms.numbers, kind="stable") for atoms in (one, other))
    assert one.numbers[order].tolist() == other.numbers[other_order].tolist()
    assert one.pbc.tolist() == other.pbc.tolist()
    for values in (lambda a: a.cell.array, lambda a: [a.get_potential_energy()]):
        np.testing.assert_allclose(values(one), values(other), rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.positions[order], other.positions[other_order], rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.get_forces()[order], other.get_forces()[other_order], rtol=0, atol=tolerance)
    if one.pbc.all():
        np.testing.assert_allclose(one.get_stress(), other.get_stress(), rtol=0, atol=max(tolerance, 1e-15))


@pytest.mark.parametrize(("to", "suffix"), [("extxyz", ".extxyz"), ("ase-db", ".db"), ("deepmd", "")])
def test_a_set_comes_back_as_it_was(tmp_path: Path, to: str, suffix: str) -> None:
    write_structures(tmp_path / "mine.extxyz", crystals())
    (written,) = export_data([tmp_path / "mine.extxyz"], tmp_path / "out", to)
    assert written == tmp_path / "out" / f"data{suffix}"
    back = read_labelled_file(written)
    by_energy = sorted(back, key=lambda a: a.get_potential_energy())
    for one, other in zip(sorted(crystals(), key=lambda a: a.get_potential_energy()), by_energy, strict=True):
        same(one, other)


def test_extended_xyz_keeps_origin_and_checksums_too(tmp_path: Path) -> None:
    write_structures(tmp_path / "mine.extxyz", crystals())
    export_data([tmp_path / "mine.extxyz"], tmp_path / "out", "extxyz")
    assert (tmp_path / "out" / "data.extxyz").read_bytes() == (tmp_path / "mine.extxyz").read_bytes()


def test_deepmd_systems_are_as_deepmd_wants_them(tmp_path: Path) -> None:
    """One system a formula, types sorted, virials in eV and positive under pressure."""
    structures = crystals()
    folders = write_deepmd(tmp_path / "dp", structures)
    assert sorted(folder.name for folder in folders) == ["Au2Cu2", "AuCu3", "Cu2-isolated"]
    mixed = next(folder for folder in folders if np.load(folder / "set.000" / "coord.npy").shape == (2, 12))
    assert (mixed / "type_map.raw").read_text().split() == ["Au", "Cu"]
    assert (mixed / "type.raw").read_text().split() == ["0", "0", "1", "1"]
    shapes = {path.stem: np.load(path).shape for path in (mixed / "set.000").glob("*.npy")}
    assert shapes == {"coord": (2, 12), "box": (2, 9), "energy": (2,), "force": (2, 12), "virial": (2, 9)}
    assert not (mixed / "nopbc").exists()
    assert (tmp_path / "dp" / "Cu2-isolated" / "nopbc").exists()
    virial = np.load(mixed / "set.000" / "virial.npy")[0].reshape(3, 3)
    first = structures[0]
    pressure = -first.get_stress()[:3].mean()  # eV/Å³; compressed gold pushes
    assert pressure > 0
    assert np.trace(virial) / 3 == pytest.approx(pressure * first.get_volume())


def test_virial_is_the_derivative_of_the_energy(tmp_path: Path) -> None:
    """-dE/dstrain, by differences: the sign that other readers of DeePMD's files count on."""
    atoms = crystals()[0]
    energies = []
    for step in (1e-4, -1e-4):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * np.array([1 + step, 1, 1]), scale_atoms=True)
        strained.calc = EMT()
        energies.append(strained.get_potential_energy())
    (folder,) = write_deepmd(tmp_path / "dp", [atoms])
    virial = np.load(folder / "set.000" / "virial.npy")[0].reshape(3, 3)
    assert virial[0, 0] == pytest.approx(-(energies[0] - energies[1]) / 2e-4, rel=1e-4)


def test_results_folder_gives_the_last_data_set_with_its_splits(tmp_path: Path) -> None:
    structures = crystals()[:3]
    for number in (0, 1):
        folder = tmp_path / "results" / f"iter_{number:02d}" / "collect_dataset"
        for k, split in enumerate(("train", "valid", "test")):
            write_structures(folder / f"{split}.extxyz", [structures[k]] * number)
        write_json(folder / "dataset.json", {})
    arguments = ["export-data", str(tmp_path / "results"), "--out", str(tmp_path / "out"), "--split", "train"]
    done = CliRunner().invoke(app, [*arguments, "--split", "test", "--format", "ase-db"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test.db", "train.db"]
    row = connect(str(tmp_path / "out" / "test.db")).get(structure_id="s-2")
    assert row.data["label_key"] == f"{2:064x}"
    same(read_structures(folder / "test.extxyz")[0], row.toatoms())


def test_nothing_is_written_over_and_faults_are_named(tmp_path: Path) -> None:
    write_structures(tmp_path / "mine.extxyz", crystals())
    export_data([tmp_path / "mine.extxyz"], tmp_path / "out", "deepmd")
    with pytest.raises(FileExistsError, match="out/data: is there already"):
        export_data([tmp_path / "mine.extxyz"], tmp_path / "out", "deepmd")
    with pytest.raises(DataExportError, match="--format npz: unknown; choose from extxyz, deepmd, ase-db"):
        export_data([tmp_path / "mine.extxyz"], tmp_path / "out", "npz")
    slab = label(bulk("Cu", cubic=True))
    slab.pbc = (True, True, False)
    with pytest.raises(DeepmdError, match=r"structure 0 \(Cu4\): DeePMD knows no periodicity in 2 of 3"):
        write_deepmd(tmp_path / "dp", [slab])
    with pytest.raises(DeepmdError, match=r"structure 1 \(H2O\): has no energy"):
        write_deepmd(tmp_path / "dp", [crystals()[0], molecule("H2O")])


def test_deepmd_faults_name_the_file(tmp_path: Path) -> None:
    (folder,) = write_deepmd(tmp_path / "dp", [crystals()[0]])
    np.save(folder / "set.000" / "force.npy", np.zeros((2, 12)))
    with pytest.raises(DeepmdError, match=r"force\.npy: 2 structures where coord\.npy has 1"):
        read_deepmd(tmp_path / "dp")
    (folder / "type_map.raw").unlink()
    with pytest.raises(DeepmdError, match=r"type_map\.raw: missing; write it"):
        read_deepmd(tmp_path / "dp")


def test_deepmd_systems_of_several_compositions_and_single_precision(tmp_path: Path) -> None:
    """The mixed form: types of each structure, filled up with -1; DeePMD's own default of 32 bits."""
    folder = tmp_path / "mixed" / "set.000"
    folder.mkdir(parents=True)
    (folder.parent / "type.raw").write_text("0 0 0")
    (folder.parent / "type_map.raw").write_text("H O")
    (folder.parent / "nopbc").touch()
    arrays = {
        "real_atom_types": np.array([[1, 0, 0], [0, 0, -1]]),
        "coord": np.arange(18, dtype=np.float32).reshape(2, 9),
        "energy": np.array([[-3.0], [-1.5]], dtype=np.float32),
        "force": np.ones((2, 9), dtype=np.float32),
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    water, hydrogen = read_deepmd(tmp_path)
    assert (water.get_chemical_formula(), hydrogen.get_chemical_formula()) == ("H2O", "H2")
    assert hydrogen.get_potential_energy() == -1.5
    assert hydrogen.get_forces().shape == (2, 3)
    assert hydrogen.positions[1].tolist() == [12, 13, 14]
