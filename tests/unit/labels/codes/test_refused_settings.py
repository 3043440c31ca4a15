"""Settings with which a code would label something else than was asked, and those that often mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip.config.label import Label
from mlip.labels.codes.registry import find_code
from mlip.labels.guards import find_traps
from mlip.labels.importing import LabelError
from mlip.labels.refusals import check_settings

ABINIT, ORCA, CP2K = "ase.calculators.abinit.Abinit", "ase.calculators.orca.ORCA", "ase.calculators.cp2k.CP2K"
ESPRESSO, VASP = "ase.calculators.espresso.Espresso", "ase.calculators.vasp.Vasp"


def without_moments(atoms: Atoms) -> Atoms:
    """``atoms`` as most files have them; ASE's own iron has moments."""
    del atoms.arrays["initial_magmoms"]
    return atoms


@pytest.mark.parametrize(
    ("calculator", "parameters", "words"),
    [
        (ESPRESSO, {"input_data": {"system": {"starting_magnetization(1)": 0.4}}}, "ASE replaces it by"),
        (ESPRESSO, {"starting_magnetization(1)": 0.4}, "initial_magmoms"),
        (ESPRESSO, {"input_data": {"sytem": {"ecutwfc": 30}}}, r"input_data\.sytem: pw\.x has no such namelist"),
        (VASP, {"ibrion": 6}, "ibrion: 6 computes vibrations"),
        (VASP, {"custom": {"ML_LMLFF": ".TRUE."}}, "machine-learned force field"),
        (VASP, {"isif": 0}, "isif: 0 leaves out the stress"),
        (VASP, {"custom": {"NSW": 5}}, "NSW: 5 moves atoms"),
        (ABINIT, {"iscf": -2}, "iscf: -2 keeps the density fixed"),
        (ABINIT, {"ndtset": 2}, "ndtset: 2 computes several data sets"),
        (ABINIT, {"optdriver": 1}, "optdriver: 1 is no single point"),
        (ORCA, {"orcasimpleinput": "PBE def2-SVP L-Opt"}, "`L-Opt` moves atoms"),
        (ORCA, {"orcasimpleinput": "! PBE OptTS"}, "`OptTS` moves atoms"),
        (ORCA, {"orcasimpleinput": "PBE NEB-TS"}, "`NEB-TS` moves atoms"),
        (CP2K, {"inp": "&GLOBAL\n RUN_TYPE ENERGY_FORCE\n RUN_TYPE CELL_OPT\n&END"}, "RUN_TYPE CELL_OPT"),
        (ESPRESSO, {"calculation": "vc-relax"}, "calculation: 'vc-relax' is no single point"),
        ("ase.calculators.siesta.Siesta", {"fdf_arguments": {"MD.NumCGsteps": 10}}, "NumCGsteps: 10 moves atoms"),
        ("ase.calculators.siesta.Siesta", {"fdf_arguments": {"SCF.MustConverge": False}}, "accepts an SCF"),
        ("ase.calculators.nwchem.NWChem", {"task": "optimize"}, "task: 'optimize' moves atoms"),
        ("ase.calculators.octopus.Octopus", {"CalculationMode": "go"}, "'go' moves atoms"),
        ("ase.calculators.gaussian.Gaussian", {"opt": "tight"}, "opt: 'tight' moves atoms"),
        ("ase.calculators.castep.Castep", {"task": "GeometryOptimization"}, "moves atoms"),
    ],
)
def test_what_labels_something_else_is_refused(calculator: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        check_settings(Label(calculator=calculator, parameters=parameters))


@pytest.mark.parametrize(
    ("calculator", "parameters"),
    [
        (ESPRESSO, {"input_data": {"SYSTEM": {"nspin": 2, "tot_magnetization": 2}, "electrons": {"conv_thr": 1e-8}}}),
        (VASP, {"ibrion": 2, "nsw": 0}),
        (VASP, {"ibrion": 0, "isif": 2}),
        (ABINIT, {"iscf": 17, "ndtset": 1, "optdriver": 0}),
        (ORCA, {"orcasimpleinput": "PBE def2-SVP TightSCF DefGrid3 NumGrad"}),
        (CP2K, {"inp": "&GLOBAL\n RUN_TYPE ENERGY_FORCE\n PREFERRED_FFT_LIBRARY FFTSG\n&END"}),
        (VASP, {"custom": {"ML_LMLFF": ".FALSE."}}),
        ("ase.calculators.siesta.Siesta", {"fdf_arguments": {"MD.TypeOfRun": "CG", "MD.NumCGsteps": 0}}),
        ("ase.calculators.nwchem.NWChem", {"task": "gradient"}),
        ("ase.calculators.octopus.Octopus", {"CalculationMode": "gs"}),
        ("ase.calculators.gaussian.Gaussian", {"method": "pbepbe", "force": None}),
    ],
)
def test_a_single_point_is_not(calculator: str, parameters: dict[str, Any]) -> None:
    check_settings(Label(calculator=calculator, parameters=parameters))


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ({"occupations": "smearing"}, ["Fe without initial magnetic moments"]),
        ({"occupations": "smearing", "nspin": 2}, ["nspin 2 without initial magnetic moments"]),
        ({"nspin": 2, "tot_magnetization": 4}, ["no `occupations`"]),
    ],
)
def test_espresso_tells_of_lost_spin_and_fixed_occupations(system: dict[str, Any], told: list[str]) -> None:
    iron = without_moments(bulk("Fe", cubic=True))
    parameters = {"kpts": [2, 2, 2], "input_data": {"system": system}}
    found = find_traps(iron, ESPRESSO, parameters)
    assert len(found) == len(told)
    assert all(text.startswith(start) for text, start in zip(found, told, strict=True))
    iron.set_initial_magnetic_moments(np.full(len(iron), 2.5))
    assert not [text for text in find_traps(iron, ESPRESSO, parameters) if "moments" in text]


def test_vasp_tells_of_noise_tetrahedra_and_lost_spin() -> None:
    iron, silicon = without_moments(bulk("Fe", cubic=True)), bulk("Si")
    found = find_traps(iron, VASP, {"kpts": [2, 2, 2], "ismear": -5})
    assert [text.split()[0] for text in found] == ["ediff", "ismear", "Fe"]
    assert find_traps(iron, VASP, {"kpts": [2, 2, 2], "ismear": 1, "ediff": 1e-6, "ispin": 2}) == []
    assert find_traps(silicon, VASP, {"kpts": [2, 2, 2], "ismear": -5, "ediff": 1e-6}) == []


@pytest.mark.parametrize(
    ("charge", "multiplicity", "inp", "words"),
    [
        (0.5, None, "", "charge of 0.5, and CP2K takes whole ones"),
        (0.0, 3, "&FORCE_EVAL\n&DFT\nMULTIPLICITY 1\n&END DFT\n&END FORCE_EVAL", "MULTIPLICITY stands here for all"),
        (1.0, None, "&FORCE_EVAL\n  &DFT\n    charge -1\n  &END DFT\n&END FORCE_EVAL", "charge stands here for all"),
    ],
)
def test_cp2k_refuses_a_state_that_it_cannot_take(
    charge: float, multiplicity: int | None, inp: str, words: str
) -> None:
    with pytest.raises(LabelError, match=words):
        find_code("ase.calculators.cp2k.CP2K").with_state({"inp": inp}, charge, multiplicity)


def test_cp2k_takes_a_state() -> None:
    code = find_code("ase.calculators.cp2k.CP2K")
    parameters = code.with_state({"inp": "&FORCE_EVAL\n&DFT\nUKS\n&END DFT\n&END FORCE_EVAL"}, -1.0, 2)
    assert {key: parameters[key] for key in ("charge", "multiplicity", "uks")} == {
        "charge": -1,
        "multiplicity": 2,
        "uks": True,
    }


SMEARED = "&FORCE_EVAL\n&DFT\n&SCF\n&SMEAR ON\n&END\n&END\n&END\n&END"


@pytest.mark.parametrize(
    ("calculator", "fixed", "smeared"),
    [
        (ESPRESSO, [{}, {"input_data": {"system": {"occupations": "fixed"}}}],
         [{"input_data": {"system": {"occupations": kind}}} for kind in ("smearing", "tetrahedra_opt")]),
        (VASP, [{"ismear": -2, "ediff": 1e-6}], [{"ediff": 1e-6}, {"ismear": 0, "ediff": 1e-6}]),
        (ABINIT, [{}, {"occopt": 1}], [{"occopt": 3}, {"occopt": 7}]),
        (CP2K, [{}, {"inp": SMEARED.replace("SMEAR ON", "SMEAR OFF")}, {"inp": SMEARED.replace("SMEAR ON", "OT")}],
         [{"inp": SMEARED}, {"inp": SMEARED.replace(" ON", "")}]),
    ],
)  # fmt: skip
def test_fixed_occupations_are_told_of_metals_alone(calculator: str, fixed: list, smeared: list) -> None:
    def told(atoms: Atoms, parameters: dict[str, Any]) -> bool:
        found = find_traps(atoms, calculator, {"kpts": [4, 4, 4]} | parameters)
        return any("the occupations of a metal are fixed" in text for text in found)

    salt, atom = bulk("NaCl", "rocksalt", a=5.6), Atoms("Al", cell=[12, 12, 12], pbc=True)
    for parameters in fixed:
        assert told(bulk("Al"), parameters)
        assert not any(told(atoms, parameters) for atoms in (salt, bulk("Si"), atom))
    assert not any(told(bulk("Al"), parameters) for parameters in smeared)


def test_all_bands_at_once_are_not_tried_with_tetrahedra() -> None:
    ladder = find_code(VASP).ladder({"ismear": -5})
    assert [step.get("algo") for step in ladder] == ["Normal", None]
    assert find_code(VASP).ladder({"ismear": 0})[-1]["algo"] == "All"


def test_forces_and_stress_are_asked_for_whatever_the_settings_say(tmp_path: Path) -> None:
    from ase.calculators.aims import Aims

    off = {"compute_forces": False, "compute_analytical_stress": ".false.", "xc": "pbe"}
    made = find_code("ase.calculators.aims.Aims").build(
        Aims, off, {"species_dir": str(tmp_path), "command": "aims.x"}, tmp_path, bulk("Si")
    )
    assert [made.parameters[key] for key in ("compute_forces", "compute_analytical_stress")] == [True, True]
