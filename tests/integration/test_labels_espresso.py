"""Real labels of Quantum ESPRESSO: two atoms of silicon, a second each."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from mlip.config.label import Label
from mlip.io.files import sha256_file
from mlip.labels.importing import LabelError
from mlip.labels.labeller import Labeller, Outcome

PSEUDO = Path("/usr/share/espresso/pseudo")
UPF = "Si.pz-vbc.UPF"
ESPRESSO = "ase.calculators.espresso.Espresso"
pytestmark = [
    pytest.mark.qe,
    pytest.mark.skipif(shutil.which("pw.x") is None, reason="pw.x is not installed (Debian: quantum-espresso)"),
    pytest.mark.skipif(not (PSEUDO / UPF).is_file(), reason=f"no {PSEUDO / UPF} (Debian: quantum-espresso-data)"),
]


def settings(electrons: dict | None = None, profile: dict | None = None, **changes) -> Label:
    data = {"system": {"ecutwfc": 15}} | ({"electrons": electrons} if electrons else {})
    parameters = {"pseudopotentials": {"Si": UPF}, "input_data": data, "kpts": [2, 2, 2]} | changes.pop("more", {})
    return Label(calculator=ESPRESSO, parameters=parameters, profile=profile or {}, **changes)


def silicon(seed: int = 1) -> Atoms:
    atoms = bulk("Si", a=5.43)
    atoms.rattle(0.05, seed=seed)
    atoms.info["structure_id"] = f"si-{seed}"
    return atoms


def label(folder: Path, label: Label, *structures: Atoms) -> list[Outcome]:
    with Labeller(label, folder / "store", folder / "scratch ü") as labeller:
        return [labeller.label(atoms) for atoms in structures or (silicon(),)]


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("ASE_CONFIG_PATH", str(tmp_path / "none.ini"))
    monkeypatch.delenv("ESPRESSO_PSEUDO", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_bare_configuration_labels(tmp_path):
    """Energy, forces and stress from one run, asked for by nobody; a constraint changes nothing."""
    fixed = silicon()
    fixed.set_constraint(FixAtoms([0]))
    first, again = label(tmp_path, settings(), silicon(), fixed)
    assert (first.status, again.status, again.cached) == ("ok", "ok", True)
    results = first.record["results"]
    assert results["energy"] == pytest.approx(-212.6111, abs=2e-3)
    assert np.abs(results["forces"][0]).max() > 0.1
    assert len(results["stress"]) == 6
    assert first.record["program"].startswith("pw.x ")
    assert first.record["core_seconds"] > 0.02
    assert first.record["attempts"][0]["status"] == "ok"


@pytest.mark.parametrize("way", ["profile", "inner", "ase", "environment", "namelist"])
def test_every_way_to_name_the_program_gives_the_same_key(tmp_path, monkeypatch, way):
    bare = Labeller(settings(), tmp_path / "store")
    profile, more = {"command": "pw.x", "pseudo_dir": str(PSEUDO)}, {}
    if way == "inner":
        profile, more = {}, {"profile": profile}
    elif way == "ase":
        (tmp_path / "ase.ini").write_text(f"[espresso]\ncommand = pw.x\npseudo_dir = {PSEUDO}\n")
        monkeypatch.setenv("ASE_CONFIG_PATH", str(tmp_path / "ase.ini"))
        profile = {}
    elif way == "environment":
        monkeypatch.setenv("ESPRESSO_PSEUDO", str(PSEUDO))
        profile = {}
    elif way == "namelist":
        data = {
            "control": {"pseudo_dir": str(PSEUDO), "disk_io": "none", "max_seconds": 3000},
            "system": {"ecutwfc": 15},
        }
        profile, more = {}, {"input_data": data}
    found = settings(profile=profile, more=more)
    with Labeller(found, tmp_path / "store") as labeller, bare:
        assert labeller.settings_id == bare.settings_id
        assert labeller.label(silicon()).status == "ok"


def test_unconverged_goes_up_the_ladder_and_is_remembered(tmp_path):
    (outcome,) = label(tmp_path, settings({"electron_maxstep": 2}))
    assert outcome.status == "ok"
    assert [a["status"] for a in outcome.record["attempts"]] == ["unconverged", "ok"]
    assert "convergence NOT achieved after   2" in outcome.record["attempts"][0]["reason"]
    assert set(outcome.record["changed"]) == {
        "input_data.electrons.mixing_beta",
        "input_data.electrons.electron_maxstep",
    }
    (plain,) = label(tmp_path, settings())
    assert plain.key != outcome.key
    assert abs(plain.record["results"]["energy"] - outcome.record["results"]["energy"]) < 1e-4
    hopeless = settings({"electron_maxstep": 2}, escalations=())
    (first,), (second,) = label(tmp_path / "h", hopeless), label(tmp_path / "h", hopeless)
    assert (first.status, first.cached) == ("unconverged", False)
    assert (second.status, second.cached) == ("unconverged", True)
    assert (
        "End of self-consistent calculation" in second.record["log_tail"]
        or "espresso.pwo" in (tmp_path / "h/store/logs" / f"{first.key}.txt").read_text()
    )


def test_a_users_own_ladder_may_be_flat(tmp_path):
    steps = ({"input_data": {"electron_maxstep": 100, "mixing_beta": 0.3}},)
    flat = {"input_data": {"ecutwfc": 15, "electron_maxstep": 2}}
    (outcome,) = label(tmp_path, settings(escalations=steps, more=flat))
    assert (outcome.status, len(outcome.record["attempts"])) == ("ok", 2)


@pytest.mark.parametrize(
    ("electrons", "more", "message"),
    [
        ({"electron_maxstep": 2, "scf_must_converge": False}, {}, "scf_must_converge.*did not converge"),
        (None, {"directory": "work/qe_dir"}, "label.parameters.directory.*private folder"),
        (None, {"input_data": {"control": {"outdir": "/scratch/me"}}}, "outdir.*shared"),
        (None, {"input_data": {"control": {"calculation": "relax"}}}, "calculation.*single point"),
        (None, {"pseudopotentials": {"Si": "Si.missing.UPF"}}, r"pseudopotentials.Si.*Si.missing.UPF.*pseudo_dir"),
        (None, {"ecutwfcc": 15}, "ecutwfcc.*no such setting"),
    ],
)
def test_what_cannot_be_right_is_refused_before_the_first_label(tmp_path, electrons, more, message):
    with pytest.raises(LabelError, match=message):
        label(tmp_path, settings(electrons, more=more))


def test_a_refused_input_is_an_error_of_settings_in_the_words_of_the_code(tmp_path):
    data = {"system": {"ecutwfc": 15}, "electrons": {"elctron_maxstep": 20}}
    with pytest.raises(LabelError, match=r"si-1.*read_namelists.*elctron_maxstep.*log: "):
        label(tmp_path, settings(more={"input_data": data}))


def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(LabelError, match=r"label.profile.command.*no program `pw-7.x`"):
        label(tmp_path, settings(profile={"command": "pw-7.x"}))


def test_another_pseudopotential_under_the_same_name_has_another_key(tmp_path):
    keys = []
    for name, added in (("a", ""), ("copy", ""), ("b", "another\n")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / UPF).write_text((PSEUDO / UPF).read_text() + added)
        with Labeller(settings(profile={"pseudo_dir": str(folder)}), tmp_path / "store") as labeller:
            keys.append(labeller.settings_id)
    assert keys[0] == keys[1] != keys[2]


def wrapper(folder: Path, body: str) -> str:
    path = folder / "run pw.x"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f"'{path}'"


def test_a_killed_program_is_a_crash_with_the_tail_of_its_output(tmp_path):
    command = wrapper(tmp_path, 'pw.x "$@" | head -n 60; kill -9 $$')
    (outcome,) = label(tmp_path, settings(profile={"command": command}))
    assert (outcome.status, len(outcome.record["attempts"])) == ("crashed", 1)
    assert "SIGKILL" in outcome.reason
    assert "Program PWSCF" in (tmp_path / "store/logs" / f"{outcome.key}.txt").read_text()


def test_an_output_without_its_end_is_no_label(tmp_path):
    command = wrapper(tmp_path, 'pw.x "$@" | head -n -40; exit 0')
    (outcome,) = label(tmp_path, settings(profile={"command": command}))
    assert (outcome.status, outcome.record["results"]) == ("crashed", None)
    assert "JOB DONE" in outcome.reason


def test_a_pseudopotential_that_is_replaced_between_two_labels_is_found(tmp_path):
    path = tmp_path / UPF
    path.write_text((PSEUDO / UPF).read_text())
    with Labeller(settings(profile={"pseudo_dir": str(tmp_path)}), tmp_path / "store") as labeller:
        assert labeller.label(silicon(1)).status == "ok"
        path.write_text(path.read_text() + "\n<!-- another -->\n")
        with pytest.raises(LabelError, match=r"a file that pw\.x reads.* has changed"):
            labeller.label(silicon(2))


def test_the_threads_are_those_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    seen = tmp_path / "threads"
    command = wrapper(tmp_path, f'echo $OMP_NUM_THREADS $(pwd) >> {seen}; OMP_NUM_THREADS=1 exec pw.x "$@"')
    outcomes = label(tmp_path, settings(profile={"command": command}), silicon(1), silicon(2))
    assert [o.status for o in outcomes] == ["ok", "ok"]
    labels = [line for line in seen.read_text().splitlines() if "scratch" in line]
    assert len(labels) == 2
    assert all(line.startswith("3 ") for line in labels)
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_time_that_a_stopped_program_used_is_counted(tmp_path):
    command = wrapper(tmp_path, "exec python3 -c 'while True: pass'")
    (outcome,) = label(tmp_path, settings(profile={"command": command}, timeout_minutes=0.1))
    assert outcome.status == "timeout"
    assert outcome.record["core_seconds"] > 1.0


def test_a_charged_cell_has_a_label_of_its_own(tmp_path):
    ion = silicon()
    ion.info["charge"] = 1
    smeared = {"input_data": {"ecutwfc": 15, "occupations": "smearing", "degauss": 0.02}}
    neutral, charged = label(tmp_path, settings(more=smeared), silicon(), ion)
    assert (neutral.status, charged.status) == ("ok", "ok")
    assert abs(neutral.record["results"]["energy"] - charged.record["results"]["energy"]) > 1.0


WRAPPED = """
from pathlib import Path
from ase.calculators.espresso import Espresso as _Espresso, EspressoProfile

class Espresso(_Espresso):
    def __init__(self, command="pw.x", pseudo_dir=None, **kw):
        super().__init__(profile=EspressoProfile(command=command, pseudo_dir=pseudo_dir), **kw)
"""


def test_a_users_own_wrapper_is_known_for_what_it_is(tmp_path, monkeypatch):
    (tmp_path / "own_espresso.py").write_text(WRAPPED)
    monkeypatch.syspath_prepend(str(tmp_path))
    control = {"tprnfor": True, "tstress": True}
    parameters = {
        "pseudo_dir": str(PSEUDO), "pseudopotentials": {"Si": UPF}, "kpts": [2, 2, 2],
        "input_data": {"control": control, "system": {"ecutwfc": 15}, "electrons": {"electron_maxstep": 2}},
    }  # fmt: skip
    steps = ({"input_data": {"electrons": {"electron_maxstep": 100, "mixing_beta": 0.3}}},)
    own = Label(calculator="own_espresso.Espresso", parameters=parameters, escalations=steps)
    (failed,) = label(tmp_path / "failed", own.model_copy(update={"escalations": ()}))
    assert "--- espresso.pwo" in (tmp_path / "failed/store/logs" / f"{failed.key}.txt").read_text()
    (outcome,) = label(tmp_path, own)
    assert [a["status"] for a in outcome.record["attempts"]] == ["unconverged", "ok"]
    assert outcome.status == "ok"
    assert outcome.record["element_files"]["Si"]["sha256"] == sha256_file(PSEUDO / UPF)
    assert outcome.record["ran"].startswith("pw.x ")


def test_another_elements_pseudopotential_makes_no_label(tmp_path):
    """pw.x computes silicon with aluminium's pseudopotential and calls it converged."""
    wrong = settings(more={"pseudopotentials": {"Si": "Al.pz-vbc.UPF"}})
    with pytest.raises(LabelError, match="is of Al, and would stand for Si"):
        label(tmp_path, wrong)


def test_a_molecule_without_a_cell_is_told_so(tmp_path):
    with pytest.raises(LabelError, match=r"Si2 has no cell.*vacuum"):
        label(tmp_path, settings(), Atoms("Si2", [[0, 0, 0], [0, 0, 2.3]], info={"structure_id": "dimer"}))
