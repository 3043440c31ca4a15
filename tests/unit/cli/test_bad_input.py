"""Whatever a user gives: a message that names file, key and remedy, on one screen, and nothing is written over."""

from __future__ import annotations

import copy
import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase.io import write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from mlip.cli.app import app
from mlip.config.structures import StartingStructure
from mlip.config.system import Config, load_config
from mlip.config.values import MAX_PROBLEMS, ConfigError
from mlip.doctor.checks import check_config
from mlip.loop.collect_dataset import read_labelled
from mlip.structures.starting import StructureError, load_starting_structure

ROOT = Path(__file__).resolve().parents[3]
MINIMAL = {"system": "cu", "structures": [{"bulk": {"name": "Cu", "a": 3.6}}]}
EMT = {"label": {"calculator": "ase.calculators.emt.EMT"}}
WHOLE = yaml.safe_load(yaml.safe_dump(Config(**MINIMAL).model_dump(mode="json")))  # every key that there is
SCREEN = 24  # lines
FUZZ = settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def mlip(*arguments: object) -> Result:
    """The command line in this process. Anything but a message and an exit code is a failure of the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) <= SCREEN
    for word in words:
        assert word in " ".join(result.output.split()), result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Configurations


def places(values: Any, path: tuple = ()) -> list[tuple]:
    """Where every key and list entry of ``values`` is."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [(*path, key) for key, _ in inner] + [p for key, item in inner for p in places(item, (*path, key))]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(places(WHOLE)),
        st.sampled_from(["replace", "remove", "rename", "scale"]),
        JUNK,
        st.sampled_from([1e-9, 0.1, 10.0, 1000.0, -1.0]),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


def change(values: dict, path: tuple, kind: str, junk: Any, factor: float) -> None:
    *above, last = path
    for key in above:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):  # an earlier change took it away
            return
    if not isinstance(values, dict) or last not in values:
        return
    if kind == "remove":
        del values[last]
    elif kind == "rename":
        values[f"{last}{random.Random(str(path)).choice(string.ascii_letters)}"] = values.pop(last)
    elif kind == "scale" and isinstance(values[last], int | float):
        values[last] *= factor
    else:
        values[last] = junk


@FUZZ
@given(CHANGES)
def test_any_configuration_is_valid_or_explained(tmp_path: Path, changes: list) -> None:
    values = copy.deepcopy(WHOLE)
    for item in changes:
        change(values, *item)
    path = tmp_path / "fuzzed.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        config = load_config(path)
    except ConfigError as error:
        lines = str(error).splitlines()
        assert lines[0].startswith(str(path))
        assert len(lines) <= MAX_PROBLEMS + 2
        assert max(map(len, lines[1:])) < 500
        assert all(character.isprintable() for line in lines for character in line)
    else:
        assert Config.model_validate(config.model_dump()) == config


@FUZZ
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b"a: " + b"9" * 5000)
@example(b"[" * 10_000)
@example(b"a: &a [*a]\nsystem: x\n")
@example(b"&a [1,1,1,1,1,1,1,1]: 1\n")
@example(b"".join(b"k%d: &k%d [%s]\n" % (n, n, b",".join([b"*k%d" % (n - 1)] * 9 if n else [b"1"])) for n in range(9)))
def test_any_file_as_configuration_is_explained(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fuzzed.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"fuzzed\.yaml") as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) < SCREEN


@pytest.mark.parametrize(
    ("section", "value", "remedy"),
    [
        ("train", {"cutoff": 0.5}, "train.cutoff: Input should be greater than or equal to 1.5 (found 0.5)"),
        ("train", {"cutoff": 500}, "environment, Å"),
        ("explore", {"walkers": [{"temperatures": [0.0259]}]}, "temperatures.0: Input should be greater"),
        ("explore", {"walkers": [{"pressure": 101325}]}, "Pressure of NPT walkers, GPa"),
        ("explore", {"timestep": 0.001}, "MD time step, fs"),
        ("explore", {"friction": 10}, "friction, 1/fs"),
        ("prepare", {"rattle": [8.0]}, "displacements, Å"),
        ("structures", [{"bulk": {"name": "Cu", "a": 0.361}}], "structures.0.bulk.a"),
        ("structures", [{"bulk": {"name": "Cu", "a": 361}}], "Lattice constant in Å"),
    ],
)
def test_a_value_in_another_unit_is_refused_with_the_unit(
    tmp_path: Path, section: str, value: Any, remedy: str
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(MINIMAL | {section: value}))
    assert_refused(mlip("status", tmp_path / "c.yaml"), "c.yaml: 1 problem", remedy)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("system: a\nstructures:\n- bulk: {name: Cu}\nsystem: b\n")
    assert_refused(mlip("status", tmp_path / "c.yaml"), "`system` is given twice, in lines 1 and 4")


@pytest.mark.parametrize("command", ["run", "status", "doctor"])
@pytest.mark.parametrize("name", ["missing.yaml", "folder.yaml", "x" * 300 + ".yaml", "empty.yaml", "huge.yaml"])
def test_every_command_explains_a_bad_configuration_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlip.doctor.checks.run_checks", check_config)
    Path("folder.yaml").mkdir()
    Path("empty.yaml").touch()
    Path("huge.yaml").write_bytes(b"#" * 3_000_000)
    before = contents(tmp_path)
    assert_refused(mlip(command, name), name[:20])
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_bad_structure_is_explained_to_who_runs_the_loop(tmp_path: Path) -> None:
    (tmp_path / "s.xyz").write_text(frame(["Cu 0 0 0", "Cu nan 2 2"]))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(MINIMAL | EMT | {"structures": [{"file": "s.xyz"}]}))
    kept = tmp_path / "results" / "cu" / "report.html"
    kept.parent.mkdir(parents=True)
    kept.write_text("an earlier report")
    done = subprocess.run(
        [sys.executable, "-m", "mlip", "run", "c.yaml", "--cores", "1", "--until", "prepare_structures"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    log = tmp_path / "results" / "cu" / "logs" / "iter_00" / "prepare_structures.log"
    said = log.read_text().splitlines()[-1]
    assert said == "structures: s.xyz: positions or cell hold NaN or infinity; repair the file"
    assert said in done.stderr
    assert len(done.stderr.splitlines()) < SCREEN
    assert kept.read_text() == "an earlier report"


@pytest.mark.slow
def test_the_snakefile_explains_a_bad_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(MINIMAL | {"train": {"cutoff": 0.5, "n_step": 3}}))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--configfile", "c.yaml", "-n"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "train.cutoff: Input should be greater than or equal to 1.5 (found 0.5)" in said
    assert "train.n_step: unknown key; did you mean `n_steps`?" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) < SCREEN
    assert not (tmp_path / "results").exists()


# Structures


def frame(rows: list[str], lattice: str = "4 0 0 0 4 0 0 0 4", pbc: str = "T T T", extra: str = "") -> str:
    comment = f'Lattice="{lattice}" Properties=species:S:1:pos:R:3{extra} pbc="{pbc}"'
    return "\n".join([str(len(rows)), comment, *rows]) + "\n"


def load(path: Path) -> Any:
    return load_starting_structure(StartingStructure(file=str(path)))


PAIR = ["Cu 0 0 0", "Cu 2 2 2"]
BAD_STRUCTURES = {
    "nan.extxyz": (frame(["Cu 0 0 0", "Cu nan 2 2"]), "NaN"),
    "zero.extxyz": (frame(PAIR, "0 0 0 0 0 0 0 0 0"), "give a cell or set pbc=False"),
    "left.extxyz": (frame(PAIR, "4 0 0 0 4 0 0 0 -4"), "left-handed cell; swap two cell vectors"),
    "coincident.extxyz": (frame(["Cu 0 0 0", "Cu 4 0 0"]), "coincide; remove duplicates"),
    "unknown.extxyz": (frame(["Qq 0 0 0", "Cu 2 2 2"]), "Qq"),
    "dummy.extxyz": (frame(["X 0 0 0", "Cu 2 2 2"]), "unknown element (atomic number 0)"),
    "many.extxyz": (frame([f"Cu {3 * k} 0 0" for k in range(10_000)], "9999 0 0 0 4 0 0 0 4"), "10000 atoms"),
    "mixed.extxyz": (frame(PAIR, "4 0 0 4 0 0 0 0 20", "T T F"), "linearly dependent"),
    "nanometres.extxyz": (
        frame(["Cu 0 0 0", "Cu .2 .2 .2"], ".4 0 0 0 .4 0 0 0 .4"),
        "lengths must be in Å, not in nm",
    ),
    "tiny.extxyz": (frame(PAIR, "4e-3 0 0 0 4e-3 0 0 0 4e-3"), "lengths must be in Å"),
    "thin.extxyz": (frame(PAIR, "4 0 0 0 4 0 3.999 0 0.02"), "0.02 Å high"),
    "far.extxyz": (frame(["Cu 0 0 0", "Cu 1e300 2 2"]), "1e+300 Å"),
    "moments.extxyz": (frame([f"{row} nan" for row in PAIR], extra=":initial_magmoms:R:1"), "initial_magmoms"),
    "frames.xyz": (frame(PAIR) * 3, "3 structures in one file; split it"),
    "count.xyz": ("99999999999\n\nCu 0 0 0\n", "'99999999999'; the file is cut short"),
    "digits.xyz": ("9" * 5000 + "\n\nCu 0 0 0\n", "cut short"),
    "cut.xyz": ("3\n\nCu 0 0 0\n", "cut short"),
    "windows.xyz": ("\ufeff" + frame(PAIR), "save it as UTF-8 without one"),
    "windows.cif": ("\ufeffdata_x\r\n", "save it as UTF-8 without one"),
    "empty.cif": ("", "is empty; give a file"),
    "deep.json": ("[" * 100_000, "not a structure file"),
}


@pytest.mark.parametrize("name", BAD_STRUCTURES)
def test_bad_structure_files_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlip.doctor.checks.run_checks", check_config)
    content, remedy = BAD_STRUCTURES[name]
    Path(name).write_text(content)
    Path("c.yaml").write_text(yaml.safe_dump({"system": "cu", "structures": [{"file": name}]}))
    before = contents(tmp_path)
    assert_refused(mlip("doctor", "c.yaml"), "structures: ", name.partition(".")[0], remedy[:12])
    with pytest.raises(StructureError) as caught:
        load(Path(name))
    assert remedy in str(caught.value)
    assert contents(tmp_path) == before


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "OUTCAR"
    with path.open("wb") as stream:
        stream.truncate(50 * 10**9)  # sparse: it takes no space
    with pytest.raises(StructureError, match=r"OUTCAR has 50000 MB.*take one structure out"):
        load(path)


def test_repeats_are_counted_before_they_are_made() -> None:
    with pytest.raises(StructureError, match=r"structures: Cu: repeat .* makes 4000000000 atoms, more than 5000"):
        load_starting_structure(StartingStructure(bulk={"name": "Cu"}, repeat=(1000, 1000, 1000)))


def test_unusual_but_sound_structures_are_read(tmp_path: Path) -> None:
    for name, lattice, pbc in [
        ("slab@1.xyz", "4 0 0 0 4 0 0 0 0", "T T F"),
        ("molecule.xyz", "0 0 0 0 0 0 0 0 0", "F F F"),
        ("wire*.xyz", "4 0 0 0 0 0 0 0 0", "T F F"),
        ("ü ü.xyz", "0 4 0 4 0 0 0 0 -4", "T T T"),
    ]:
        (tmp_path / name).write_text(frame(PAIR, lattice, pbc))
        assert len(load(tmp_path / name)) == 2


TOKENS = ["nan", "inf", "-1", "0", "1e-3", "1e9", "1e300", "Qq", "X", "T", '"', "=", "", "9" * 30, "\x00", "ü", "\n"]


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(TOKENS)), min_size=1, max_size=4))
def test_a_structure_file_with_changed_words_is_sound_or_explained(tmp_path: Path, changes: list) -> None:
    words = frame(PAIR).replace(" ", "\x01 \x01").replace("\n", "\x01\n\x01").split("\x01")
    for place, token in changes:
        words[place % len(words)] = token
    path = tmp_path / "fuzzed.extxyz"
    path.write_text("".join(words), encoding="utf-8")
    assert_sound_or_explained(path)


@FUZZ
@given(
    st.sampled_from(
        ["a.xyz", "a.extxyz", "a.cif", "POSCAR", "a.json", "a.traj", "a.pdb", "a.cube", "a.xsf", "a", "a.gen"]
    ),
    st.binary(max_size=300) | st.text(max_size=200).map(str.encode),
)
def test_binary_junk_under_any_name_is_explained(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert_sound_or_explained(tmp_path / name)


def assert_sound_or_explained(path: Path) -> None:
    try:
        atoms = load(path)
    except StructureError as error:
        message = str(error)
        assert path.name in message
        assert len(message.splitlines()) < SCREEN
        assert all(c.isprintable() or c == "\n" for c in message)
    else:
        assert np.isfinite(atoms.positions).all()
        assert np.isfinite(atoms.cell.array).all()
        assert atoms.numbers.min() > 0


# Data and options of `mlip train`, `evaluate` and `export`


def labelled(energy: str = "-1", rows: list[str] | None = None, **options: str) -> str:
    text = frame(rows or [f"{row} 0 0 0" for row in PAIR], extra=":forces:R:3", **options)
    return text.replace(" pbc=", f" energy={energy} pbc=") * 3


BAD_DATA = {
    "energy.xyz": (labelled("nan"), "energy is NaN"),
    "text.xyz": (labelled('"abc"'), "its energy is not a number"),
    "forces.xyz": (labelled(rows=["Cu 0 0 0 nan 0 0", "Cu 2 2 2 0 0 0"]), "forces"),
    "shape.xyz": (labelled(rows=["Cu 0 0 0 1", "Cu 2 2 2 1"]).replace("forces:R:3", "forces:R:1"), "its forces"),
    "tiny.xyz": (labelled(lattice=".04 0 0 0 .04 0 0 0 .04"), "lengths must be in Å"),
    "twins.xyz": (labelled(rows=["Cu 0 0 0 0 0 0", "Cu 0 0 0 0 0 0"]), "coincide"),
    "element.xyz": (labelled(rows=["X 0 0 0 0 0 0", "X 2 2 2 0 0 0"]), "name real elements"),
    "columns.xyz": (labelled().replace("pos:R:3", "pos:R:x"), "columns"),
    "periodic.xyz": (labelled(pbc="x y z"), 'pbc="x y z"'),
    "unlabelled.xyz": (frame(PAIR) * 3, "no energy"),
    "digits.xyz": ("9" * 5000 + "\n", "expected a number of atoms"),
    "empty.xyz": ("", "empty or cut short"),
    "none.xyz": ("\n", "holds no structures"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_training_data_are_explained_before_anything_is_written(tmp_path: Path, name: str) -> None:
    content, words = BAD_DATA[name]
    (tmp_path / name).write_text(content)
    before = contents(tmp_path)
    assert_refused(mlip("train", tmp_path / name, "--out", tmp_path / "p"), words)
    assert contents(tmp_path) == before


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 100), st.sampled_from(TOKENS)), min_size=1, max_size=4))
def test_data_with_changed_words_are_sound_or_explained(tmp_path: Path, changes: list) -> None:
    words = labelled().replace(" ", "\x01 \x01").replace("\n", "\x01\n\x01").split("\x01")
    for place, token in changes:
        words[place % len(words)] = token
    path = tmp_path / "fuzzed.extxyz"
    path.write_text("".join(words), encoding="utf-8")
    message = ""
    try:
        structures = read_labelled(path)
        assert all(np.isfinite(atoms.positions).all() for atoms in structures)
    except ValueError as error:
        message = str(error)
    assert not message or ("fuzzed.extxyz" in message and len(message.splitlines()) < SCREEN)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--settings", "list.json"], ["list.json", "valid dictionary"]),
        (["--settings", "nm.json"], ["nm.json", "cutoff: Input should be greater than or equal to 1.5"]),
        (["--settings", "cut.json"], ["cut.json: not valid JSON", "repair it"]),
        (["--isolated", "list.json"], ["list.json: expected an energy in eV for each symbol"]),
        (["--isolated", "nan.json"], ["nan.json: expected an energy"]),
        (["--device", "toaster"], ["--device toaster", "use cpu"]),
        (["--max-seconds", "nan"], ["--max-seconds nan"]),
        (["--previous", "nowhere"], ["--previous nowhere: no such folder"]),
        (["--seed", "-1"], ["--seed"]),
        (["--valid", "missing.xyz"], ["missing.xyz: No such file"]),
        (["--out", "good.xyz"], ["good.xyz: File exists; give another path"]),
    ],
)
def test_bad_options_are_explained_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = {"list": "[1]", "nm": '{"cutoff": 0.5}', "cut": '{"cutoff": ', "nan": '{"Cu": NaN}'}
    for name, text in texts.items():
        Path(f"{name}.json").write_text(text)
    Path("good.xyz").write_text(labelled())
    before = contents(tmp_path)
    assert_refused(mlip("train", "good.xyz", "--out", "p", *arguments), *words)
    assert contents(tmp_path) == before


def test_bad_potentials_are_explained(tmp_path: Path) -> None:
    (tmp_path / "good.xyz").write_text(labelled())
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "potential.safetensors").write_bytes(b"junk")
    for content in ["[]", "3", "{", json.dumps({"format_version": 2, "backend": "ace"})]:
        (tmp_path / "p" / "potential.json").write_text(content)
        assert_refused(mlip("evaluate", tmp_path / "p", tmp_path / "good.xyz"), "p/potential.")
        assert_refused(mlip("export", tmp_path / "p", "--out", tmp_path / "e"), "p/potential.")
    assert not (tmp_path / "e").exists()
    assert_refused(
        mlip("export", tmp_path / "p", "--out", tmp_path / "e", "--format", "onnx"), "onnx", "choose from pt2"
    )


def test_data_that_ase_wrote_are_read(tmp_path: Path) -> None:
    (tmp_path / "good.xyz").write_text(labelled())
    structures = read_labelled(tmp_path / "good.xyz")
    write(tmp_path / "ase.extxyz", structures)
    assert len(read_labelled(tmp_path / "ase.extxyz")) == 3
