"""``mlip import``: what it says of a file, and whether it fits."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa
from typer.testing import CliRunner

from mlip.cli.app import app
from mlip.io.extxyz import read_structures, write_structures

LABEL = {"calculator": "ase.calculators.emt.EMT"}
CONFIG = {"system": "copper", "structures": [{"bulk": {"name": "Cu"}}], "label": LABEL}


def coppers(n: int = 12, stress_factor: float = 1.0) -> list[Atoms]:
    found = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True, a=3.5 + 0.02 * k)
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress_factor * stress)
        found.append(atoms)
    return found


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["import", *map(str, arguments)])
    return done.exit_code, done.output


def configured(folder: Path, **changed: object) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | changed))
    return folder / "config.yaml"


def test_a_sound_file_is_described_and_fits(tmp_path: Path) -> None:
    structures = coppers()
    write_structures(tmp_path / "mine.extxyz", [*structures, structures[0]])
    code, text = invoke(tmp_path / "mine.extxyz", "--config", configured(tmp_path))
    assert code == 0, text
    assert "extxyz, 13 structures, 13 usable" in text
    assert "duplicates  1 structures" in text
    assert "fits        copper: yes" in text
    assert "settings: check}]" in text


def test_json_has_the_numbers(tmp_path: Path) -> None:
    structures = coppers()
    structures[2].info["charge"] = 1
    structures[4].calc.results["forces"][0, 0] = np.nan
    structures[5].calc.results.pop("stress")
    ase.io.write(tmp_path / "mine.traj", structures)
    structures[2].info = {}
    code, text = invoke(tmp_path / "mine.traj", "--json")
    (found,) = json.loads(text)
    assert code == 0
    assert found["formulas"] == {"Cu4": 12}
    assert (found["structures"], found["usable"]) == (12, 11)
    assert found["unusable"] == [f"{tmp_path}/mine.traj:4: forces are not finite"]
    assert {name: found["labels"][name] for name in ("energy", "forces", "stress")} == {
        "energy": 12,
        "forces": 12,
        "stress": 11,
    }
    assert found["labels"]["pressure_gpa"][1] == pytest.approx(-structures[0].get_stress()[:3].mean() / GPa)
    assert found["volume_per_atom"][0] == pytest.approx(3.5**3 / 4)


def test_a_wrong_unit_is_named_and_does_not_fit(tmp_path: Path) -> None:
    write_structures(tmp_path / "mine.extxyz", coppers(30, stress_factor=1 / GPa))
    code, text = invoke(tmp_path / "mine.extxyz", "--config", configured(tmp_path))
    assert code == 1
    assert "stresses in GPa" in text
    assert "fits        copper: no" in text


def test_foreign_elements_and_absent_energies_do_not_fit(tmp_path: Path) -> None:
    gold = coppers()
    for atoms in gold:
        atoms.symbols[0] = "Au"
    write_structures(tmp_path / "mine.extxyz", gold)
    config = configured(tmp_path, label=LABEL | {"isolated_atoms": {"Cu": 0.0}})
    code, text = invoke(tmp_path / "mine.extxyz", "--config", config)
    assert code == 1
    assert "Au in no starting structure" in text
    assert "label.isolated_atoms has no energy for Au" in text


def test_usable_structures_are_written_clean(tmp_path: Path) -> None:
    structures = coppers()
    structures[3].calc = None
    for atoms in structures:
        atoms.info["config_type"] = "bulk"
        atoms.info["spin"] = 1
    ase.io.write(tmp_path / "mine.db", structures)
    code, text = invoke(tmp_path / "mine.db", "--out", tmp_path / "clean.extxyz")
    assert code == 0, text
    clean = read_structures(tmp_path / "clean.extxyz")
    assert len(clean) == 11
    np.testing.assert_allclose(clean[0].get_forces(), structures[0].get_forces(), atol=1e-12)
    assert "config_type" not in clean[0].info
    code, text = invoke(tmp_path / "mine.db", "--out", tmp_path / "clean.extxyz")
    assert code == 1
    assert "is there already" in text


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    code, text = invoke(tmp_path / "absent.extxyz")
    assert code == 1
    assert "absent.extxyz: no such file" in text
    (tmp_path / "x.dat").write_text("hello")
    code, text = invoke(tmp_path / "x.dat")
    assert code == 1
    assert "x.dat: cannot be read as" in text
    assert "name another `format`" in text
