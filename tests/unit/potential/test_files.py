"""Potentials on disk: nothing is lost, and damage is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from mlip.io.files import read_json, write_json
from mlip.potential import PotentialFileError, load_potential


@pytest.fixture
def folder(potential_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(potential_folder, tmp_path / "copy"))


def test_round_trip_is_bitwise(folder: Path, alloys: list[Atoms], tmp_path: Path) -> None:
    first = load_potential(folder)
    first.save(tmp_path / "again")
    second = load_potential(tmp_path / "again")
    assert (tmp_path / "again/potential.safetensors").read_bytes() == (folder / "potential.safetensors").read_bytes()
    for a, b in zip(first.predict(alloys[:3]), second.predict(alloys[:3]), strict=True):
        assert np.array_equal(a.forces_members, b.forces_members)
        assert np.array_equal(a.energy_members, b.energy_members)
        assert np.array_equal(a.forces_std, b.forces_std)
    assert first.calibration == second.calibration


def test_a_file_of_version_1_gives_the_energies_that_were_stored_with_it(tmp_path: Path) -> None:
    # Written by commit 904db6a, whose members had fields of their own; loading compares energies of a test cluster.
    old = load_potential(Path(__file__).parents[2] / "data/potential_v1")
    assert old.n_members == 2
    old.save(tmp_path)
    assert json.loads((tmp_path / "potential.json").read_text())["format_version"] == 3
    cluster = Atoms("Au2Cu2", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [0, 0, 2.6]])
    first, second = old.predict([cluster])[0], load_potential(tmp_path).predict([cluster])[0]
    assert np.array_equal(first.forces_members, second.forces_members)


def test_a_file_of_version_2_gives_the_forces_and_uncertainties_that_were_stored_with_it() -> None:
    # Written by commit 66d9102, whose networks brought features to unit variance; two layers, last layer.
    folder = Path(__file__).parents[2] / "data/potential_v2"
    expected = json.loads((folder / "expected.json").read_text())
    cluster = Atoms("Au2Cu2", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [0, 0, 2.6]])
    found = load_potential(folder).predict([cluster])[0]
    np.testing.assert_allclose(found.forces, expected["forces"], atol=1e-6)
    np.testing.assert_allclose(found.forces_std, expected["forces_std"], rtol=1e-6)
    assert found.energy_std == pytest.approx(expected["energy_std"], rel=1e-6)


@pytest.mark.parametrize("name", ["potential.safetensors", "potential.json"])
def test_missing_and_truncated_files_are_reported(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(PotentialFileError, match=name):
        load_potential(folder)
    path.unlink()
    with pytest.raises(PotentialFileError, match=f"{name}.*cannot be read"):
        load_potential(folder)


def test_a_flipped_bit_is_noticed(folder: Path) -> None:
    path = folder / "potential.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(PotentialFileError, match="checksum"):
        load_potential(folder)


def test_a_changed_digit_in_the_description_is_noticed(folder: Path) -> None:
    path = folder / "potential.json"
    text = path.read_text()
    start = text.index('"calibration"')
    digit = next(k for k in range(start, len(text)) if text[k] in "12345678")
    path.write_text(text[:digit] + str(int(text[digit]) + 1) + text[digit + 1 :])
    with pytest.raises(PotentialFileError, match=r"potential\.json: does not match the checksum"):
        load_potential(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 99, "version 99"),
        ("backend", "magic", "'magic'"),
        ("size", {}, "inconsistent"),
        ("frame", 3, "inconsistent"),
    ],
)
def test_unusable_descriptions_are_reported(folder: Path, key: str, value: object, message: str) -> None:
    write_json(folder / "potential.json", read_json(folder / "potential.json") | {key: value})
    with pytest.raises(PotentialFileError, match=message):
        load_potential(folder)


def test_code_that_evaluates_the_weights_differently_is_noticed(folder: Path) -> None:
    path = folder / "potential.json"
    description = read_json(path)
    description["probe_energies"] = [e + 0.1 for e in description["probe_energies"]]
    write_json(path, description)
    with pytest.raises(PotentialFileError, match="incompatible version"):
        load_potential(folder)
