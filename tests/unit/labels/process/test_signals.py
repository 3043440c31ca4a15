"""Label jobs that Slurm or a person ends: what has been computed is stored, and nothing goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")

# Says when a record is about to reach the disk, which takes a while.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a script's background
sys.path[:0] = json.loads(sys.argv[2])
from ase import Atoms
from mlip.config.label import Label
from mlip.loop.label_structures import label_structures
folder, fsync = Path(sys.argv[1]), os.fsync
def slow_fsync(descriptor):
    (folder / "storing").touch()
    time.sleep(0.5)
    fsync(descriptor)
os.fsync = slow_fsync
structures = [Atoms(f"Si{n}", [[2.5 * i, 0, 0] for i in range(n)], info={"structure_id": str(n)}) for n in (2, 3)]
parameters = {"logfile": str(folder / "calls")} | json.loads(sys.argv[3])
settings = Label(calculator="fake_calculators.SpringCalculator", parameters=parameters)
label_structures(structures, settings, store=folder / "store", iteration=0, shard=0,
                 out_structures=folder / "s.extxyz", out_records=folder / "s.json", scratch=folder / "scratch")
"""


class Shard:
    """Two labels in a process of their own."""

    def __init__(self, folder: Path, **parameters: object) -> None:
        self.folder = folder
        (folder / "shard.py").write_text(SCRIPT)
        paths = json.dumps([str(TESTS.parent), str(TESTS)])
        command = [sys.executable, str(folder / "shard.py"), str(folder), paths, json.dumps(parameters)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert self.process.poll() is None
            assert time.monotonic() < deadline, f"no {name}"
            time.sleep(0.01)

    def child(self) -> int:
        """The calculator's process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])

    def assert_ended(self, code: int, labels: int) -> None:
        """It is gone with its child and scratch folder, and so many labels are stored, all that were computed."""
        child = Path(f"/proc/{self.child()}")
        assert self.process.wait(10) == code
        assert not child.exists()
        assert not list((self.folder / "scratch").iterdir())
        assert len(list((self.folder / "store").glob("??/*.json"))) == labels
        assert len((self.folder / "calls").read_text().splitlines()) == max(labels, 1)
        assert not (self.folder / "s.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_finished_label_is_stored_before_the_job_ends(tmp_path: Path, number: int, code: int) -> None:
    shard = Shard(tmp_path)
    shard.wait_for("storing")
    shard.process.send_signal(number)
    shard.assert_ended(code, labels=1)


def test_a_label_that_is_just_ending_is_kept(tmp_path: Path) -> None:
    shard = Shard(tmp_path, seconds=0.4)
    shard.wait_for("calls")
    shard.process.send_signal(signal.SIGTERM)
    shard.assert_ended(143, labels=1)


def test_a_label_that_goes_on_is_given_up(tmp_path: Path) -> None:
    shard = Shard(tmp_path, seconds=60)
    shard.wait_for("calls")
    shard.process.send_signal(signal.SIGTERM)
    shard.assert_ended(143, labels=0)


def test_a_calculation_ended_by_the_same_signal_is_no_failed_label(tmp_path: Path) -> None:
    shard = Shard(tmp_path, seconds=60)
    shard.wait_for("calls")
    shard.process.send_signal(signal.SIGTERM)
    subprocess.run(["kill", "-TERM", str(shard.child())], check=True)
    assert shard.process.wait(10) == 143
    assert not (tmp_path / "store").exists()  # nor a log


def test_results_are_handed_over_although_the_calculator_is_ended(tmp_path: Path) -> None:
    shard = Shard(tmp_path, behaviours=dict.fromkeys("23", "terminated_at_its_end"))
    assert shard.process.wait(30) == 0
    records = json.loads((tmp_path / "s.json").read_text())["records"]
    assert [record["status"] for record in records] == ["ok", "ok"]
