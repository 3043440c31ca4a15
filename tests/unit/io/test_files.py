"""Atomic files, hashes and extended XYZ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write

from mlip.io.constraints import movable_mask
from mlip.io.extxyz import ExtxyzError, read_structures, write_structures
from mlip.io.files import (
    FileContentError,
    read_json,
    read_table,
    sha256_file,
    sha256_of,
    write_atomic,
    write_json,
    write_table,
)


def test_write_atomic_replaces_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "sub folder" / "ü.txt"
    write_atomic(path, "first")
    write_atomic(path, "zweitens ü".encode())
    assert path.read_text(encoding="utf-8") == "zweitens ü"
    assert [p.name for p in path.parent.iterdir()] == ["ü.txt"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "half")
    monkeypatch.undo()
    assert read_json(path) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_json_errors(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert not path.exists()
    path.write_text('{"a": 1')
    with pytest.raises(FileContentError, match=r"a\.json.*cut short"):
        read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileContentError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing.json")


def test_hashes(tmp_path):
    assert sha256_of({"a": 1, "b": (1, 2)}) == sha256_of({"b": [1, 2], "a": 1})
    assert sha256_of({"a": 1}) != sha256_of({"a": 2})
    path = tmp_path / "x"
    path.write_bytes(b"abc")  # FIPS 180-2, example B.1
    assert sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(TypeError):
        sha256_of({"a": object()})


def labelled_atoms() -> list[Atoms]:
    rng = np.random.default_rng(3)
    solid = bulk("Cu", cubic=True)
    solid.rattle(0.1, rng=rng)
    solid.set_cell(solid.cell.array + rng.normal(0, 0.1, (3, 3)), scale_atoms=True)
    solid.set_initial_magnetic_moments([1.0, 0.1, -0.3, 0.0])
    solid.calc = EMT()
    stress = solid.get_stress()
    solid.calc = SinglePointCalculator(
        solid, energy=solid.get_potential_energy(), forces=solid.get_forces(), stress=stress
    )
    solid.info = {"structure_id": "iter_01-walker_03-frame_0120", "iteration": 1, "time_fs": 1.0 / 3.0, "walker": 3}
    atom = Atoms("Ar", positions=[[1e-17, 123456.789012345678, -0.1]])
    atom.calc = SinglePointCalculator(atom, energy=-1.5, forces=np.full((1, 3), 1.0 / 7.0))
    return [solid, atom]


def test_extxyz_round_trip_is_exact(tmp_path):
    path = tmp_path / "ä b.extxyz"
    before = labelled_atoms()
    write_structures(path, before)
    for old, new in zip(before, read_structures(path), strict=True):
        assert np.array_equal(old.positions, new.positions)
        assert np.array_equal(old.cell.array, new.cell.array)
        assert np.array_equal(old.pbc, new.pbc)
        assert np.array_equal(old.numbers, new.numbers)
        assert np.array_equal(old.get_initial_magnetic_moments(), new.get_initial_magnetic_moments())
        assert new.get_potential_energy() == old.get_potential_energy()
        assert np.array_equal(new.get_forces(), old.get_forces())
        assert new.info == old.info
    assert np.array_equal(read_structures(path)[0].get_stress(), before[0].get_stress())


def test_extxyz_is_read_by_ase(tmp_path):
    path = tmp_path / "a.extxyz"
    before = labelled_atoms()
    write_structures(path, before)
    after = read(path, index=":")
    assert np.array_equal(after[0].get_stress(), before[0].get_stress())
    assert np.array_equal(after[1].get_forces(), before[1].get_forces())


@pytest.mark.parametrize(
    "value",
    ["123456789012", "12e3", "1_0", "T", "nan", "Infinity", "", "a b", 'q"uo\\te', "line\nbreak", "{x}", "ü=1", None,
     True, 7, 0.1, -1e-300, {"a": [1, "x"]}, "0123456789abcdef" * 4],
)  # fmt: skip
def test_info_values_come_back_as_they_were(tmp_path, value):
    atoms = Atoms("H", info={"before": "x", "value": value, "after": 1})
    write_structures(tmp_path / "a.extxyz", [atoms, atoms])
    first, second = read_structures(tmp_path / "a.extxyz")
    assert first.info == {"before": "x", "value": value, "after": 1}
    assert type(first.info["value"]) is type(value)
    assert second.info == first.info


def test_no_structures_are_told_from_a_file_that_lost_its_content(tmp_path):
    path = tmp_path / "a.extxyz"
    write_structures(path, [])
    assert read_structures(path) == []
    path.write_bytes(b"")
    with pytest.raises(ExtxyzError, match=r"a\.extxyz: empty"):
        read_structures(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.extxyz"
    write_structures(path, labelled_atoms())
    content = path.read_bytes()
    second = content.index(b"\n1\n") + 1  # cut exactly there, whole structures are left
    for size in [*range(0, len(content), 5), second, len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ExtxyzError, match=r"a\.extxyz"):
            read_structures(path)


def flip_bits(content: bytes):
    """Every byte in turn with one of its bits changed."""
    for position, byte in enumerate(content):
        yield content[:position] + bytes([byte ^ (1 << position % 7)]) + content[position + 1 :]


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "a.extxyz"
    write_structures(path, labelled_atoms())
    content = path.read_bytes()
    wanted = read_structures(path)
    noticed = []
    for damaged in flip_bits(content):
        path.write_bytes(damaged)
        try:
            found = read_structures(path)
        except ExtxyzError as error:
            noticed.append("a.extxyz" in str(error))
            continue
        for new, old in zip(found, wanted, strict=True):
            assert new == old
            assert new.get_potential_energy() == old.get_potential_energy()
            assert np.array_equal(new.get_forces(), old.get_forces())
            assert old.info.items() <= new.info.items()
    assert all(noticed)
    assert len(noticed) > 0.95 * len(content)  # the rest is within the name `checksum`


def test_structures_that_another_program_wrote_anew_need_no_checksum(tmp_path):
    path = tmp_path / "a.extxyz"
    write_structures(path, labelled_atoms())
    write(tmp_path / "ase.extxyz", read(path, index=":")[:1])
    assert len(read_structures(tmp_path / "ase.extxyz")) == 1
    (tmp_path / "joined.extxyz").write_bytes(path.read_bytes() + (tmp_path / "ase.extxyz").read_bytes() * 2)
    assert len(read_structures(tmp_path / "joined.extxyz")) == 4


def test_a_checked_json_file_notices_every_flipped_bit(tmp_path):
    path = tmp_path / "a.json"
    value = {"energy": -1.25, "n": [1, 2.0], "key": {"1": None}}
    write_json(path, value, checked=True)
    content = path.read_bytes()
    assert read_json(path) == value
    noticed = []
    for damaged in flip_bits(content):
        path.write_bytes(damaged)
        try:
            found = read_json(path)
        except FileContentError as error:
            noticed.append("a.json" in str(error))
        else:
            assert value.items() <= found.items()
    assert all(noticed)
    assert len(noticed) > 0.8 * len(content)  # the rest is white space and the name `checksum`


@pytest.mark.parametrize(
    "damage",
    [b"garbage\n", b"\x80\xff\n", b"\n\n", b"2\nProperties=species:S:1:pos:R:3\nH 0 0 0\nH 0 x 0\n", b"-1\n\n",
     b"1\nProperties=species:S:1:pos:R:3\nH 0 0 0\n\n1\nProperties=species:S:1:pos:R:3\nH 0 0 0\n",
     b"1\nProperties=species:S:1:pos:R:3\nH 0 0 0 0\n", b"1\nProperties=species:S:1:pos:R:3\nQq 0 0 0\n"],
)  # fmt: skip
def test_malformed_files_are_refused(tmp_path, damage):
    path = tmp_path / "a.extxyz"
    path.write_bytes(damage)
    with pytest.raises(ExtxyzError, match=r"a\.extxyz"):
        read_structures(path)


def test_stale_results_are_not_written_and_constraints_are(tmp_path):
    atoms = labelled_atoms()[0]
    atoms.set_constraint(FixAtoms([0]))
    atoms.positions += 0.1
    write_structures(tmp_path / "a.extxyz", [atoms])
    (after,) = read_structures(tmp_path / "a.extxyz")
    assert after.calc is None
    assert np.array_equal(movable_mask(after), movable_mask(atoms))


def test_info_that_would_shadow_a_label_is_refused(tmp_path):
    with pytest.raises(ValueError, match="energy"):
        write_structures(tmp_path / "a.extxyz", [Atoms("H", info={"energy": 1.0})])
    with pytest.raises(ValueError, match="cannot be written"):
        write_structures(tmp_path / "a.extxyz", [Atoms("H", info={"a key": 1.0})])


ROWS = [{"name": "a", "x": 1 / 3, "reason": "near, too"}, {"name": "b", "n": 2, "reason": "far"}]


def test_tables_are_plain_csv(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, ROWS)
    assert path.read_text() == 'name,x,reason,n\na,0.333333,"near, too",\nb,,far,2\n'
    assert pd.read_csv(path).equals(read_table(path))
    assert read_table(path)["x"][0] == 0.333333
    assert read_table(path, as_text=True).to_dict("records")[1] == {"name": "b", "x": "", "reason": "far", "n": "2"}
    write_table(path, [], ["name", "reason"])
    assert path.read_text() == "name,reason\n"
    assert list(read_table(path).columns) == ["name", "reason"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_earlier_versions_are_read(tmp_path, end):
    path = tmp_path / "a.csv"
    path.write_text(end.join(["name,reason,checksum=0123456789abcdef", 'a,"near, too"', "b,far", ""]), newline="")
    assert read_table(path).to_dict("records") == [{"name": "a", "reason": "near, too"}, {"name": "b", "reason": "far"}]


def test_tables_cut_within_a_row_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    write_table(path, ROWS)
    content = path.read_bytes()
    for length in range(len(content)):
        if content[:length].endswith(b"\n"):
            continue  # whole rows are missing, which a plain table cannot tell
        path.write_bytes(content[:length])
        with pytest.raises(FileContentError, match=r"a\.csv.*delete it and run again"):
            read_table(path)
    for damaged in (content.replace(b"far,2", b"far"), content.replace(b"near, too", b'near" too'), b"\xff" + content):
        path.write_bytes(damaged)
        with pytest.raises(FileContentError, match=r"a\.csv.*delete it and run again"):
            read_table(path)
