"""Full disks, damaged files and labels that fail: what the user sees, and that no finished label is lost or redone.

Rows 10, 11, 13 and 14 of the table of faults; none of them needs Slurm.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip.config.label import Label
from mlip.config.loop import Collect
from mlip.config.train import Train
from mlip.io.extxyz import ExtxyzError, read_structures
from mlip.io.files import read_json
from mlip.io.trajectory import Frame, read_frames, write_trajectory
from mlip.jobs.job import report_progress
from mlip.labels.importing import LabelError
from mlip.labels.store import LabelStore
from mlip.loop.collect_dataset import DatasetError, collect_dataset
from mlip.loop.label_structures import label_structures
from mlip.loop.train_committee import TrainingRequest, train_committee
from tests.workflow.conftest import Workflow

TESTS = Path(__file__).parents[1]
SPRING = "fake_calculators.SpringCalculator"


@pytest.fixture(autouse=True)
def _import_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))


def chain(n_atoms: int, number: int = 0) -> Atoms:
    """Atoms in a row; the fake calculator chooses its behaviour by how many they are."""
    atoms = Atoms(f"Si{n_atoms}", positions=[[(2.5 + 0.01 * number) * i, 0.0, 0.1 * i**2] for i in range(n_atoms)])
    atoms.info["structure_id"] = f"chain-{n_atoms}-{number}"
    return atoms


class Bench:
    """A folder in which shards are labelled and collected; every calculation leaves a line in a file elsewhere."""

    def __init__(self, folder: Path, calls: Path) -> None:
        self.folder, self.calls_file = folder, calls
        self.store = folder / "label_store"

    @property
    def calls(self) -> int:
        return len(self.calls_file.read_text().splitlines()) if self.calls_file.exists() else 0

    def settings(self, behaviours: dict | None = None, **changes) -> Label:
        base = {"behaviours": behaviours or {}, "logfile": str(self.calls_file)}
        return Label(calculator=SPRING, parameters=base | changes.pop("parameters", {}), **changes)

    def shard(self, number: int, suffix: str = "extxyz") -> Path:
        return self.folder / "label_structures" / f"shard_{number:03d}.{suffix}"

    def label(self, structures: list[Atoms], settings: Label, number: int = 0, iteration: int = 0) -> list[dict]:
        label_structures(
            structures, settings, store=self.store, iteration=iteration, shard=number,
            out_structures=self.shard(number), out_records=self.shard(number, "json"),
            progress=report_progress(self.shard(number, "progress.json")),
        )  # fmt: skip
        return read_json(self.shard(number, "json"))["records"]

    def collect(self, n_shards: int, allowed: float = 0.3, previous: Path | None = None) -> Path:
        out = self.folder / ("collect_dataset" if previous is None else "collect_next")
        collect_dataset(
            [self.shard(n) for n in range(n_shards)], [self.shard(n, "json") for n in range(n_shards)], previous,
            iteration=0 if previous is None else 1, settings=Collect(test_fraction=0.1), energy_window=50.0,
            max_failed_fraction=allowed, out=out,
        )  # fmt: skip
        return out


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "work", tmp_path / "calls.txt")


# 10. A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all space that is left, to the last byte."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as stream:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while stream.write(b"x" * size):
                    pass
    return path


def test_a_full_disk_costs_no_finished_label(small_disk: Path, tmp_path: Path) -> None:
    bench = Bench(small_disk / "work", tmp_path / "calls.txt")
    structures = [chain(n) for n in range(2, 8)]
    bench.label(structures[:3], bench.settings(), number=1)
    ballast = fill(small_disk)
    with pytest.raises(OSError, match=r"No space left") as caught:
        bench.label(structures, bench.settings())
    assert caught.value.errno == errno.ENOSPC
    assert "label_store" in str(caught.value.filename)
    assert caught.value.filename.endswith(".json")
    assert not bench.shard(0).exists()
    assert not list(small_disk.rglob("*.tmp"))
    calls = bench.calls
    ballast.unlink()
    records = bench.label(structures, bench.settings())
    assert [r["status"] for r in records] == ["ok"] * 6
    assert [r["cached"] for r in records] == [True] * 3 + [False] * 3
    assert bench.calls == calls + 3  # the one that could not be written, and the two after it


def test_a_full_disk_under_the_calculator_stops_the_shard_instead_of_failing_every_label(bench: Bench) -> None:
    structures = [chain(2), chain(3), chain(4)]
    with pytest.raises(LabelError, match=r"no space left for the calculator's files; free some, or set TMPDIR"):
        bench.label(structures, bench.settings({"3": "full"}))
    records = bench.label(structures, bench.settings({"3": "ok"}))
    assert [r["status"] for r in records] == ["ok"] * 3


def test_a_full_disk_under_the_progress_file_costs_nothing(small_disk: Path) -> None:
    fill(small_disk)
    report_progress(small_disk / "progress.json")({"done": 1})


@pytest.mark.filterwarnings("error")
def test_a_full_disk_leaves_the_old_trajectory_whole(small_disk: Path, tmp_path: Path) -> None:
    start = bulk("Cu", cubic=True)
    frames = [Frame(start, float(k), 1.0, np.random.default_rng(k).random(4), 300.0, 0.0, 0.9) for k in range(20)]
    path = small_disk / "walker_00.nc"
    write_trajectory(path, start, frames, {"walker": 0})
    fill(small_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        write_trajectory(path, start, frames * 2, {"walker": 0})
    assert caught.value.filename == str(path)
    assert len(read_frames(path)[0]) == 20
    assert {p.name for p in small_disk.iterdir()} == {"walker_00.nc", "ballast"}


def training_set() -> list[Atoms]:
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    structures = []
    for seed in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        structures.append(atoms)
    return structures


SMALL = Train(
    n_steps=12, checkpoint_every=4, n_radial=4, l_max=1, n_channels=4, body_order=3, hidden=(8,), committee_size=2,
    cutoff=4.0, consistency="off",
)  # fmt: skip


def test_training_goes_on_from_the_last_whole_checkpoint_after_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    data, ballast = training_set(), None

    def fill_after_the_first_checkpoint(state: dict) -> None:
        nonlocal ballast
        if ballast is None and (small_disk / "checkpoint").exists():
            ballast = fill(small_disk)

    def train(out: Path, checkpoint: Path, progress=None) -> dict:
        return train_committee(
            TrainingRequest(data[:5], data[5:], SMALL, out, seed=1, checkpoint=checkpoint, progress=progress)
        )

    with pytest.raises(OSError, match="No space left") as caught:
        train(tmp_path / "p", small_disk / "checkpoint", fill_after_the_first_checkpoint)
    assert caught.value.filename == str(small_disk / "checkpoint")
    assert ballast is not None
    ballast.unlink()
    steps: list[int] = []
    train(tmp_path / "p", small_disk / "checkpoint", lambda state: steps.append(state["step"]))
    assert steps[0] > 4  # it did not begin anew
    train(tmp_path / "undisturbed", tmp_path / "other")
    weights = [(tmp_path / name / "potential.safetensors").read_bytes() for name in ("p", "undisturbed")]
    assert weights[0] == weights[1]


# 11. Damaged files


def flip(path: Path, position: int = -20) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


every_damage = pytest.mark.parametrize("damage", [flip, cut, empty])


@every_damage
def test_a_damaged_label_record_is_computed_again_and_only_it(bench: Bench, damage) -> None:
    structures = [chain(n) for n in range(2, 6)]
    before = bench.label(structures, bench.settings())
    path = LabelStore(bench.store).path(before[1]["key"])
    content = path.read_bytes()
    damage(path)
    with pytest.warns(UserWarning, match=r"damaged label record, moved to .*\.corrupt; the label is computed again"):
        after = bench.label(structures, bench.settings())
    assert [r["cached"] for r in after] == [True, False, True, True]
    assert bench.calls == 5
    assert json.loads(path.read_bytes())["results"] == json.loads(content)["results"]
    assert path.with_name(f"{path.name}.corrupt").exists()


@every_damage
@pytest.mark.parametrize("suffix", ["extxyz", "json"])
def test_a_damaged_shard_is_refused_and_rebuilt_from_the_store(bench: Bench, damage, suffix: str) -> None:
    structures = [chain(n) for n in range(2, 8)]
    bench.label(structures, bench.settings())
    content = bench.shard(0, suffix).read_bytes()
    damage(bench.shard(0, suffix))
    with pytest.raises(ValueError, match=rf"shard_000\.{suffix}.*(delete|rebuild)"):
        bench.collect(1)
    assert not (bench.folder / "collect_dataset").exists()
    bench.shard(0, suffix).unlink()
    records = bench.label(structures, bench.settings())
    assert all(r["cached"] for r in records)
    assert bench.calls == 6
    bench.collect(1)
    if suffix == "extxyz":
        assert bench.shard(0).read_bytes() == content


def test_whole_structures_that_are_missing_are_noticed(bench: Bench) -> None:
    bench.label([chain(n) for n in range(2, 8)], bench.settings())
    lines = bench.shard(0).read_text().splitlines(keepends=True)
    unsigned = [line.partition(" checksum=")[0] + "\n" if " checksum=" in line else line for line in lines]
    bench.shard(0).write_text("".join(unsigned[4:]))  # without the first, of two atoms
    with pytest.raises(DatasetError, match=r"shard_000\.extxyz: holds 5 structures where .*json names 6 labels"):
        bench.collect(1)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shard of the next iteration and the data set before it."""
    bench = Bench(tmp_path_factory.mktemp("collected"), Path(os.devnull))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        bench.label([chain(2 + n % 5, n) for n in range(30)], bench.settings())
        previous = bench.collect(1)
        bench.label([chain(7)], bench.settings(), iteration=1)
    assert all(read_structures(previous / f"{split}.extxyz") for split in ("train", "valid", "test"))
    return bench.folder


@every_damage
@pytest.mark.parametrize("name", ["train.extxyz", "valid.extxyz", "test.extxyz", "dataset.json"])
def test_a_damaged_data_set_is_refused(collected: Path, tmp_path: Path, damage, name: str) -> None:
    bench = Bench(Path(shutil.copytree(collected, tmp_path / "work")), tmp_path / "calls.txt")
    previous = bench.folder / "collect_dataset"
    damage(previous / name)
    with pytest.raises(ValueError, match=rf"{name}.*(delete|rebuild)"):
        bench.collect(1, previous=previous)
    if name != "dataset.json":
        with pytest.raises(ExtxyzError, match=name):
            read_structures(previous / name)


@every_damage
def test_a_damaged_checkpoint_is_said_and_training_begins_anew(tmp_path: Path, damage) -> None:
    data, checkpoint = training_set(), tmp_path / "checkpoint"

    class Killed(Exception):
        pass

    def kill(state: dict) -> None:
        if checkpoint.exists():
            raise Killed

    common = {"seed": 1, "checkpoint": checkpoint}
    with pytest.raises(Killed):
        train_committee(TrainingRequest(data[:5], data[5:], SMALL, tmp_path / "p", progress=kill, **common))
    damage(checkpoint)
    with pytest.warns(UserWarning, match=r"checkpoint .* is damaged .*training starts anew"):
        train_committee(TrainingRequest(data[:5], data[5:], SMALL, tmp_path / "p", **common))
    train_committee(TrainingRequest(data[:5], data[5:], SMALL, tmp_path / "q", seed=1))
    weights = [(tmp_path / name / "potential.safetensors").read_bytes() for name in "pq"]
    assert weights[0] == weights[1]


@every_damage
def test_a_damaged_trajectory_is_refused(tmp_path: Path, damage) -> None:
    start = bulk("Cu", cubic=True)
    frames = [Frame(start, float(k), 1.0, np.ones(4), 300.0, 0.0, 0.9) for k in range(20)]
    path = tmp_path / "walker_00.nc"
    write_trajectory(path, start, frames, {"walker": 3, "stop_reason": "finished"})
    content = path.read_bytes()
    damage(path)
    with pytest.raises(ValueError, match=r"walker_00\.nc.*delete it and run again"):
        read_frames(path)
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(content), 200):  # attributes and text as well as numbers
        path.write_bytes(content)
        flip(path, position)
        with contextlib.suppress(ValueError):
            assert read_frames(path)[1].attrs == {"walker": 3, "stop_reason": "finished"}
            assert position >= len(content) - 74  # only a damaged checksum mark does no harm


def test_a_trajectory_is_a_plain_netcdf_file_to_others(tmp_path: Path) -> None:
    import xarray as xr

    start = bulk("Cu", cubic=True)
    write_trajectory(tmp_path / "w.nc", start, [Frame(start, 0.0, 1.0, np.ones(4), 300.0, 0.0, 0.9)], {"walker": 3})
    with xr.open_dataset(tmp_path / "w.nc") as data:
        assert np.array_equal(data.positions.values[0], start.positions)
        assert data.attrs["walker"] == 3


@pytest.mark.slow
def test_the_workflow_refuses_a_damaged_file_and_says_so(tmp_path: Path) -> None:
    """Through Snakemake: the message reaches the user, and nothing is built on the damage."""
    workflow = Workflow(tmp_path)
    label = workflow.config["label"] | {"n_shards": 1}
    workflow.write_config(workflow.config | {"max_iterations": 1, "min_iterations": 1, "label": label})
    wanted = "results/tiny/iter_00/collect_dataset/dataset.json"
    workflow.snakemake("--cores", "2", wanted)
    folder = workflow.results / "iter_00"
    assert (folder / "collect_dataset" / "train.extxyz").exists()
    records = {p: p.read_bytes() for p in (workflow.folder / "label_store").rglob("*.json")}
    shard = folder / "label_structures" / "shard_000.extxyz"
    flip(shard)
    command = [sys.executable, "-m", "mlip", "run", str(workflow.config_file), "--until", "collect_dataset"]
    said = subprocess.run(command, cwd=workflow.folder, capture_output=True, text=True, check=False).stderr
    assert "shard_000.extxyz: structure" in said
    assert "does not match its checksum" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) < 24
    assert not (folder / "collect_dataset" / "train.extxyz").exists()
    assert {p: p.read_bytes() for p in (workflow.folder / "label_store").rglob("*.json")} == records


# 13. An SCF that never converges


@pytest.mark.gpaw
def test_an_scf_that_never_converges_is_one_failed_label(tmp_path: Path) -> None:
    """The others go on; it is never a label, is not tried twice with the same settings, and is with others."""
    bench = Bench(tmp_path, tmp_path / "none")
    parameters = {"mode": {"name": "pw", "ecut": 120}, "xc": "LDA", "kpts": {"size": [1, 1, 1]}, "maxiter": 2}
    hopeless = Label(parameters=parameters, escalations=({"maxiter": 3}, {"maxiter": 4}), timeout_minutes=5)
    structures = [bulk("Si"), bulk("Si", a=5.5)]
    for number, atoms in enumerate(structures):
        atoms.info["structure_id"] = f"si-{number}"
    records = bench.label(structures, hopeless)
    assert [(r["status"], r["attempts"]) for r in records] == [("unconverged", 3)] * 2
    assert read_structures(bench.shard(0)) == []
    with pytest.raises(DatasetError, match=r"(?s)all 2 labels .*failed \(2 unconverged\).*si-0: unconverged.*SCF"):
        bench.collect(1)
    assert [r["cached"] for r in bench.label(structures, hopeless)] == [True, True]
    patient = hopeless.model_copy(update={"escalations": ({"maxiter": 200},)})
    records = bench.label(structures[:1], patient)
    assert [(r["status"], r["attempts"], r["cached"]) for r in records] == [("ok", 2, False)]


# 14. Every label of a shard fails


def test_a_shard_that_fails_as_a_whole_is_said_and_the_rest_goes_on(bench: Bench) -> None:
    good, bad = [chain(2 + n, n) for n in range(8)], [chain(12, n) for n in range(8)]
    settings = bench.settings({"12": "raise RuntimeError the node has no scratch"})
    assert [r["status"] for r in bench.label(good, settings, 0)] == ["ok"] * 8
    assert [r["status"] for r in bench.label(bad, settings, 1)] == ["crashed"] * 8
    with pytest.raises(DatasetError) as caught:
        bench.collect(2, allowed=0.3)
    assert "8 of 16 labels failed, more than label.max_failed_fraction = 0.3 (8 crashed)" in str(caught.value)
    assert "chain-12-0: crashed: RuntimeError: the node has no scratch" in str(caught.value)
    assert "Finished labels are kept" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 12
    assert not (bench.folder / "collect_dataset").exists()
    summary = read_json(bench.collect(2, allowed=0.5) / "dataset.json")
    assert summary["failed_new"] == 8
    assert sum(summary[split] for split in ("train", "valid", "test")) == 8
    assert summary["warnings"] == {"shard_001: every label failed (8 crashed)": 8}
    calls = bench.calls
    records = bench.label(good, settings, 0) + bench.label(bad, settings, 1)
    assert [r["cached"] for r in records] == [True] * 8 + [False] * 8  # crashes are tried again, labels are not
    assert bench.calls == calls + 8
