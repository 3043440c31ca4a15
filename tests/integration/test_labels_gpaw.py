"""Real DFT labels with GPAW: two atoms of silicon, a few seconds each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk

from mlip.config.label import Label
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json
from mlip.labels.agreement import compare_stress
from mlip.labels.importing import LabelError
from mlip.labels.store import LabelStore
from mlip.loop.label_isolated_atoms import label_isolated_atoms
from mlip.loop.label_references import label_references
from mlip.loop.label_structures import label_structures

pytestmark = [pytest.mark.gpaw, pytest.mark.slow]
pytest.importorskip("gpaw")

SETTINGS = """
calculator: gpaw
parameters:
  mode: {name: pw, ecut: 200}
  xc: PBE
  kpts: {size: [2, 2, 2], gamma: true}
isolated_atom_parameters: {hund: true}
"""


def settings(parameters: dict | None = None, **changes) -> Label:
    values = yaml.safe_load(SETTINGS)
    values["parameters"] |= parameters or {}
    return Label(**(values | changes))


def silicon(name: str = "si", seed: int | None = 1) -> Atoms:
    atoms = bulk("Si", a=5.47)
    if seed is not None:
        atoms.rattle(0.05, seed=seed)
    atoms.info["structure_id"] = name
    return atoms


def run(folder: Path, structures: list[Atoms], label: Label, progress=None) -> tuple[list[dict], list[Atoms]]:
    out = folder / "shard 000.extxyz"
    label_structures(
        structures,
        label,
        store=folder / "store",
        iteration=0,
        shard=0,
        out_structures=out,
        out_records=folder / "shard.json",
        progress=progress,
    )
    return read_json(folder / "shard.json")["records"], read_structures(out)


def test_real_label_is_consistent(tmp_path):
    """Forces and stress are the derivatives of the energy label."""
    step, strain = 0.02, 0.005
    structures = [silicon("middle")]
    for sign in (-1, 1):
        moved, strained = silicon(f"moved{sign}"), silicon(f"strained{sign}")
        moved.positions[0, 0] += sign * step
        strained.set_cell(strained.cell.array * (1 + sign * strain), scale_atoms=True)
        structures += [moved, strained]
    # A high cutoff: at a low one, the stress misses the change of the basis with the cell.
    records, labelled = run(tmp_path, structures, settings({"mode": {"name": "pw", "ecut": 400}}))
    assert {r["status"] for r in records} == {"ok"}
    energy = {a.info["structure_id"]: a.get_potential_energy() for a in labelled}
    middle = labelled[0]
    slope = -(energy["moved1"] - energy["moved-1"]) / (2 * step)
    assert middle.get_forces()[0, 0] == pytest.approx(slope, abs=0.01)
    virial = (energy["strained1"] - energy["strained-1"]) / (2 * strain) / middle.get_volume()
    assert middle.get_stress()[:3].sum() == pytest.approx(virial, abs=0.005)
    assert np.abs(middle.get_forces()).max() > 0.1
    assert records[0]["core_seconds"] > 0.1
    again, same = run(tmp_path, structures[:1], settings({"mode": {"name": "pw", "ecut": 400}}))
    assert again[0]["cached"]
    assert np.array_equal(same[0].get_forces(), middle.get_forces())


def test_escalation_of_a_forced_failure(tmp_path):
    records, (escalated,) = run(tmp_path / "a", [silicon()], settings({"maxiter": 2}))
    assert (records[0]["status"], records[0]["attempts"]) == ("ok", 2)
    attempts = LabelStore(tmp_path / "a" / "store").get(records[0]["key"])["attempts"]
    assert attempts[0]["status"] == "unconverged"
    assert set(attempts[1]["changes"]) <= {"mixer", "maxiter", "eigensolver"}
    _, (plain,) = run(tmp_path / "b", [silicon()], settings())
    assert np.abs(escalated.get_forces() - plain.get_forces()).max() < 5e-3
    assert escalated.get_potential_energy() == pytest.approx(plain.get_potential_energy(), abs=2e-3)


def test_the_whole_default_ladder_runs(tmp_path):
    """Its steps are valid settings that lead to the same result."""
    from mlip.labels.codes.gpaw import GPAW_LADDER

    _, (plain,) = run(tmp_path / "plain", [silicon()], settings())
    for index, step in enumerate(GPAW_LADDER):
        records, (other,) = run(tmp_path / str(index), [silicon()], settings(step))
        assert records[0]["attempts"] == 1
        assert np.abs(other.get_forces() - plain.get_forces()).max() < 5e-3


def test_unconverged_is_never_a_label(tmp_path):
    records, labelled = run(tmp_path, [silicon()], settings({"maxiter": 2}, escalations=({"maxiter": 3},)))
    assert (records[0]["status"], records[0]["attempts"]) == ("unconverged", 2)
    assert labelled == []
    log = (tmp_path / "store" / "logs" / f"{records[0]['key']}.txt").read_text()
    assert "maximum number of iterations: 3" in log
    records, _ = run(tmp_path, [silicon()], settings({"maxiter": 2}, escalations=({"maxiter": 3},)))
    assert records[0]["cached"]


def test_too_close_atoms_are_rejected_by_gpaw_and_by_the_guard(tmp_path):
    close = silicon("close")
    close.positions[1] = close.positions[0] + [0.0, 0.0, 0.3]
    guards = {"min_distance_factor": 0.01}
    records, labelled = run(tmp_path, [close, silicon()], settings(guards=guards))
    assert [r["status"] for r in records] == ["rejected", "ok"]
    assert len(labelled) == 1
    records, _ = run(tmp_path / "guarded", [close], settings())
    assert records[0]["status"] == "rejected"
    assert "min_distance_factor" in records[0]["reason"]
    assert records[0]["attempts"] == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"xc": "FOO"}, r"label\.parameters\.xc.*FOO"),
        ({"kpoints": [2, 2, 2]}, r"label\.parameters\.kpoints.*unexpected keyword"),
        ({"mode": "plane"}, r"label\.parameters\.mode"),
        ({"kpts": {"size": [0, 1, 1]}}, r"label\.parameters\.kpts.*Illegal size"),
        ({"nbands": 2}, r"label\.parameters\.nbands.*Too few bands"),
        ({"occupations": {"name": "smear"}}, r"label\.parameters\.occupations.*smear"),
        ({"convergence": {"forse": 1e-3}}, r"label\.parameters\.convergence.*forse"),
    ],
)
def test_faulty_settings_name_the_key(tmp_path, parameters, message):
    with pytest.raises(LabelError, match=f"(?s)si: {message}.*logs"):
        run(tmp_path, [silicon(seed=None)], settings(parameters))


def test_missing_setup_is_a_fault_of_the_settings(tmp_path):
    uranium = bulk("U", "fcc", a=4.9)
    with pytest.raises(LabelError, match=r"label\.parameters\.setups.*GPAW_SETUP_PATH"):
        run(tmp_path, [uranium], settings())


def test_references_with_an_isolated_atom(tmp_path):
    kpts = {"size": [4, 4, 4], "gamma": True}  # fewer shift the equilibrium volume by more than 5 %
    label = settings({"mode": {"name": "pw", "ecut": 150}, "kpts": kpts}, isolated_atoms="compute")
    events: list[dict] = []
    references, isolated_file = tmp_path / "references.extxyz", tmp_path / "isolated_atoms.json"
    common = {"store": tmp_path / "store", "progress": events.append}
    label_references({0: silicon(seed=None)}, label, (-0.05, 0.0, 0.05), out=references, **common)
    label_isolated_atoms(["Si"], label, out=isolated_file, **common)
    energies = [a.get_potential_energy() for a in read_structures(references)]
    assert energies[1] < min(energies[0], energies[2])
    isolated = read_json(isolated_file)["Si"]
    cohesion = isolated - energies[1] / 2
    assert 3.5 < cohesion < 6.0  # 4.6 eV in PBE and experiment; low cutoff and k-mesh, and smearing, cost some of it
    assert len(events) == 4


def test_a_cutoff_that_is_too_small_is_told_by_stress_and_energies(tmp_path):
    volumes = (-0.06, -0.03, 0.0, 0.03, 0.06)
    common = {"store": tmp_path / "store", "out": tmp_path / "references.extxyz"}
    kpts = {"size": [3, 3, 3], "gamma": True}
    enough = settings({"mode": {"name": "pw", "ecut": 250}, "kpts": kpts})  # of the demo
    label_references({0: silicon(seed=None)}, enough, volumes, **common)
    found = compare_stress(read_structures(common["out"]))
    assert np.abs(found.differences).max() < 0.3
    oxide = bulk("MgO", "rocksalt", a=4.212)
    with pytest.raises(LabelError, match=r"energies and stresses .* disagree.*raise the plane-wave cutoff"):
        label_references({0: oxide}, settings({"mode": {"name": "pw", "ecut": 300}}), volumes, **common)
