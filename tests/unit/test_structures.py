"""Starting structures and their perturbations."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from mlip.config import Bulk, Prepare, StartingStructure
from mlip.extxyz import read_structures
from mlip.structures import (
    StructureError,
    fingerprint,
    load_starting_structure,
    min_distance_ratio,
    prepare_structures,
    scale_volume,
)

SILICON = StartingStructure(bulk=Bulk(name="Si"))


def prepared(tmp_path: Path, sources: list[StartingStructure], seed: int = 1, **settings: object) -> list[Atoms]:
    out = tmp_path / f"candidates-{seed}.extxyz"
    prepare_structures(sources, Prepare(**settings), seed=seed, min_ratio=0.6, out=out)
    return read_structures(out)


def test_same_seed_same_structures_and_another_seed_others(tmp_path: Path) -> None:
    first = prepared(tmp_path, [SILICON])
    again = prepared(tmp_path, [SILICON])
    other = prepared(tmp_path, [SILICON], seed=2)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[-1].positions, other[-1].positions)


def test_count_kinds_and_identity(tmp_path: Path) -> None:
    structures = prepared(tmp_path, [SILICON], n_structures=20)
    assert len(structures) == 20
    assert {a.info["origin"] for a in structures} == {"volume_scan", "strain", "rattle", "vacancy"}
    ids = [a.info["structure_id"] for a in structures]
    assert len(set(ids)) == 20
    assert all(i.startswith("iter_00-") for i in ids)
    assert np.allclose(structures[0].positions, load_starting_structure(SILICON).positions)


def test_no_two_prepared_structures_are_alike(tmp_path: Path) -> None:
    prints = np.array([fingerprint(a) for a in prepared(tmp_path, [SILICON], n_structures=30)])
    distances = np.linalg.norm(prints[:, None] - prints[None], axis=2)
    assert distances[~np.eye(len(prints), dtype=bool)].min() > 1e-3


def test_several_sources_share_the_number(tmp_path: Path) -> None:
    sources = [SILICON, StartingStructure(bulk=Bulk(name="NaCl", crystalstructure="rocksalt", a=5.64))]
    structures = prepared(tmp_path, sources, n_structures=11)
    assert sum("Cl" in a.symbols for a in structures) == 5
    assert len(structures) == 11


def test_molecules_are_rattled_not_strained(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz"
    write(path, molecule("H2O"))
    structures = prepared(tmp_path, [StartingStructure(file=str(path))], n_structures=8, vacancies=False)
    assert {a.info["origin"] for a in structures} == {"rattle"}
    assert not any(a.pbc.any() for a in structures)


def test_guard_keeps_atoms_apart(tmp_path: Path) -> None:
    structures = prepared(tmp_path, [SILICON], rattle=(0.5, 0.8))
    assert min(min_distance_ratio(a) for a in structures) >= 0.6


@pytest.mark.parametrize("name", ["si.cif", "POSCAR", "si.xsf", "si.extxyz"])
def test_formats_of_ase_and_pymatgen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, bulk("Si", cubic=True), format="vasp" if name == "POSCAR" else None)
    atoms = load_starting_structure(StartingStructure(file=str(path), repeat=(2, 1, 1)))
    assert len(atoms) == 16
    assert atoms.pbc.all()


def test_pymatgen_reads_what_ase_does_not(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    path = tmp_path / "si.json"
    Structure(Lattice.cubic(4.0), ["Po"], [[0, 0, 0]]).to(str(path))
    assert load_starting_structure(StartingStructure(file=str(path))).get_chemical_formula() == "Po"


def broken_structures() -> dict[str, Atoms]:
    silicon = bulk("Si", cubic=True)
    nan, flat, left, twin = silicon.copy(), silicon.copy(), silicon.copy(), silicon.copy()
    nan.positions[0, 0] = np.nan
    flat.cell[2] = flat.cell[1]
    left.set_cell(left.cell.array[[1, 0, 2]])
    twin.positions[1] = twin.positions[0] + 0.01
    huge = Atoms("Cu" * 10_000, positions=np.arange(30_000).reshape(-1, 3) * 2.0)
    return {"NaN": nan, "linearly dependent": flat, "left-handed": left, "coincide": twin, "10000 atoms": huge}


@pytest.mark.parametrize("problem", list(broken_structures()))
def test_broken_structures_are_named(tmp_path: Path, problem: str) -> None:
    path = tmp_path / "broken.traj"
    write(path, broken_structures()[problem])
    with pytest.raises(StructureError, match=problem) as caught:
        load_starting_structure(StartingStructure(file=str(path)))
    assert "broken.traj" in str(caught.value)


@pytest.mark.parametrize(("content", "expected"), [(b"", "empty"), (b"\x00\xff junk" * 50, "not a structure file")])
def test_files_that_hold_no_structure(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "junk.cif"
    path.write_bytes(content)
    with pytest.raises(StructureError, match=expected):
        load_starting_structure(StartingStructure(file=str(path)))


def test_missing_file_and_unknown_crystal() -> None:
    with pytest.raises(StructureError, match="no file"):
        load_starting_structure(StartingStructure(file="nowhere.cif"))
    with pytest.raises(StructureError, match="cannot be built"):
        load_starting_structure(StartingStructure(bulk=Bulk(name="Xx")))


def test_scale_volume_is_relative() -> None:
    silicon = bulk("Si", cubic=True)
    assert scale_volume(silicon, 0.1).get_volume() == pytest.approx(1.1 * silicon.get_volume())
