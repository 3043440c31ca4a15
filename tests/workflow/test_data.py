"""A loop that begins with labels that exist already: in iteration 0 nothing is labelled but references and a check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.calculators.lennard_jones import LennardJones
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import read_json, sha256_file
from tests.workflow.conftest import TINY, Workflow

LENNARD_JONES = {"sigma": 2.85, "epsilon": 0.1, "rc": 6.0}
LATTICE_CONSTANT = 4.4  # Å, near the minimum of these parameters in fcc
N_LABELS = 100


def lithium(n: int) -> list[Atoms]:
    """So many labelled pieces of a crystal that is called lithium, by the labeller of the configuration."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(n):
        atoms = bulk("Li", "fcc", a=LATTICE_CONSTANT, cubic=True) * ((2, 1, 1) if k % 2 else (1, 1, 1))
        strain = rng.uniform(-0.04, 0.04, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += rng.normal(0, rng.choice([0.05, 0.1, 0.15]), atoms.positions.shape)
        atoms.calc = LennardJones(**LENNARD_JONES)
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        found.append(atoms)
    return found


def configured(folder: Path, *, energy: float = 0.0) -> Workflow:
    """The tiny loop from a file of labels whose energies are ``energy`` eV off."""
    structures = lithium(N_LABELS)
    for atoms in structures:
        atoms.calc.results["energy"] += energy * len(atoms)
    write_structures(folder / "Li100.extxyz", structures)
    config = yaml.safe_load(TINY.read_text()) | {
        "system": "li",
        "max_iterations": 2,
        "structures": [{"bulk": {"name": "Li", "crystalstructure": "fcc", "a": LATTICE_CONSTANT}}],
        "data": [{"file": "Li100.extxyz", "settings": "check", "check": {"n_structures": 3}}],
        "prepare": {"n_structures": 0},
        "label": {"calculator": "mlip.calculators.lennard_jones.LennardJones", "parameters": LENNARD_JONES},
    }
    config["explore"]["walkers"] = [{"ensemble": "nvt", "temperatures": [100]}]
    return Workflow(folder, config)


@pytest.mark.slow
def test_lithium_goes_round_from_a_hundred_existing_labels(tmp_path: Path) -> None:
    loop = configured(tmp_path)
    command = [sys.executable, "-m", "mlip.cli.app", "run", str(loop.config_file), "--cores", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, last = (read_json(loop.results / f"iter_{k:02d}" / "collect_dataset" / "dataset.json") for k in (0, 1))
    assert first["origins"] == {"data": N_LABELS}
    assert first["labels_total"] == 0
    assert min(first["train"], first["valid"]) > 5
    # Five are asked for; how many walkers find that a hundred data and the audits do not hold yet is the potential's.
    assert last["origins"] == {"data": N_LABELS, "walker": last["labels_total"]}
    assert 2 < last["labels_total"] <= 5
    provenance = read_json(loop.results / "iter_00" / "provenance.json")["files"]["import_data"]
    assert len(provenance) == 2
    record = read_json(loop.results / "iter_00" / "import_data" / "data.json")
    assert record["files"][0]["sha256"] == sha256_file(tmp_path / "Li100.extxyz")
    trained = read_structures(loop.results / "iter_01" / "collect_dataset" / "train.extxyz")
    assert {atoms.info["structure_id"] for atoms in trained if atoms.info["origin"] == "data"} <= {
        f"Li100.extxyz:{k}" for k in range(N_LABELS)
    }
    comparison = read_json(loop.results / "iter_00" / "relabel_data" / "comparison.json")["sources"][0]
    assert np.abs(comparison["energy_differences"]).max() < 1e-9


@pytest.mark.slow
def test_data_of_other_settings_end_the_run_with_the_numbers(tmp_path: Path) -> None:
    loop = configured(tmp_path, energy=0.25)
    loop.write_config(loop.config | {"prepare": {"n_structures": 10}})
    done = loop.snakemake("--cores", "2", check=False)
    assert done.returncode != 0
    assert "differ by up to +0.25 eV/atom" in done.stdout + done.stderr
    assert "shift_energies" in done.stdout + done.stderr
    assert not list(tmp_path.glob("results/*/iter_00/label_structures/shard_*.extxyz")), "nothing is labelled before"
    assert not list(tmp_path.glob("results/*/label_references/*.*s*")), "nor are references and isolated atoms"


def test_an_absent_file_ends_the_plan(tmp_path: Path) -> None:
    loop = configured(tmp_path)
    (tmp_path / "Li100.extxyz").unlink()
    done = loop.snakemake("-n", check=False)
    assert done.returncode != 0
    assert "data: no file Li100.extxyz; give a path relative to the working directory" in done.stdout + done.stderr


def test_existing_data_and_prepared_structures_are_planned_together(tmp_path: Path) -> None:
    loop = configured(tmp_path)
    loop.write_config(loop.config | {"prepare": {"n_structures": 10}})
    plan = loop.plan()
    assert {("00", "import_data"), ("00", "relabel_data"), ("00", "prepare_structures")} <= set(plan)
    assert plan.count(("00", "label_structures")) == 2


@pytest.mark.parametrize("name", ["references.extxyz", "isolated_atoms.json"])
def test_references_wait_until_existing_data_are_checked(tmp_path: Path, name: str) -> None:
    loop = configured(tmp_path)
    target = f"results/li/label_references/{name}"
    assert {rule for _, rule in loop.plan(target)} >= {"import_data", "relabel_data"}
    loop.write_config(loop.config | {"data": [{"file": "Li100.extxyz", "settings": "same"}]})
    rules = {rule for _, rule in loop.plan(target)}
    assert "import_data" in rules
    assert "relabel_data" not in rules
    loop.write_config({key: value for key, value in loop.config.items() if key != "data"} | {"prepare": {}})
    assert {rule for _, rule in loop.plan(target)} & {"import_data", "relabel_data"} == set()
