"""The report serves every kind of system: what it says was simulated, which error it shows and what it advises."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms
from ase.io import write

sys.path.insert(0, str(Path(__file__).parents[1]))
from synthetic_results import synthetic_config, synthetic_results, write_json

from mlip.config.label import Label
from mlip.config.loop import Explore, Walker
from mlip.config.structures import StartingStructure
from mlip.jobs.ledger import read_ledger
from mlip.report import report_system, summary_table
from mlip.report.advice import advise
from mlip.report.headline import choose_force_error, find_disagreement
from mlip.report.loop_page import _criteria
from mlip.report.page import describe_criterion, shift_text
from mlip.report.scope import describe_scope
from mlip.report.settings import describe_labels, summarise_labels
from mlip.report.sources import IterationRecord, LoopRecord
from mlip.report.system import (
    describe_conditions,
    describe_structures,
    describe_walkers,
    list_unmet_kinds,
    summarise_structures,
)

GPAW = {"mode": {"name": "pw", "ecut": 250}, "xc": "PBE", "kpts": {"size": [3, 3, 3], "gamma": True}}
PW = {"input_data": {"system": {"ecutwfc": 60.0}}, "pseudopotentials": {"Si": "Si.UPF"}, "kpts": [2, 2, 1]}


def loop_of(tmp_path: Path, *assessments: dict) -> LoopRecord:
    """A loop that left nothing but ``assessments``."""
    empty = {"dataset": {}, "training": {}, "provenance": {}, "labels": [], "decisions": None}
    records = [
        IterationRecord(number=k, assessment=entry, parity=None, eos=None, **empty)
        for k, entry in enumerate(assessments)
    ]
    return LoopRecord(records, read_ledger(tmp_path))


@pytest.mark.parametrize(
    ("label", "facts"),
    [
        (
            {"calculator": "gpaw", "parameters": GPAW},
            {"code": "GPAW 26.7.0", "functional": "PBE", "cutoff, basis": "plane waves, 250 eV"}
            | {"k-points": "3×3×3, Γ-centred"},
        ),
        (
            {"calculator": "gpaw", "parameters": {"mode": "lcao", "basis": {"O": "dzp"}, "h": 0.2, "xc": "LDA"}},
            {"code": "GPAW 26.7.0", "functional": "LDA", "cutoff, basis": "LCAO, basis O dzp, grid spacing 0.2 Å"}
            | {"k-points": "not given: the code's own default, often Γ alone"},
        ),
        (
            {"calculator": "ase.calculators.espresso.Espresso", "parameters": PW},
            {"code": "pw.x (Espresso)", "functional": "that of the pseudopotentials", "cutoff, basis": "60 Ry"}
            | {"k-points": "2×2×1"},
        ),
        (
            {"calculator": "ase.calculators.vasp.Vasp", "parameters": {"xc": "PBE", "encut": 520, "kspacing": 0.2}},
            {"code": "Vasp", "functional": "PBE", "cutoff, basis": "520 eV", "k-points": "spacing 0.2 Å⁻¹"},
        ),
        ({"calculator": "ase.calculators.emt.EMT"}, {"code": "EMT"}),
    ],
)
def test_settings_are_read_from_any_code(label, facts):
    facts = dict(facts)
    found = dict(describe_labels(Label(**label), periodic=True, versions={"gpaw": "26.7.0"}))
    assert found.pop("code").lower() == facts.pop("code").lower()  # VASP's own spelling once the code is described
    assert found == facts


def test_the_head_of_the_page_leaves_out_what_is_not_given():
    facts = describe_labels(Label(parameters={"xc": "PBE"}), periodic=True, versions={})
    assert summarise_labels(facts) == ["GPAW", "PBE"]


UPF_1 = "<PP_HEADER>\n   0  Version Number\n SLA  PW   PBE  PBE   PBE  Exchange-Correlation functional\n</PP_HEADER>\n"


@pytest.mark.parametrize(
    ("header", "functional"),
    [
        ('<PP_HEADER element="Si"\n functional=" SLA  PZ   NOGX NOGC"/>', "LDA (PZ)"),
        ('<PP_HEADER functional="SLA PW PBX PBC"/>', "PBE"),
        ('<PP_HEADER functional="PBESOL"/>', "PBEsol"),
        ('<PP_HEADER functional="SCAN"/>', "SCAN"),
        (UPF_1, "PBE"),
    ],
)
def test_the_functional_of_quantum_espresso_is_read_from_its_pseudopotentials(tmp_path, header, functional):
    (tmp_path / "Si.UPF").write_text(f"<UPF>\n{header}\n")
    calculator = "ase.calculators.espresso.Espresso"
    label = Label(calculator=calculator, parameters=PW, profile={"pseudo_dir": str(tmp_path)})
    facts = describe_labels(label, periodic=True, versions={})
    assert dict(facts)["functional"] == functional
    assert functional in summarise_labels(facts, label)


def test_pseudopotentials_that_are_elsewhere_are_named(tmp_path):
    place = {"pseudo_dir": str(tmp_path)}
    label = Label(calculator="ase.calculators.espresso.Espresso", parameters=PW, profile=place)
    head = summarise_labels(describe_labels(label, periodic=True, versions={}), label)
    assert "functional set by the pseudopotentials (Si.UPF)" in head


def test_structures_are_named_with_kind_and_cell(tmp_path):
    slab = fcc111("Cu", (2, 2, 4), vacuum=8.0, periodic=True)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.set_constraint(FixAtoms([0, 1, 2, 3]))
    slab.info.clear()
    write(tmp_path / "slab.extxyz", slab)
    write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    sources = [
        StartingStructure(bulk={"name": "Si", "crystalstructure": "diamond", "a": 5.43}, repeat=(1, 1, 2)),
        StartingStructure(file=str(tmp_path / "slab.extxyz")),
        StartingStructure(file=str(tmp_path / "ethanol.xyz")),
        StartingStructure(file=str(tmp_path / "gone.cif")),
    ]
    bulk, slab_found, ethanol, gone = found = describe_structures(sources)
    assert (bulk.name, bulk.formula, bulk.kind) == ("Si diamond, 1×1×2", "Si₁₆", "bulk")
    assert bulk.cell.replace("\u00a0", " ") == "a = 5.430 Å, b = 5.430 Å, c = 10.860 Å; α = β = γ = 90°"
    assert (slab_found.kind, slab_found.n_atoms) == ("slab", 17)
    assert slab_found.cell.endswith("vacuum along c; 4 atoms fixed")
    assert (ethanol.kind, ethanol.cell, ethanol.periodic) == ("molecule", "no cell", False)
    assert (gone.name, gone.kind, gone.cell) == ("gone.cif", "", "its file cannot be read here any more")
    assert summarise_structures(found) == "4 starting structures: 1 bulk, 1 slab, 1 molecule"
    assert summarise_structures(found[:1]) == "Si₁₆, bulk"


def test_kinds_wanted_in_vain_are_told():
    (told,) = list_unmet_kinds(synthetic_config(prepare={"kinds": {"swap": 2}}))
    assert told.startswith("prepare.kinds.swap: 2 is left out: it needs two elements")
    assert not list_unmet_kinds(synthetic_config())


def test_each_structure_of_a_file_has_its_number():
    config = synthetic_config(structures=[{"file": "many.extxyz", "index": ":2"}])
    assert [structure.name for structure in describe_structures(config.structures)] == [
        "many.extxyz, structure 0",
        "many.extxyz, structure 1",
    ]


def test_walkers_say_their_conditions():
    squeezed = Walker(ensemble="npt", temperatures=(300, 900), pressure=-5, volumes=(0.0, -0.06))
    assert describe_conditions(squeezed, ["a"]) == "300, 900 K; −5 GPa; volumes unchanged, −6 %"
    assert describe_conditions(Walker(temperatures=(300,)), ["a"]) == "300 K"
    melt = Walker(
        ensemble="npt",
        structures=(1,),
        repeat=(2, 2, 2),
        start="last",
        pressures=(0, 5),
        schedule=({"time": 0, "temperature": 300}, {"time": 500, "temperature": 2000}),
    )
    assert describe_conditions(melt, ["a", "b"]) == (
        "300 → 2000 K over 0.5 ps; 0, 5 GPa; in supercells 2×2×2; of b; from the last frames before"
    )


def test_walkers_say_how_long_they_run():
    groups = ({"temperatures": [300]}, {"temperatures": [900], "n_steps": 3000})
    facts = describe_walkers(Explore(walkers=groups, n_steps=500, timestep=2.0), ["a"])
    assert [tuple(fact) for fact in facts] == [
        ("NVT", "300 K"),
        ("NVT", "900 K; up to 6 ps"),
        ("other walkers", "up to 1 ps in steps of 2 fs"),
    ]


AUDIT = {"n_structures": 2, "force_rmse": 0.01, "interval": [0.0, 0.02], "confidence": 0.9}
TEST = {"n_structures": 12, "force_rmse": 0.1, "interval": [0.08, 0.12], "confidence": 0.9, "energy_rmse": 0.003}
FRESH = {"n_structures": 8, "force_rmse": 0.2, "energy_rmse": 0.004}
MANY = FRESH | {"n_structures": 40}


@pytest.mark.parametrize(
    ("assessment", "basis", "rests_on"),
    [
        ({"audit": AUDIT, "test": TEST, "fresh": FRESH}, "test", "12 test structures"),
        ({"audit": AUDIT | {"n_structures": 20}, "test": TEST, "fresh": FRESH}, "audit", "20 audit frames"),
        ({"audit": AUDIT, "test": TEST | {"n_structures": 1}, "fresh": FRESH}, "fresh", "8 newly labelled structures"),
        ({"audit": AUDIT | {"n_structures": 3}, "fresh": FRESH}, "audit", "3 audit frames"),
        ({"audit": None, "test": None, "fresh": FRESH}, "fresh", "8 newly labelled structures"),
        ({"audit": AUDIT | {"n_structures": 1}, "test": None, "fresh": None}, "audit", "1 audit frame"),
    ],
)
def test_the_first_error_shown_rests_on_the_most_structures(tmp_path, assessment, basis, rests_on):
    error = choose_force_error(loop_of(tmp_path, assessment))
    assert (error.basis, error.rests_on) == (basis, rests_on)
    assert error.rmse == assessment[basis]["force_rmse"]


def test_audit_frames_and_test_set_that_disagree_are_named(tmp_path):
    text = find_disagreement(loop_of(tmp_path, {"audit": AUDIT, "test": TEST}))
    assert text.startswith("Errors disagree: 0.01 eV/Å on 2 audit frames, 0.1 eV/Å on 12 test structures, 10 times")
    assert "select.n_audit" in text
    worse = find_disagreement(loop_of(tmp_path, {"audit": AUDIT | {"force_rmse": 0.5}, "test": TEST}))
    assert "max_iterations" in worse
    assert not find_disagreement(loop_of(tmp_path, {"audit": AUDIT | {"force_rmse": 0.08}, "test": TEST}))
    assert not find_disagreement(loop_of(tmp_path, {"audit": AUDIT, "test": None}))


@pytest.mark.parametrize(
    ("assessment", "basis"),
    [
        ({"audit": AUDIT | {"n_structures": 3}, "fresh": FRESH | {"interval": [0.0, 0.3]}}, "fresh"),
        (
            {"audit": AUDIT | {"n_structures": 3}, "fresh": FRESH | {"interval": [0.0, 0.03], "force_rmse": 0.015}},
            "audit",
        ),
        (
            {"audit": AUDIT | {"n_structures": 12}, "fresh": FRESH | {"interval": [0.1, 0.3], "n_structures": 40}},
            "audit",
        ),
        ({"audit": AUDIT | {"n_structures": 4}, "test": TEST | {"n_structures": 4}}, "test"),
    ],
)
def test_a_handful_of_easy_frames_does_not_hide_what_more_structures_say(tmp_path, assessment, basis):
    assert choose_force_error(loop_of(tmp_path, assessment)).basis == basis


def test_new_labels_that_contradict_a_handful_of_frames_are_named(tmp_path):
    few = AUDIT | {"n_structures": 3}
    text = find_disagreement(loop_of(tmp_path, {"audit": few, "test": None, "fresh": FRESH}))
    assert text.startswith("Errors disagree: 0.01 eV/Å on 3 audit frames, 0.2 eV/Å on 8 newly labelled structures, 20")
    assert "select.n_audit" in text
    many = AUDIT | {"n_structures": 12}
    assert not find_disagreement(
        loop_of(tmp_path, {"audit": many, "test": None, "fresh": FRESH | {"n_structures": 40}})
    )
    assert not find_disagreement(loop_of(tmp_path, {"audit": few, "fresh": FRESH | {"force_rmse": 0.019}}))


def criterion(name: str, value: float | None, target: float) -> dict:
    return {"name": name, "value": value, "target": target, "passed": False}


FORCES = "force RMSE on new labels (eV/Å)"
AUDITS = "audit force RMSE, upper bound (eV/Å)"


@pytest.mark.parametrize(
    ("entry", "rest", "said"),
    [
        (criterion(FORCES, None, 0.15), {}, "set max_iterations to"),
        (criterion("force RMSE over RMS force", 0.5, 0.3), {}, "raise assess.relative_force_rmse"),
        (criterion(AUDITS, 0.4, 0.15), {"audit": AUDIT}, "set select.n_audit to 8 (now 4)"),
        (
            criterion(AUDITS, None, 0.15),
            {"audit": AUDIT | {"n_failed": 2, "refused": "2 of 9"}},
            "2 audit frames could not be labelled",
        ),
        (
            criterion("audit force RMSE over RMS force, upper bound", 0.4, 0.15),
            {"audit": AUDIT | {"interval": [0.0, 0.4], "force_rmse": 0.1}},
            "set select.n_audit to 8 (now 4)",
        ),
        (
            criterion("audit force RMSE over RMS force, upper bound", 0.4, 0.15),
            {"audit": AUDIT | {"interval": [0.0, 0.4], "force_rmse": 0.3}},
            "raise assess.relative_force_rmse",
        ),
        (criterion("coverage of the 95 % uncertainty", 0.6, 0.8), {}, "train.committee_size 8 (now 4)"),
        (
            criterion("share of walkers stopped early", 0.5, 0.0),
            {"exploration": {"n_exploded": 1, "n_uncertain": 0}},
            "1 exploded: set explore.timestep to 0.5 fs (now 1)",
        ),
        (criterion("relative error of the bulk modulus", 0.11, 0.05), {}, "train.stress_weight 4 (now 1)"),
        (criterion("RMSE of the equation of state (eV/atom)", 0.1, 0.005), {}, "train.energy_weight 4 (now 1)"),
    ],
)
def test_each_criterion_that_failed_has_advice_with_key_and_value(tmp_path, entry, rest, said):
    loop = loop_of(tmp_path, {"criteria": [entry], **rest})
    text = advise(entry, synthetic_config(), loop)
    assert said.lower() in text.lower()
    assert not advise(entry | {"passed": True}, synthetic_config(), loop)


def test_an_error_that_falls_is_given_the_iterations_it_takes(tmp_path):
    falling = [{"criteria": [criterion(FORCES, value, 0.15)]} for value in (0.8, 0.4)]
    text = advise(falling[-1]["criteria"][0], synthetic_config(), loop_of(tmp_path, *falling))
    assert "fell from 0.8 to 0.4" in text
    assert "takes 2 more: set max_iterations to 5" in text  # 0.2, 0.1
    stuck = [{"criteria": [criterion(FORCES, value, 0.15)]} for value in (0.4, 0.4)]
    text = advise(stuck[-1]["criteria"][0], synthetic_config(), loop_of(tmp_path, *stuck))
    assert "set select.n_structures to 24 (now 12)" in text


def test_volumes_beyond_the_data_are_named(tmp_path):
    config = synthetic_config(prepare={"volume_range": [-0.02, 0.02]})
    text = advise(criterion("relative error of the bulk modulus", 0.11, 0.05), config, loop_of(tmp_path, {}))
    assert "widen prepare.volume_range to [-0.08, 0.08]" in text


def test_two_errors_that_rest_on_a_pair_of_structures_each_are_not_explained(tmp_path):
    pair = {"audit": AUDIT | {"force_rmse": 0.09}, "test": TEST | {"force_rmse": 0.045, "n_structures": 2}}
    text = find_disagreement(loop_of(tmp_path, pair))
    assert "2 times apart. Neither rests on enough to tell why: count on the larger error" in text
    more = {"audit": AUDIT | {"force_rmse": 0.09}, "test": TEST | {"force_rmse": 0.045}}
    assert "The walkers go where the potential knows less" in find_disagreement(loop_of(tmp_path, more))


def test_charge_and_multiplicity_stand_in_the_header(tmp_path):
    radical, neutral = molecule("OH"), molecule("H2O")
    radical.info |= {"charge": -2, "multiplicity": 2}
    cells = []
    for name, atoms in (("oh", radical), ("water", neutral)):
        write(tmp_path / f"{name}.extxyz", atoms)
        cells.append(describe_structures([StartingStructure(file=str(tmp_path / f"{name}.extxyz"))])[0].cell)
    assert cells == ["no cell; initial moments of 1 µB in all; charge −2 e; multiplicity 2", "no cell"]


def test_one_validation_structure_is_one(tmp_path):
    entry = criterion("coverage of the 95 % uncertainty", 0.6, 0.8)
    for count, text in ((1, "data, 1 structure now:"), (2, "data, 2 structures now:")):
        loop = loop_of(tmp_path, {"criteria": [entry], "dataset": {"valid": count}})
        assert text in advise(entry, synthetic_config(), loop)


def test_advice_fits_a_loop_without_prepared_structures_and_a_labeller_without_a_cutoff(tmp_path):
    """It was to set `prepare.n_structures 0`, and to raise the cutoff of Lennard-Jones' labels."""
    entry, loop = criterion("relative error of the bulk modulus", 0.11, 0.05), loop_of(tmp_path, {})
    plane_waves = {"calculator": "gpaw", "parameters": {"mode": {"name": "pw", "ecut": 350}}}
    existing = {"prepare": {"n_structures": 0}, "data": [{"file": "mine.extxyz", "settings": "same"}]}
    text = advise(entry, synthetic_config(**existing, label=plane_waves), loop)
    assert "existing data that span them, or prepare.n_structures 12 (now 0)" in text
    assert "raise the cutoff of label.parameters (now plane waves, 350 eV)" in text
    plain = {"calculator": "ase.calculators.lj.LennardJones", "parameters": {"sigma": 2.4}}
    text = advise(entry, synthetic_config(prepare={"n_structures": 12}, label=plain), loop)
    assert "prepare.n_structures 24 (now 12)" in text
    assert "cutoff" not in text


def test_a_criterion_that_says_what_is_missing_has_advice_too(tmp_path):
    """The audits' had none: their number stands beside the criterion, what to set did not."""
    entry = criterion(AUDITS, None, 0.15) | {"remedy": "structure 0: 4 audits, 16 are needed"}
    loop = loop_of(
        tmp_path, {"criteria": [entry], "audit": AUDIT | {"refused": "structure 0: 4 audits, 16 are needed"}}
    )
    (row,) = _criteria(synthetic_config(), loop)
    assert row["remedy"] == entry["remedy"]
    assert "set select.n_audit to 8 (now 4)" in row["advice"]


@pytest.mark.parametrize(
    ("share", "text"), [(-1e-5, "0.00 %"), (1e-5, "0.00 %"), (-0.0123, "−1.23 %"), (0.002, "+0.20 %")]
)
def test_a_difference_has_a_sign_unless_it_is_none(share, text):
    assert shift_text(share) == text


@pytest.mark.parametrize(("symbols", "formula"), [("Cl4Na4", "Na₄Cl₄"), ("Cu16O", "Cu₁₆O"), ("BrC6H5", "C₆H₅Br")])
def test_formulas_begin_with_what_chemists_begin_with(tmp_path, symbols, formula):
    atoms = Atoms(symbols, cell=[40, 40, 40], pbc=True)
    atoms.positions[:, 0] = 3.0 * np.arange(len(atoms))
    write(tmp_path / "x.extxyz", atoms)
    assert describe_structures([StartingStructure(file=str(tmp_path / "x.extxyz"))])[0].formula == formula


def test_every_criterion_of_the_loop_has_advice(tmp_path):
    from mlip.config.loop import Assess
    from mlip.loop.assess_potential import list_criteria

    nothing = {"fresh": None, "audit": None, "calibration": None}
    properties = {name: {"relative_error": None} for name in ("lattice_constant", "bulk_modulus")} | {"eos_rmse": 1.0}
    explored = {"n_walkers": 2, "n_exploded": 1, "n_uncertain": 1}
    loop = loop_of(tmp_path, {"exploration": explored})
    listed = list_criteria(nothing, properties, explored, Assess(force_rmse=0.15))
    assert len(listed) == 8
    assert all(advise(entry.as_dict(), synthetic_config(), loop) for entry in listed)


def test_walkers_that_have_not_arrived_have_advice(tmp_path):
    walked = {"rung": 3, "temperature": 1012.5}
    ladder = {"0": {"done": False, "n_rungs": 8, "reason": "climbs", "walked": walked}}
    entry = {"name": "structures below the top of their ladder", "value": 1.0, "target": 0.0, "passed": False}
    text = advise(entry, synthetic_config(), loop_of(tmp_path, {"ladder": ladder}))
    assert "rung 3 of 8 (climbs)" in text
    assert "max_iterations, now 5" in text
    assert "where 1012 K is enough for your purpose, set explore.ladder.top" in text


def test_relative_errors_are_read_in_per_cent():
    entry = {"name": "relative error of the lattice constant", "value": 2e-5, "target": 0.003, "passed": True}
    row = describe_criterion(entry)
    assert (row["value"], row["target"]) == ("0.002 %", "≤ 0.3 %")


def test_what_it_may_be_used_for(tmp_path):
    config = synthetic_config()
    found = describe_structures(config.structures)
    strange = {"calibration": {"coverage": 0.9}, "exploration": {"shift": {"95": 0.45}}}
    first, trust, shift, border = describe_scope(config, loop_of(tmp_path, strange), found, converged=False)
    assert first.startswith("Not for production yet; meant for Si as bulk, 300–600 K")
    assert "held 90 % of new force errors" in trust
    assert trust.startswith("It says where it is unsure")
    doubtful = describe_scope(config, loop_of(tmp_path, {"calibration": {"coverage": 0.7}}), found, converged=False)
    assert doubtful[1].startswith("It is surer than it should be: its 95 % intervals held 70 %")
    assert shift.startswith("45 % of the atoms")
    assert "surfaces" in border
    assert describe_scope(config, loop_of(tmp_path, {}), found, converged=True)[0].startswith("For Si as bulk")


def test_a_molecule_has_no_lattice_and_a_loop_may_have_studies(tmp_path):
    write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    root = tmp_path / "results"
    iterations = synthetic_results(root, 2)
    for number in iterations:
        path = root / f"iter_{number:02d}" / "assess_potential" / "assessment.json"
        write_json(path, json.loads(path.read_text()) | {"properties": {}, "audit": AUDIT, "test": TEST})
        (path.parent / "eos.nc").unlink()
    path = root / "iter_01" / "collect_dataset" / "dataset.json"
    write_json(path, json.loads(path.read_text()) | {"origins": {"rattle": 4, "walker": 20, "data": 3}})
    quantity = {"name": "diffusivity", "unit": "Å²/ps", "value": 1.25, "statistical_error": 0.1, "reference": 1.5}
    result = {"study": "diffusion", "passed": False, "quantities": [quantity]}
    write_json(root / "studies" / "diffusion" / "result.json", result)
    config = synthetic_config(structures=[{"file": str(tmp_path / "ethanol.xyz")}], assess={"eos_volumes": []})
    page = tmp_path / "report.html"
    report_system(config, root, iterations, out_html=page, out_summary=tmp_path / "summary.json")
    text = page.read_text(encoding="utf-8")
    assert "attice constant" not in text.partition("<h2>Criteria</h2>")[0]
    assert "a₀ error" not in text
    assert "C₂H₆O, molecule · GPAW" in text
    assert "Errors disagree" in text
    table = summary_table(json.loads((tmp_path / "summary.json").read_text()))
    assert "lattice" not in table
    assert "0.1 [0.08–0.12] eV/Å on 12 test structures" in table
    assert re.search(r'<a href="studies/diffusion/report.html">diffusion</a></td><td>not met</td>', text)
    assert "1.25 ± 0.1" in text
    (origins,) = re.findall(r'<section id="origins">.*?</section>', text, flags=re.DOTALL)
    assert re.findall(r"<td>(.*?)</td><td class=\"num\">(\d+)</td>", origins) == [
        ("frame of a walker", "20"),
        ("rattle", "4"),
        ("data", "3"),
    ]
    assert "beside 3 of existing data" in text.partition("<h2>Criteria</h2>")[0]
    (classes,) = re.findall(r'<table id="classes">.*?</table>', text, flags=re.DOTALL)
    assert re.findall(r"<tr><td>(\w+)</td><td class=\"num\">(\d+)</td>", classes) == [
        ("rejected", "1"),
        ("unconverged", "1"),
    ]
