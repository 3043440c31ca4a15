"""Spin and charge of structures that a code stops at without a remedy, or drops without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from mlip.config.label import Label
from mlip.config.system import parse_config
from mlip.doctor.structures import find_complaints
from mlip.labels.codes.espresso import _classify
from mlip.labels.codes.registry import find_code
from mlip.labels.importing import LabelError
from mlip.labels.labeller import Labeller
from mlip.labels.refusals import check_settings
from mlip.labels.store import decode_structure, encode_structure

ESPRESSO, VASP, TBLITE = "ase.calculators.espresso.Espresso", "ase.calculators.vasp.Vasp", "tblite.ase.TBLite"
ORCA, AIMS, ABINIT = "ase.calculators.orca.ORCA", "ase.calculators.aims.Aims", "ase.calculators.abinit.Abinit"
HYDROXIDE = molecule("OH", vacuum=4.0, pbc=True)  # ASE gives it a moment of 1
HYDROXIDE.info["charge"] = -1


def tell(calculator: str, atoms: Atoms, parameters: dict[str, Any]) -> dict[str, Any]:
    """What the labeller does with ``atoms``."""
    return find_code(calculator).parameters_for(decode_structure(encode_structure(atoms)), parameters)


def system(**values: Any) -> dict[str, Any]:
    """Parameters of pw.x."""
    return {"kpts": [1, 1, 1], "input_data": {"system": {"ecutwfc": 30} | values}}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (system(noncolin=True, nspin=2), "nspin: 2 is collinear"),
        (system(nspin=4), "nspin: with 4, ASE writes no moments; write noncolin: true"),
        (system(lspinorb=True), "lspinorb: .* add noncolin: true"),
        (system(noncolin=True, tot_magnetization=2), "tot_magnetization"),
        (system(noncolin=True) | {"kpts": None}, r"kpts: missing; .*kpts: \[1, 1, 1\]"),
    ],
)
def test_contradictions_of_spin_are_named_before_the_first_label(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        check_settings(Label(calculator=ESPRESSO, parameters=parameters))


@pytest.mark.parametrize(
    "parameters",
    [
        system(noncolin=True, lspinorb=True),
        system(noncolin=False, nspin=2, tot_magnetization=1),
        system(noncolin=True) | {"kpts": None, "additional_cards": ["K_POINTS automatic", "2 2 2 0 0 0"]},
        system(noncolin=".false.", lspinorb=".false."),
    ],
)
def test_settings_of_spin_that_go_together_are_taken(parameters: dict[str, Any]) -> None:
    check_settings(Label(calculator=ESPRESSO, parameters=parameters))


def test_spin_orbit_coupling_wants_a_pseudopotential_that_has_it(tmp_path: Path) -> None:
    """pw.x runs with `lspinorb` and scalar relativistic files alone, and has none of it in its results."""
    code, place = find_code(ESPRESSO), {"command": "true", "pseudo_dir": str(tmp_path)}
    parameters = system(noncolin=True, lspinorb=True) | {"pseudopotentials": {"Pt": "Pt.UPF"}}
    for header in ('has_so="false"\nrelativistic="scalar"', "generated with a Scalar-Relativistic Calculation"):
        (tmp_path / "Pt.UPF").write_text(header)
        with pytest.raises(LabelError, match=r"lspinorb: Pt\.UPF: no fully relativistic pseudopotential"):
            code.identity(parameters, place)
    for header in (
        'has_so="T"',
        "has_so='.true.'",
        "2  generated with a Fully-Relativistic Calculation",
    ):
        (tmp_path / "Pt.UPF").write_text(header)
        assert code.identity(parameters, place)


def test_moments_that_ase_gives_by_itself_are_named_with_the_remedy() -> None:
    """pw.x said `fixed occupations and lsda need tot_magnetization` of every label."""
    remedies = r"HO has initial magnetic moments, as ASE gives them.*`multiplicity`.*smearing.*remove `initial_magmoms`"
    with pytest.raises(LabelError, match=remedies):
        tell(ESPRESSO, HYDROXIDE, system())
    with pytest.raises(LabelError, match="HO is computed with nspin 2"):
        tell(ESPRESSO, Atoms("OH", positions=[[0, 0, 0], [0, 0, 1]]), system(nspin=2))
    assert tell(ESPRESSO, HYDROXIDE, system(occupations="smearing", degauss=0.01))
    assert tell(ESPRESSO, HYDROXIDE, system(nspin=2, tot_magnetization=0))
    singlet = HYDROXIDE.copy()
    singlet.info["multiplicity"] = 1
    assert tell(ESPRESSO, singlet, system())["input_data"]["system"]["tot_magnetization"] == 0
    singlet.arrays.pop("initial_magmoms")
    del singlet.info["multiplicity"]
    assert tell(ESPRESSO, singlet, system())["input_data"]["system"] == {"ecutwfc": 30, "tot_charge": -1}


def test_a_multiplicity_is_none_of_a_non_collinear_run() -> None:
    radical = molecule("OH", vacuum=4.0)
    radical.info["multiplicity"] = 2
    with pytest.raises(LabelError, match=r"multiplicity 2, which pw\.x fixes in collinear runs only"):
        tell(ESPRESSO, radical, system(noncolin=True))


def test_the_doctor_says_it_before_the_first_label(tmp_path: Path) -> None:
    HYDROXIDE.write(tmp_path / "oh.xyz", format="extxyz")
    label = {"calculator": ESPRESSO, "parameters": system()}
    walkers = {"walkers": [{"ensemble": "nvt", "temperatures": [300]}]}
    config = parse_config(
        {"system": "x", "structures": [{"file": str(tmp_path / "oh.xyz")}], "label": label, "explore": walkers}
    )
    found = [complaint for complaint in find_complaints(config, [HYDROXIDE]) if complaint.name == "spin and charge"]
    assert len(found) == 1
    assert found[0].fatal
    assert "initial magnetic moments" in found[0].detail


@pytest.mark.parametrize("calculator", [ESPRESSO, AIMS, ABINIT, TBLITE])
def test_moments_with_directions_are_refused_where_ase_writes_one_number(calculator: str) -> None:
    iron = Atoms("Fe", cell=bulk("Fe").cell, pbc=True, magmoms=np.array([[0.0, 0.0, 2.3]]))
    with pytest.raises(LabelError, match=r"moments of Fe are vectors.*along z"):
        tell(calculator, iron, system(occupations="smearing"))


def test_vasp_reads_one_moment_for_each_atom_or_three() -> None:
    collinear = bulk("Fe")
    vectors = Atoms("Fe", cell=collinear.cell, pbc=True, magmoms=np.array([[0.0, 0.0, 2.3]]))
    assert tell(VASP, collinear, {"ispin": 2}) == {"ispin": 2}
    assert tell(VASP, vectors, {"custom": {"LNONCOLLINEAR": ".TRUE."}})
    with pytest.raises(LabelError, match="have three numbers for each atom, and VASP reads one without"):
        tell(VASP, vectors, {"ispin": 2})
    with pytest.raises(LabelError, match="have one number for each atom, and VASP reads three with"):
        tell(VASP, collinear, {"lsorbit": True})


def test_unpaired_electrons_that_the_charge_does_not_leave_stop_tblite_at_once(tmp_path: Path) -> None:
    """Every label was `crashed`: the total number of electrons and of unpaired ones is not compatible."""
    settings = Label(calculator=TBLITE, parameters={"method": "GFN2-xTB"})
    with pytest.raises(LabelError, match="moments of HO sum to 1 µB, which 10 electrons do not allow"):
        tell(TBLITE, HYDROXIDE, settings.parameters)
    assert tell(TBLITE, molecule("OH"), settings.parameters)
    assert tell(TBLITE, molecule("OH"), {"multiplicity": 2})
    cerium = Atoms("Ce", magmoms=[1.0])  # its 4f electron may be in the core
    assert tell(TBLITE, cerium, settings.parameters) == settings.parameters
    pytest.importorskip("tblite", reason="tblite is not installed")
    with (
        pytest.raises(LabelError, match="ASE gives moments to some molecules by itself"),
        Labeller(settings, tmp_path) as labeller,
    ):
        labeller.label(HYDROXIDE)


def test_a_multiplicity_stands_for_moments_that_a_code_is_not_told() -> None:
    """The message said so, and the label was refused all the same."""
    radical = molecule("OH")
    with pytest.raises(LabelError, match="write a `multiplicity` into the structure's file"):
        tell(ORCA, radical, {})
    radical.info["multiplicity"] = 2
    assert tell(ORCA, radical, {}) == {"charge": 0, "mult": 2}


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("Error in routine electrons (1): charge is wrong: smearing is needed", "occupations: smearing"),
        ("Error in routine average_pp (1): FR-PP please use lspinorb=.true.", "lspinorb: true"),
        ("Error in routine readpp (1): file x not found", "correct them"),
    ],
)
def test_words_of_pw_x_come_with_what_to_do(words: str, remedy: str) -> None:
    failure = _classify(words)
    assert failure.status == "config_error"
    assert remedy in failure.reason.partition("(pw.x")[0]


def test_orca_takes_whole_charges_only() -> None:
    """Half an electron was cut off: the label was of the neutral molecule."""
    water = molecule("H2O")
    water.info["charge"] = 0.5
    with pytest.raises(LabelError, match=r"a charge of 0\.5, and ORCA takes whole ones; correct it"):
        tell(ORCA, water, {})
    water.info["charge"] = -1.0
    assert tell(ORCA, water, {})["charge"] == -1
