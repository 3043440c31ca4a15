"""Nothing that is given as data is executed: models, checkpoints, structures, trajectories, configurations.

The one thing that a configuration may choose is what to run as labeller: ``label.calculator`` is imported and
called by the label jobs, and a calculator's parameters may name programs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from mlip.cli.app import app
from mlip.config.label import Label
from mlip.config.structures import StartingStructure
from mlip.config.system import load_config, parse_config
from mlip.config.values import ConfigError
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json, write_json
from mlip.io.netcdf import read_netcdf
from mlip.labels.store import LabelStore
from mlip.loop.label_structures import label_structures
from mlip.potential import PotentialFileError, load_potential
from mlip.structures.starting import StructureError, load_starting_structure
from mlip.training.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = {"system": "cu", "structures": [{"bulk": {"name": "Cu", "a": 3.6}}]}


class Trap:
    """Unpickling it creates the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path: Path):
    """The file that an executed trap leaves; the test fails when it is there."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def plain(marker: Path) -> bytes:
    return pickle.dumps(Trap(marker))


def torch_file(marker: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(3), "trap": Trap(marker)}, stream)
    return stream.getvalue()


def old_torch_file(marker: Path) -> bytes:
    stream = io.BytesIO()
    torch.save(Trap(marker), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def object_array(marker: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Trap(marker)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def array_archive(marker: Path) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, positions=np.array([Trap(marker)], dtype=object))
    return stream.getvalue()


def ase_pickle(marker: Path) -> bytes:
    return b"PickleTrajectory" + plain(marker)


TRAPS: list[Callable[[Path], bytes]] = [plain, torch_file, old_torch_file, object_array, array_archive, ase_pickle]
every_trap = pytest.mark.parametrize("trap", TRAPS)


def test_the_traps_work(tmp_path: Path) -> None:
    for number, trap in enumerate([plain, torch_file, object_array]):
        path = tmp_path / f"executed_{number}"
        content = io.BytesIO(trap(path))
        reader = [pickle.load, lambda s: torch.load(s, weights_only=False), lambda s: np.load(s, allow_pickle=True)]
        reader[number](content)
        assert path.exists()


@every_trap
def test_weights_and_descriptions(potential_folder: Path, tmp_path: Path, marker: Path, trap: Callable) -> None:
    folder = Path(shutil.copytree(potential_folder, tmp_path / "copy"))
    content = trap(marker)
    (folder / "potential.safetensors").write_bytes(content)
    description = read_json(folder / "potential.json")
    for digest in (description["sha256"], hashlib.sha256(content).hexdigest()):  # damaged; made by someone who knows
        write_json(folder / "potential.json", description | {"sha256": digest})
        with pytest.raises(PotentialFileError, match=r"potential\.safetensors"):
            load_potential(folder)
    (folder / "potential.json").write_bytes(content)
    with pytest.raises(PotentialFileError, match=r"potential\.json"):
        load_potential(folder)
    result = CliRunner().invoke(app, ["export", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)


def test_names_in_a_description_are_looked_up_never_imported(potential_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(potential_folder, tmp_path / "copy"))
    description = read_json(folder / "potential.json")
    for change in [{"backend": "os:system"}, {"size": description["size"] | {"hidden": "__import__('os')"}}]:
        write_json(folder / "potential.json", description | change)
        with pytest.raises(PotentialFileError):
            load_potential(folder)


@every_trap
def test_checkpoints(tmp_path: Path, marker: Path, trap: Callable) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(trap(marker))
    with pytest.warns(UserWarning, match="is damaged"):
        assert read_checkpoint(path, "identity") is None


@every_trap
def test_trajectories_and_tables(tmp_path: Path, marker: Path, trap: Callable) -> None:
    path = tmp_path / "walker_00.nc"
    path.write_bytes(trap(marker))
    with pytest.raises(ValueError, match=r"walker_00\.nc"):
        read_netcdf(path)


@every_trap
@pytest.mark.parametrize(
    "name",
    ["a.traj", "a.extxyz", "a.xyz", "a.cif", "POSCAR", "a.json", "a.npy", "a.npz", "a.pkl", "a.pckl", "a.db", "a.gpw",
     "a.bundle", "a.trj", "a.nc", "a.yaml", "a", "vasprun.xml", "a.pt"],
)  # fmt: skip
def test_structure_files(tmp_path: Path, marker: Path, trap: Callable, name: str) -> None:
    (tmp_path / name).write_bytes(trap(marker))
    with pytest.raises(StructureError, match=name):
        load_starting_structure(StartingStructure(file=str(tmp_path / name)))


CIF = """data_x
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
SITES = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Cu Cu 0 0 0
"""
OPERATOR = 'loop_\n_symmetry_equiv_pos_as_xyz\n\'x,y,z*__import__("os").system("touch MARKER")\'\n'
# Executed by versions of pymatgen before 2024.2.20 (CVE-2024-23346).
TRANSFORMATION = """_space_group_magn.transform_BNS_Pp_abc 'a,b,[d for d in ().__class__.__mro__[1]\
.__getattribute__(*[().__class__.__mro__[1]]+["__sub"+"classes__"])() if d.__name__=="BuiltinImporter"][0]\
.load_module("os").system("touch MARKER");0,0,0'
_space_group_magn.number_BNS 62.448
_space_group_magn.name_BNS "P n' m a' "
"""
EXPRESSIONS = [
    ("a.json", '{"@module": "subprocess", "@class": "Popen", "args": ["touch", "MARKER"]}'),
    ("a.json", '{"lattice": {"@module": "os", "@class": "system", "command": "touch MARKER"}, "sites": []}'),
    ("a.json", '{"1": {"__ase_objtype__": "cell", "numbers": {"__complex__": ["open(MARKER, 1)", 1]}}}'),
    ("a.yaml", "!!python/object/apply:os.system ['touch MARKER']"),
    ("a.cif", CIF.replace(" 4", " __import__('os').system('touch MARKER')", 1) + SITES),
    ("a.cif", CIF + OPERATOR + SITES),
    ("a.mcif", CIF + TRANSFORMATION + SITES),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "text"), EXPRESSIONS)
def test_structure_files_with_expressions(tmp_path: Path, marker: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text.replace("MARKER", str(marker)))
    with contextlib.suppress(StructureError):
        load_starting_structure(StartingStructure(file=str(tmp_path / name)))


def test_properties_of_a_structure_are_text(tmp_path: Path, marker: Path) -> None:
    value = f"__import__('os').system('touch {marker}')"
    comment = f'Properties=species:S:1:pos:R:3 note="{value}" other="_JSON {{\\"__reduce__\\": \\"os.system\\"}}"'
    (tmp_path / "a.extxyz").write_text(f"1\n{comment}\nCu 0 0 0\n")
    (atoms,) = read_structures(tmp_path / "a.extxyz")
    assert atoms.info["note"] == value


def test_label_records_and_results(tmp_path: Path, marker: Path) -> None:
    for trap in TRAPS:
        path = LabelStore(tmp_path).path("ab" * 32)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(trap(marker))
        with pytest.warns(UserWarning, match="damaged label record"):
            assert LabelStore(tmp_path).get("ab" * 32) is None
        (tmp_path / "dataset.json").write_bytes(trap(marker))
        with pytest.raises(ValueError, match=r"dataset\.json"):
            read_json(tmp_path / "dataset.json")


@every_trap
def test_foundation_models(tmp_path: Path, marker: Path, trap: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlip.potential.mace import foundation

    monkeypatch.setattr(foundation, "require_mace", lambda: None)
    path = tmp_path / "foundation.model"
    path.write_bytes(trap(marker))
    with pytest.raises(PotentialFileError, match=r"foundation\.model"):
        foundation.read_foundation(path)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.load", "torch.hub.load", "numpy.load", "mace.x"])
def test_functions_that_a_foundation_model_names_are_not_called(
    tmp_path: Path, marker: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlip.potential.mace import foundation

    monkeypatch.setattr(foundation, "require_mace", lambda: None)
    module, _, function = name.rpartition(".")
    # The pickle of a call of that function, written by hand: protocol 2, GLOBAL, one argument, REDUCE.
    call = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"X" + len(str(marker)).to_bytes(4, "little")
    call += str(marker).encode() + b"\x85R."
    path = tmp_path / "foundation.model"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("foundation/data.pkl", call)
        archive.writestr("foundation/version", "3\n")
        archive.writestr("foundation/byteorder", "little")
    with pytest.raises(PotentialFileError, match=r"foundation\.model"):
        foundation.read_foundation(path)


YAML_TRAPS = [
    "system: !!python/object/apply:os.system ['touch MARKER']",
    "system: !!python/object/new:subprocess.Popen [['touch', 'MARKER']]",
    "!!python/object/apply:builtins.open ['MARKER', 'w']: x",
    "system: !!python/name:os.system",
    "system: !!python/module:os",
    "__use_yte__: true\nsystem: ?open('MARKER', 'w').name",
]


@pytest.mark.parametrize("text", YAML_TRAPS)
def test_configurations(tmp_path: Path, marker: Path, text: str) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(text.replace("MARKER", str(marker)) + "\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml"):
        load_config(path)
    for command in ("run", "status"):
        result = CliRunner().invoke(app, [command, str(path)])
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "builtins.exec", "shutil.rmtree", "runpy.run_path"])
def test_programs_of_python_are_no_calculators(name: str) -> None:
    with pytest.raises(ConfigError, match=r"label\.calculator: .* belongs to Python"):
        parse_config(MINIMAL | {"label": {"calculator": name}})


def test_a_calculator_is_not_imported_before_a_label_is_computed(tmp_path: Path, marker: Path) -> None:
    """Parsing, planning and progress are safe with a configuration from anywhere."""
    (tmp_path / "trap_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(MINIMAL | {"label": {"calculator": "trap_module.Calculator"}}))
    for module, *arguments in [("mlip", "status", "c.yaml"), ("mlip", "run", "c.yaml", "--dry-run")]:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", ["no_such_package.Calculator", "ase.calculators.emt.NoSuch", "ase.no.EMT", "ase.units.fs"]
)
def test_a_calculator_that_cannot_be_imported_is_explained(tmp_path: Path, name: str) -> None:
    from ase.build import bulk

    files = {"out_structures": tmp_path / "s.extxyz", "out_records": tmp_path / "s.json"}
    with pytest.raises(ValueError, match=r"label\.calculator") as caught:
        label_structures(
            [bulk("Cu", cubic=True)], Label(calculator=name), store=tmp_path / "store", iteration=0, shard=0, **files
        )
    assert name in str(caught.value)
    assert not files["out_records"].exists()


def test_malicious_json_is_text(tmp_path: Path) -> None:
    value = {"py/object": "os.system", "__reduce__": ["os.system", ["x"]], "@class": "Popen"}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json") == value
