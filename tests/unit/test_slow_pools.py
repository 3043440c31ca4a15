"""The pools of the benchmark of selection whose teachers are slow."""

import importlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

FOLDER = Path(__file__).parents[1] / "benchmarks/selection"
ROOT = Path(__file__).parents[2]
TEACHER = ROOT / ".venv-teacher"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with three trajectories of each kind."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("slow_pools")
    monkeypatch.setattr(module, "N_TRAJECTORIES", 3)
    return module


def places(frames: list[Atoms]) -> set[bytes]:
    return {atoms.positions.round(6).tobytes() for atoms in frames}


def test_seeds_are_tested_on_other_trajectories_than_their_own_pool_and_each_other(slow: Any, tmp_path: Path) -> None:
    frames = slow.FrameSet("silicon-gpaw", tmp_path, n_pool=12)
    frames.make(list)  # as Stillinger and Weber label them
    paths = sorted(tmp_path.rglob("*.extxyz"))
    assert len(paths) == 4 * 3 + 1
    kept = {path: (path.stat().st_mtime_ns, path.read_text()) for path in paths}
    paths[0].unlink()
    frames.make(list)
    assert paths[0].read_text() == kept[paths[0]][1]  # the same frames once more
    assert all(path.stat().st_mtime_ns == kept[path][0] for path in paths[1:])
    drawn = [frames.draw(seed, 2) for seed in (0, 1, 100)]
    for data in drawn:
        assert {a.info["kind"] for a in data["test"]} == {a.info["kind"] for a in data["pool"]}
        assert not places(data["test"]) & places(data["pool"])
        assert len(data["prepared"]) == len(places(data["prepared"])) == 8
        assert all(np.isfinite(a.get_forces()).all() for part in data.values() for a in part)
    assert len(places([a for data in drawn for a in data["test"]])) == sum(len(data["test"]) for data in drawn)
    assert places(drawn[0]["prepared"]) != places(drawn[1]["prepared"])


@pytest.mark.slow
def test_only_labels_whose_scf_converged_are_taken(slow: Any, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("gpaw")
    atoms = slow.pools.diamond(slow.CELL)
    atoms.rattle(0.1, seed=1)
    atoms.info = {"kind": "crystal", "source": 0}
    cheap = {"mode": {"name": "pw", "ecut": 120}, "xc": "PBE", "kpts": {"size": [1, 1, 1]}}
    settings = {"calculator": "gpaw", "parameters": cheap}
    (labelled,) = slow.label_with_gpaw([atoms], tmp_path, settings)
    assert labelled.info["kind"] == "crystal"
    assert labelled.get_forces().shape == (8, 3)
    short = settings | {"parameters": cheap | {"maxiter": 3}, "escalations": []}
    assert slow.label_with_gpaw([atoms], tmp_path, short) == []
    assert "left out, unconverged" in capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_runs_on_kept_frames_and_leaves_out_what_has_no_teacher(
    slow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    benchmark = importlib.import_module("pool_benchmark")
    monkeypatch.setattr(slow, "TEACHER", tmp_path / "missing")
    plan = benchmark.SHORT
    frames = slow.FrameSet("silicon-gpaw", tmp_path / "frames", plan.n_pool)
    frames.make(list)
    benchmark.run_all(tmp_path, plan, ["oxide", "silicon-gpaw"], ["random", "log-determinant"], 600.0, [1])
    assert "oxide: left out" in capsys.readouterr().out
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("runs/*/*.json"))]
    assert {(r["case"], r["seed"], r["rule"]) for r in records} == {
        ("silicon-gpaw", 1, "random"),
        ("silicon-gpaw", 1, "log-determinant"),
    }
    for record in records:
        assert [p["labels"] for p in record["curve"]] == [0, 4, 8]
        assert {*record["curve"][-1]["errors"]} == {"crystal", "melt", "dense", "vacancy"}
    with pytest.raises(RuntimeError, match="setup-teacher"):
        slow.build_case(tmp_path, "oxide", 0)


@pytest.mark.slow
@pytest.mark.skipif(not [*TEACHER.glob("installed-*")], reason="CHGNet is not installed (make setup-teacher)")
def test_chgnet_labels_with_the_gradient_of_its_energy() -> None:
    code = f"""
import sys; sys.path[:0] = [{str(FOLDER)!r}, {str(ROOT)!r}]
import numpy as np, slow_pools
atoms = slow_pools.zinc_oxide((1, 1, 1))
atoms.rattle(0.05, seed=1)
atoms.calc = slow_pools.chgnet()
force, start, energies = atoms.get_forces()[0, 0], atoms.positions.copy(), []
for step in (0.01, -0.01):
    atoms.positions = start + step * np.eye(1, 12).reshape(4, 3)
    energies.append(atoms.get_potential_energy())
print("forces", force, (energies[1] - energies[0]) / 0.02)
"""
    done = subprocess.run(
        [str(TEACHER / "bin/python"), "-W", "ignore", "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    force, slope = map(float, done.stdout.split("forces")[1].split())
    assert abs(force) > 0.05
    assert force == pytest.approx(slope, abs=0.01)
