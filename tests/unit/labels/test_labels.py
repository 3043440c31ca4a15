"""The labeller: store, guards, triage, and a child process that may die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from mlip.config.label import Guards, Label
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json
from mlip.labels import identity as identity_module
from mlip.labels.importing import LabelError
from mlip.labels.store import LabelStore, label_key
from mlip.loop.label_isolated_atoms import label_isolated_atoms
from mlip.loop.label_references import label_references
from mlip.loop.label_structures import label_structures
from mlip.structures.labelled import labelled_forces

TESTS = Path(__file__).parents[2]
EMT_PATH = "ase.calculators.emt.EMT"
SPRING = "fake_calculators.SpringCalculator"


@pytest.fixture(autouse=True)
def _import_fakes(monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))


def chain(n_atoms: int, name: str = "", distance: float = 2.5) -> Atoms:
    """Atoms in a row; the fakes choose their behaviour by the number of atoms."""
    atoms = Atoms(f"Si{n_atoms}", positions=[[distance * i, 0.0, 0.1 * i**2] for i in range(n_atoms)])
    atoms.info["structure_id"] = name or f"chain-{n_atoms}"
    return atoms


class Bench:
    """A folder with a store, in which shards are labelled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "label store ü"
        self.calls_file = folder / "calls.txt"
        self.events: list[dict] = []

    @property
    def calls(self) -> int:
        return len(self.calls_file.read_text().splitlines()) if self.calls_file.exists() else 0

    def settings(self, behaviours: dict | None = None, parameters: dict | None = None, **changes) -> Label:
        base = {"behaviours": behaviours or {}, "logfile": str(self.calls_file)}
        return Label(calculator=SPRING, parameters=base | (parameters or {}), **changes)

    def label(self, structures: list[Atoms], settings: Label, shard: int = 0) -> tuple[list[dict], list[Atoms]]:
        out = self.folder / "shards ü" / f"shard_{shard:03d}.extxyz"
        label_structures(
            structures, settings, store=self.store, iteration=2, shard=shard, out_structures=out,
            out_records=out.with_suffix(".json"), scratch=self.folder / "scratch ü", progress=self.events.append,
        )  # fmt: skip
        content = read_json(out.with_suffix(".json"))
        assert content["planned"] == len(structures)
        assert content["iteration"] == 2
        assert content["shard"] == shard
        assert not list((self.folder / "scratch ü").iterdir())
        return content["records"], read_structures(out)


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def test_labels_are_those_of_the_calculator(bench):
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=1)
    copper.set_constraint(FixAtoms([0]))
    copper.info |= {"structure_id": "iter_02-rattle-000", "origin": "rattle", "iteration": 2}
    records, (labelled,) = bench.label([copper], Label(calculator=EMT_PATH))
    copper.set_constraint()
    copper.calc = EMT()
    assert labelled.get_potential_energy() == copper.get_potential_energy()
    assert np.abs(labelled_forces(labelled) - copper.get_forces()).max() < 1e-12
    assert np.abs(labelled.get_stress() - copper.get_stress()).max() < 1e-12
    assert labelled.info["origin"] == "rattle"
    assert labelled.info["label_key"] == records[0]["key"]
    assert len(labelled.info["label_settings"]) == 16
    assert set(records[0]) >= {
        "structure_id", "key", "status", "reason", "attempts", "cached", "core_seconds", "wall_seconds"
    }  # fmt: skip
    assert records[0]["core_seconds"] > 0


def test_known_labels_are_not_computed_again(bench):
    settings = bench.settings()
    first, before = bench.label([chain(2), chain(3)], settings)
    again = [chain(3, "renamed"), chain(2)]
    again[0].info["anything"] = "else"
    second, after = bench.label(again, settings, shard=1)
    assert bench.calls == 2
    assert [r["cached"] for r in first + second] == [False, False, True, True]
    assert second[0]["structure_id"] == "renamed"
    assert second[0]["core_seconds"] == first[1]["core_seconds"]
    assert np.array_equal(after[1].get_forces(), before[0].get_forces())
    assert [e["done"] for e in bench.events] == [1, 2, 1, 2]
    assert bench.events[0].keys() >= {"done", "planned", "structure_id", "status", "seconds"}


def test_a_full_store_needs_no_child_process(bench, monkeypatch):
    bench.label([chain(2)], bench.settings())
    monkeypatch.setattr("subprocess.Popen", None)
    records, _ = bench.label([chain(2)], bench.settings())
    assert records[0]["cached"]


def test_one_thread_per_worker(bench, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    bench.label([chain(2)], bench.settings())
    assert bench.calls_file.read_text() == "2 1\n"
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_key_depends_on_what_the_calculator_sees():
    atoms, identity = chain(3), {"parameters": {"a": 1}}
    key = label_key(atoms, identity)
    same = atoms.copy()
    same.info["x"] = 1
    same.positions += 1e-11
    same.set_initial_charges([0.0] * 3)
    assert label_key(same, identity) == key
    changes = {"positions": atoms.positions + 1e-6, "atomic_numbers": [14, 14, 6], "pbc": True, "cell": [1.0, 1.0, 1.0]}
    changes |= {"initial_magnetic_moments": [1, 0, 0], "initial_charges": [1, 0, 0]}
    for name, value in changes.items():
        other = atoms.copy()
        getattr(other, f"set_{name}")(value)
        assert label_key(other, identity) != key, name
    assert label_key(atoms, {"parameters": {"a": 2}}) != key


def test_settings_and_versions_separate_labels(bench, monkeypatch):
    bench.label([chain(2)], bench.settings())
    bench.label([chain(2)], bench.settings(parameters={"k": 2.0}))
    assert bench.calls == 2
    monkeypatch.setattr(identity_module, "LABELLER_VERSION", 99)
    bench.label([chain(2)], bench.settings())
    assert bench.calls == 3


FAILURES = {
    3: ("segfault", "crashed", "SIGSEGV"),
    4: ("exit", "crashed", "exit code 3"),
    5: ("sysexit", "crashed", "SystemExit: 4"),
    6: ("raise RuntimeError disk on fire", "crashed", "disk on fire"),
    7: ("raise MemoryError", "crashed", "out of memory"),
    8: ("raise ValueError odd geometry", "crashed", "odd geometry"),
    9: ("raise RuntimeError SCF did not converge in 50 steps", "unconverged", "50 steps"),
    10: ("unconverged", "unconverged", "no convergence"),
    11: ("silently_unconverged", "unconverged", "reports"),
    12: ("nan", "rejected", "forces are not finite"),
    13: ("drift", "rejected", "max_force_sum"),
    14: ("large", "rejected", "max_force"),
}


def test_bad_labels_are_classified_and_leave_the_others(bench):
    settings = bench.settings({str(n): behaviour for n, (behaviour, _, _) in FAILURES.items()})
    records, labelled = bench.label([chain(2), *map(chain, FAILURES), chain(15)], settings)
    assert [a.info["structure_id"] for a in labelled] == ["chain-2", "chain-15"]
    for record, (n, (_, status, reason)) in zip(records[1:-1], FAILURES.items(), strict=True):
        assert (record["structure_id"], record["status"]) == (f"chain-{n}", status)
        assert reason in record["reason"]
        stored = LabelStore(bench.store).get(record["key"])
        assert stored["status"] == status
        log = (bench.store / "logs" / f"{record['key']}.txt").read_text()
        for text in (log, stored["log_tail"]):
            assert f"calculating {n} atoms" in text
            assert f"calculating {n - 1} atoms" not in text
            assert f"calculating {n + 1} atoms" not in text


def test_a_hanging_label_is_stopped(bench):
    begin = time.monotonic()
    records, _ = bench.label([chain(3), chain(2)], bench.settings({"3": "hang"}, timeout_minutes=0.02))
    assert time.monotonic() - begin < 30
    assert [r["status"] for r in records] == ["timeout", "ok"]
    assert "timeout_minutes" in records[0]["reason"]


def test_which_failures_are_remembered(bench):
    behaviours = {"2": "nan", "3": "unconverged", "4": "exit", "5": "raise RuntimeError x"}
    structures = [chain(n) for n in (2, 3, 4, 5)]
    bench.label(structures, bench.settings(behaviours))
    assert bench.calls == 4
    records, _ = bench.label(structures, bench.settings(behaviours))
    assert [r["cached"] for r in records] == [True, True, False, False]
    assert [r["status"] for r in records] == ["rejected", "unconverged", "crashed", "crashed"]
    before = bench.calls
    records, _ = bench.label(structures, bench.settings(behaviours, reuse_failures=False))
    assert not any(r["cached"] for r in records)
    assert bench.calls == before + 4


def test_escalation_until_it_converges(bench):
    ladder = ({"mixer": 0.1}, {"maxiter": 200})
    records, labelled = bench.label([chain(3)], bench.settings({"3": "unconverged"}, escalations=ladder))
    assert records[0]["status"] == "ok"
    assert records[0]["attempts"] == 3
    assert len(labelled) == 1
    attempts = LabelStore(bench.store).get(records[0]["key"])["attempts"]
    assert [a["status"] for a in attempts] == ["unconverged", "unconverged", "ok"]
    assert [a["changes"] for a in attempts] == [{}, *ladder]


def test_a_new_ladder_is_tried_on_remembered_failures(bench):
    records, _ = bench.label([chain(3)], bench.settings({"3": "unconverged"}, escalations=({"mixer": 0.1},)))
    assert (records[0]["status"], records[0]["attempts"]) == ("unconverged", 2)
    records, _ = bench.label([chain(3)], bench.settings({"3": "unconverged"}, escalations=({"maxiter": 500},)))
    assert (records[0]["status"], records[0]["cached"]) == ("ok", False)


def broken_structures() -> dict[str, Atoms]:
    nan, infinite, close, flat, empty = chain(3), chain(3), chain(3), bulk("Si"), Atoms()
    nan.positions[1, 2] = np.nan
    infinite.set_cell([np.inf, 1, 1])
    close.positions[1] = close.positions[0] + [0.0, 0.0, 0.5]
    flat.set_cell(flat.cell.array[[0, 0, 1]])
    image = Atoms("Si", cell=[1.0, 9.0, 9.0], pbc=True)  # too close to its own image
    return {"nan": nan, "infinite": infinite, "close": close, "flat": flat, "empty": empty, "image": image}


def test_guards_reject_before_dft(bench):
    broken = broken_structures()
    for name, atoms in broken.items():
        atoms.info["structure_id"] = name
    records, labelled = bench.label([*broken.values(), chain(2)], bench.settings())
    assert {r["structure_id"]: r["status"] for r in records} == dict.fromkeys(broken, "rejected") | {"chain-2": "ok"}
    assert bench.calls == 1
    assert [a.info["structure_id"] for a in labelled] == ["chain-2"]
    assert all(LabelStore(bench.store).get(r["key"]) for r in records)


def test_changed_guards_judge_stored_labels_anew(bench):
    def statuses(**guards):
        records, _ = bench.label([chain(3), chain(3, distance=1.2)], bench.settings(guards=Guards(**guards)))
        return [r["status"] for r in records]

    assert statuses() == ["ok", "rejected"]
    assert statuses(max_force=0.5) == ["rejected", "rejected"]
    assert statuses(min_distance_factor=0.4) == ["ok", "ok"]
    assert statuses() == ["ok", "rejected"]
    assert bench.calls == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "other key", "not json", "list"])
def test_a_damaged_record_is_moved_aside(tmp_path, damage):
    store, key = LabelStore(tmp_path), "ab" * 32
    store.put(key, {"results": {"energy": 7.25}})
    path = store.path(key)
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncate": content[: len(content) // 2],
            "flip": content.replace(b"7.25", b"7.24"),
            "empty": b"",
            "other key": content.replace(key.encode(), b"cd" * 32),
            "not json": b"\xff\x00",
            "list": b"[1]",
        }[damage]
    )
    with pytest.warns(UserWarning, match="damaged label record"):
        assert store.get(key) is None
    assert [p.name for p in path.parent.iterdir()] == [f"{key}.json.corrupt"]
    store.put(key, {"results": {"energy": 7.25}})
    assert store.get(key)["results"] == {"energy": 7.25}


def test_a_damaged_label_is_computed_again(bench):
    (first,), (before,) = bench.label([chain(3)], bench.settings())
    path = LabelStore(bench.store).path(first["key"])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.warns(UserWarning, match="damaged label record"):
        (second,), (after,) = bench.label([chain(3)], bench.settings())
    assert not second["cached"]
    assert bench.calls == 2
    assert np.array_equal(after.get_forces(), before.get_forces())
    assert bench.label([chain(3)], bench.settings())[0][0]["cached"]


def test_concurrent_writers_of_one_key(tmp_path):
    code = (
        "import sys; from mlip.labels.store import LabelStore\n"
        "s = LabelStore(sys.argv[1])\n"
        "for i in range(60):\n    s.put('ab12', {'value': [i] * 2000}); assert s.get('ab12')['value'][0] >= 0"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    runs = [subprocess.Popen(command, cwd=TESTS.parent) for _ in range(3)]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert [p.name for p in (tmp_path / "ab").iterdir()] == ["ab12.json"]


@pytest.mark.parametrize(
    ("calculator", "parameters", "message"),
    [
        ("no_such_package.Calculator", {}, "label.calculator.*no_such_package"),
        ("ase.calculators.emt.Emt", {}, "label.calculator.*cannot import"),
        ("fake_calculators.not_callable", {}, "give a calculator class"),
        ("ase.calculators.emt.EMT", {"txt": "x"}, "label.parameters.txt"),
        ("ase.calculators.lj.LennardJones", {"epsilon": "deep"}, "label.parameters"),
        (SPRING, {"behaviours": {"2": "raise NameError name 'FOO' is not defined"}}, "chain-2.*label.parameters.*FOO"),
        (SPRING, {"behaviours": {"2": "raise ValueError Unknown functional: FOO"}}, "label.parameters.xc.*FOO"),
    ],
)
def test_faulty_settings_stop_at_once(bench, calculator, parameters, message):
    with pytest.raises(LabelError, match=message):
        bench.label([chain(2), chain(3)], Label(calculator=calculator, parameters=parameters))
    assert not (bench.folder / "shards ü").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"escalations": ({"occupations": {"name": "fermi-dirac", "width": 0.3}},)},
            "label.escalations: `occupations`",
        ),
        ({"parameters": {"mode": {"name": "pw", "ecut": 20}}}, "ecut"),
        ({"parameters": {"convergence": {"maximum iterations": 5}}}, "maximum iterations"),
    ],
)
def test_settings_that_would_corrupt_labels_are_refused(bench, changes, message):
    with pytest.raises(LabelError, match=message):
        bench.label([chain(2)], Label(calculator="gpaw", **changes))


def test_order_does_not_matter(bench, tmp_path):
    other = Bench(tmp_path / "other")
    settings = Label(calculator=EMT_PATH)
    structures = []
    for i in range(4):
        structures.append(bulk("Cu", cubic=True))
        structures[-1].rattle(0.1, seed=i)
        structures[-1].info["structure_id"] = str(i)
    _, forward = bench.label(structures, settings)
    _, backward = other.label(structures[::-1], settings)
    for a, b in zip(forward, backward[::-1], strict=True):
        assert a.info["label_key"] == b.info["label_key"]
        assert np.array_equal(a.get_forces(), b.get_forces())


def test_silent_traps_are_reported():
    from mlip.labels.guards import find_traps

    parameters = {"kpts": [2, 2, 2]}
    iron = Atoms("Fe2", cell=[2.87] * 3, pbc=True)
    assert "non-magnetic" in find_traps(iron, "gpaw", parameters)[0]
    assert find_traps(iron, "gpaw", parameters | {"spinpol": True}) == []
    assert "odd number" in find_traps(bulk("Al"), "gpaw", parameters)[0]
    assert find_traps(bulk("Al"), "gpaw", parameters | {"charge": 1})[0].startswith("periodic cell with charge")
    assert "Γ" in find_traps(bulk("Si"), "gpaw", {})[0]
    assert find_traps(bulk("Al"), "ase.calculators.emt.EMT", {}) == []


def test_warnings_reach_the_log_and_the_records(bench, monkeypatch):
    monkeypatch.setattr("mlip.labels.labeller.find_traps", lambda *_: ["odd number of electrons"])
    records, _ = bench.label([chain(2)], bench.settings())
    assert records[0]["warnings"] == ["odd number of electrons"]
    assert bench.events[0]["warnings"] == "odd number of electrons"
    bench.label([chain(2)], bench.settings())
    assert bench.events[1]["cached"]
    assert bench.events[1]["warnings"] == "odd number of electrons"


SHARD_SCRIPT = """
import json, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[2])
from ase import Atoms
from mlip.config.label import Label
from mlip.loop.label_structures import label_structures
folder = Path(sys.argv[1])
structures = [Atoms(f"Si{n}", [[2.5 * i, 0, 0] for i in range(n)], info={"structure_id": str(n)}) for n in range(2, 8)]
parameters = {"logfile": str(folder / "calls"), "seconds": 0.2}
settings = Label(calculator="fake_calculators.SpringCalculator", parameters=parameters)
label_structures(structures, settings, store=folder / "store", iteration=0, shard=0,
                 out_structures=folder / "s.extxyz", out_records=folder / "s.json", scratch=folder / "scratch")
"""


def processes_in(folder: Path) -> list[int]:
    """Processes whose standard output lies in ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "fd" / "1").readlink().is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_killing_the_shard_keeps_finished_labels_and_leaves_no_child(tmp_path):
    # A main script without a guard, as workflows run them: it must not be executed again in the child.
    script = tmp_path / "rule.py"
    script.write_text(SHARD_SCRIPT)
    command = [sys.executable, str(script), str(tmp_path), json.dumps([str(TESTS.parent), str(TESTS)])]
    calls = tmp_path / "calls"
    run = subprocess.Popen(command)
    wait_until(lambda: calls.exists() and len(calls.read_text().splitlines()) >= 3)
    assert len(processes_in(tmp_path)) == 1
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until(lambda: not processes_in(tmp_path), 5.0)
    finished = len(list((tmp_path / "store").glob("??/*.json")))
    called = len(calls.read_text().splitlines())
    assert finished >= 2
    assert not (tmp_path / "s.extxyz").exists()
    subprocess.run(command, check=True)
    assert len(calls.read_text().splitlines()) - called == 6 - finished
    assert [len(a) for a in read_structures(tmp_path / "s.extxyz")] == [2, 3, 4, 5, 6, 7]
    assert [r["cached"] for r in read_json(tmp_path / "s.json")["records"]].count(True) == finished


VOLUMES = (-0.1, -0.05, 0.0, 0.05, 0.1)


def reference(bench: Bench, settings: Label, volumes=VOLUMES, a: float | None = None) -> Path:
    out = bench.folder / "r.extxyz"
    copper = bulk("Cu", cubic=True, a=a)
    label_references({0: copper}, settings, volumes, store=bench.store, out=out, progress=bench.events.append)
    return out


def isolated(bench: Bench, settings: Label, symbols=("Cu",)) -> dict[str, float]:
    out = bench.folder / "i.json"
    label_isolated_atoms(symbols, settings, store=bench.store, out=out, progress=bench.events.append)
    return read_json(out)


def test_references(bench):
    copies = read_structures(reference(bench, Label(calculator=EMT_PATH)))
    volume = bulk("Cu", cubic=True).get_volume()
    assert [a.info["structure_id"] for a in copies] == [f"reference-eos-0{i}" for i in range(5)]
    for atoms, change in zip(copies, VOLUMES, strict=True):
        assert atoms.get_volume() == pytest.approx(volume * (1 + change), rel=1e-12)
        assert atoms.info["relative_volume"] == change
        assert atoms.info["origin"] == "reference"
    assert bench.events[-1]["done"] == bench.events[-1]["planned"] == 5


def test_references_of_several_structures(bench):
    out = bench.folder / "r.extxyz"
    starts = {0: bulk("Cu", cubic=True), 1: molecule("H2"), 3: bulk("Au", cubic=True)}
    label_references(starts, Label(calculator=EMT_PATH), VOLUMES, store=bench.store, out=out)
    copies = read_structures(out)
    assert [a.info["source"] for a in copies] == [0] * 5 + [3] * 5  # a molecule has no volume
    assert [a.info["structure_id"] for a in copies[5:]] == [f"reference-eos-3-0{i}" for i in range(5)]
    assert {str(a.symbols) for a in copies[5:]} == {"Au4"}


def test_no_volumes_no_references(bench):
    assert read_structures(reference(bench, Label(calculator=EMT_PATH), ())) == []
    assert bench.events == []


def test_references_without_a_minimum_stop_early(bench):
    with pytest.raises(LabelError, match=r"assess.eos_volumes.*no energy minimum"):
        reference(bench, Label(calculator=EMT_PATH), a=4.2)
    assert not (bench.folder / "r.extxyz").exists()


def test_isolated_atoms_given_computed_or_fitted(bench):
    settings = Label(calculator=EMT_PATH)
    assert isolated(bench, settings) == {}
    assert isolated(bench, settings.model_copy(update={"isolated_atoms": {"Cu": -1.5}})) == {"Cu": -1.5}
    with pytest.raises(LabelError, match=r"label.isolated_atoms: no energy for Ag"):
        isolated(bench, settings.model_copy(update={"isolated_atoms": {"Cu": -1.5}}), symbols=("Cu", "Ag"))
    assert bench.events == []
    lone = Atoms("Cu")
    lone.calc = EMT()
    computed = isolated(bench, settings.model_copy(update={"isolated_atoms": "compute"}), ("Cu", "Cu"))
    assert computed == {"Cu": pytest.approx(lone.get_potential_energy(), abs=1e-12)}
    assert bench.events[-1]["done"] == bench.events[-1]["planned"] == 1


def test_isolated_atoms_have_parameters_of_their_own(bench):
    changes = {"isolated_atoms": "compute", "isolated_atom_parameters": {"behaviours": {"1": "large"}}}
    isolated(bench, bench.settings(**changes))
    (path,) = bench.store.glob("??/*.json")
    assert read_json(path)["parameters"]["behaviours"] == {"1": "large"}


def test_references_must_all_succeed(bench):
    settings = Label(calculator=SPRING, parameters={"behaviours": {"4": "large"}})
    with pytest.raises(LabelError, match=r"(?s)reference-eos-00: rejected.*reference-eos-04: rejected"):
        reference(bench, settings)
    assert not (bench.folder / "r.extxyz").exists()


def test_molecules_have_no_stress(bench):
    water = molecule("H2O")
    water.info["structure_id"] = "water"
    records, (labelled,) = bench.label([water], Label(calculator=EMT_PATH))
    assert records[0]["status"] == "ok"
    assert "stress" not in labelled.calc.results


def test_label_jobs_do_without_torch() -> None:
    code = (
        "import sys; from mlip.loop.label_structures import label_structures;"
        "from mlip.structures.geometry import min_distance_ratio;"
        "from ase.build import bulk; min_distance_ratio(bulk('Cu')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
