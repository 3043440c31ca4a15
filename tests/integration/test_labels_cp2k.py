"""Real labels of CP2K: two atoms of silicon, a few seconds each."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip.config.label import Label
from mlip.labels.importing import LabelError
from mlip.labels.labeller import Labeller, Outcome

CP2K = "ase.calculators.cp2k.CP2K"
BASE = {
    "basis_set": "SZV-MOLOPT-SR-GTH", "basis_set_file": "BASIS_MOLOPT", "pseudo_potential": "GTH-PADE-q4",
    "potential_file": "GTH_POTENTIALS", "xc": "LDA", "cutoff": 1360,
}  # fmt: skip
pytestmark = [
    pytest.mark.cp2k,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cp2k") is None, reason="cp2k is not installed (Debian: cp2k)"),
]


def settings(profile: dict | None = None, escalations: tuple | None = None, **changes) -> Label:
    return Label(calculator=CP2K, parameters=BASE | changes, profile=profile or {}, escalations=escalations)


def silicon() -> Atoms:
    atoms = bulk("Si", a=5.43)
    atoms.rattle(0.05, seed=1)
    atoms.info["structure_id"] = "si"
    return atoms


def label(folder: Path, settings: Label, atoms: Atoms | None = None) -> Outcome:
    with Labeller(settings, folder / "store", folder / "scratch") as labeller:
        return labeller.label(atoms or silicon())


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("ASE_CONFIG_PATH", str(tmp_path / "none.ini"))
    monkeypatch.delenv("CP2K_DATA_DIR", raising=False)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> tuple[Path, Outcome]:
    """Folder and outcome of the label of a bare configuration."""
    folder = tmp_path_factory.mktemp("bare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASE_CONFIG_PATH", str(folder / "none.ini"))
        patch.delenv("CP2K_DATA_DIR", raising=False)
        return folder, label(folder, settings())


def test_a_bare_configuration_labels_and_counts_the_time_of_the_shell(bare):
    folder, outcome = bare
    assert outcome.status == "ok"
    assert outcome.record["results"]["energy"] == pytest.approx(-193.6958, abs=1e-3)
    assert np.shape(outcome.record["results"]["stress"]) == (6,)
    assert outcome.record["program"].startswith("CP2K ")
    assert outcome.record["core_seconds"] > 0.5
    assert label(folder, settings(print_level="MEDIUM", command="cp2k_shell.psmp")).cached


def test_unconverged_is_no_label_and_goes_up_the_ladder(tmp_path):
    outcome = label(tmp_path, settings(max_scf=2))
    assert [a["status"] for a in outcome.record["attempts"]] == ["unconverged", "ok"]
    assert "SCF run NOT converged" in outcome.record["attempts"][0]["reason"]
    hopeless = settings(max_scf=2, escalations=({"mixing": {"ALPHA": 0.1}},))
    assert label(tmp_path / "h", hopeless).status == "unconverged"
    again = label(tmp_path / "h", hopeless)
    assert (again.status, again.cached, len(again.record["attempts"])) == ("unconverged", True, 2)


def test_the_second_step_of_the_ladder_converges_to_the_same(tmp_path, bare):
    plain = bare[1]
    slower = label(tmp_path, settings(max_scf=300, mixing={"METHOD": "BROYDEN_MIXING", "ALPHA": 0.1, "NBROYDEN": 8}))
    assert slower.status == "ok"
    assert slower.record["results"]["energy"] == pytest.approx(plain.record["results"]["energy"], abs=1e-3)


def test_a_missing_basis_is_an_error_of_settings_in_the_words_of_the_code(tmp_path):
    with pytest.raises(LabelError, match=r"basis set <NO-SUCH-BASIS> for element <Si> was not found"):
        label(tmp_path, settings(basis_set="NO-SUCH-BASIS"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basis_set_file": "NO_FILE"}, "basis_set_file: there is no file NO_FILE"),
        (
            {"inp": "&FORCE_EVAL\n&DFT\n&SCF\nIGNORE_CONVERGENCE_FAILURE\n&END\n&END\n&END"},
            "IGNORE_CONVERGENCE_FAILURE",
        ),
        ({"inp": "&GLOBAL\nRUN_TYPE GEO_OPT\n&END"}, "GEO_OPT"),
        ({"basis_sets": "x"}, "basis_sets"),
        ({"directory": "here"}, "directory"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path, changes, message):
    with pytest.raises(LabelError, match=message):
        label(tmp_path, settings(**changes))


def test_moments_that_it_is_not_told_are_refused(tmp_path):
    magnetic = silicon()
    magnetic.set_initial_magnetic_moments([1.0, 0.0])
    with pytest.raises(LabelError, match=r"magnetic moments.*CP2K.*multiplicity"):
        label(tmp_path, settings(), magnetic)


def test_another_basis_under_the_same_name_has_another_key(tmp_path, monkeypatch):
    original = next(path for path in (Path("/usr/share/cp2k"), Path("/usr/share/cp2k/data")) if path.is_dir())
    ids = []
    for name, added in (("a", ""), ("copy", ""), ("b", "\n# another\n")):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("BASIS_MOLOPT", "GTH_POTENTIALS"):
            (folder / file).write_text((original / file).read_text() + added)
        with Labeller(settings(profile={"data_dir": str(folder)}), tmp_path / "store") as labeller:
            ids.append(labeller.settings_id)
    assert ids[0] == ids[1] != ids[2]


def test_a_killed_shell_is_a_crash_with_the_tail_of_its_output(tmp_path):
    script = tmp_path / "shell"
    script.write_text('#!/bin/bash\n(sleep 2.5; pkill -9 -P $$ cp2k) & cp2k_shell "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    outcome = label(tmp_path, settings(profile={"command": f"{script}"}, cutoff=8000))
    assert outcome.status == "crashed"
    assert "SCF WAVEFUNCTION OPTIMIZATION" in (tmp_path / "store/logs" / f"{outcome.key}.txt").read_text()


def test_a_density_of_points_and_a_mesh_are_the_same_label(tmp_path, bare):
    mesh, density = (label(tmp_path, settings(kpts=kpts)) for kpts in ([2, 2, 2], {"density": 0.9, "even": True}))
    assert (mesh.status, density.status) == ("ok", "ok")
    assert density.record["results"]["energy"] == pytest.approx(mesh.record["results"]["energy"], abs=1e-6)
    assert abs(mesh.record["results"]["energy"] - bare[1].record["results"]["energy"]) > 1.0
