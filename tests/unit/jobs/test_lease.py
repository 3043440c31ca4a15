"""Only one driver of a system at a time, and none that is dead counts."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mlip.jobs import lease
from mlip.jobs.lease import Driver, DriverRunning, freeze, hold, refuse_if_held


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(lease, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease.shutil, "which", lambda name: None)  # a Slurm of this machine is not asked
    monkeypatch.delenv(lease.TOKEN, raising=False)
    return tmp_path


@pytest.fixture
def said() -> list[str]:
    return []


def take(said: list[str], system: str = "si", executor: str = "local"):
    return hold(system, executor, 0.0, said.append)


def leave(driver: Driver, system: str = "si") -> Path:
    """A lease file as ``driver`` would have left it."""
    path = lease.FOLDER / f"{system}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(driver)))
    return path


def dead(**changes: object) -> Driver:
    """A driver of this host whose process number now belongs to another process: this one."""
    return replace(Driver.this("local"), birth="1", **changes)


def test_living_driver_keeps_others_out_and_is_named(said: list[str]) -> None:
    handler = signal.getsignal(lease.TAKEN_OVER)
    with take(said):
        with pytest.raises(DriverRunning, match=rf"process {os.getpid()} of .*\n.*mlip status.*kill {os.getpid()}"):
            take(said).__enter__()
        with pytest.raises(DriverRunning):
            refuse_if_held("si")
        with take(said, "copper"):  # another system is none of its business
            pass
    refuse_if_held("si")
    assert signal.getsignal(lease.TAKEN_OVER) is handler
    with take(said):
        pass
    assert not said


def test_one_of_many_at_the_same_instant_wins(said: list[str]) -> None:
    leave(dead())
    barrier, results = threading.Barrier(8), []

    def compete() -> None:
        barrier.wait()
        try:
            with take(said):
                results.append("won")
                # Held until all have their answer: on a busy machine half a second was not enough.
                deadline = time.monotonic() + 30.0
                while len(results) < 8 and time.monotonic() < deadline:
                    time.sleep(0.01)
        except DriverRunning:
            results.append("refused")

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * 7 + ["won"]


def test_number_of_a_dead_driver_that_another_process_has_now_is_no_driver(said: list[str]) -> None:
    leave(dead())
    refuse_if_held("si")
    with take(said):
        pass
    assert "ended without a word" in said[0]


def test_damaged_lease_is_taken_over(said: list[str]) -> None:
    leave(dead()).write_text("{")
    with take(said):
        pass
    assert "ended without a word" in said[0]


def test_only_locks_of_the_dead_drivers_system_are_released(said: list[str]) -> None:
    lease.LOCKS.mkdir(parents=True)
    for number, system in enumerate(("si", "si_2")):
        (lease.LOCKS / f"{number}.output.lock").write_text(f"results/{system}/report.html\n")
        (lease.LOCKS / f"{number}.input.lock").write_text("config/structure.xyz\n")
    leave(dead())
    with take(said):
        assert {path.name for path in lease.LOCKS.iterdir()} == {"1.output.lock", "1.input.lock"}


def test_processes_of_a_dead_driver_are_waited_for(said: list[str]) -> None:
    gone = dead()
    leave(gone)
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(1)"], env=os.environ | {lease.TOKEN: gone.token}
    )
    threading.Thread(target=child.wait).start()
    with take(said):
        assert child.poll() == 0
    assert f"kill {child.pid}" in "\n".join(said)


def test_driver_on_another_host_is_alive_as_long_as_it_counts(said: list[str]) -> None:
    other = replace(Driver.this("slurm"), host="login2")
    path = leave(other)
    stop = threading.Event()
    heart = threading.Thread(target=lease._beat, args=(path, other, stop))
    heart.start()
    try:
        with pytest.raises(DriverRunning, match="on login2: kill"):
            take(said).__enter__()
    finally:
        stop.set()
        heart.join()
    with take(said):
        pass
    assert "started by process" in said[-2]
    assert "ended without a word" in said[-1]


def test_driver_that_was_replaced_while_it_was_held_up_interrupts_itself(said: list[str]) -> None:
    def be_held_up() -> None:
        with take(said):
            leave(replace(Driver.this("local"), host="login2"))
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        be_held_up()
    assert (lease.FOLDER / "si.json").exists()  # the other one's


SQUEUE = """#!/bin/sh
[ -e down ] && echo "no controller" >&2 && rm down && exit 1
cat jobs
"""


def test_slurm_jobs_of_this_system_and_folder_are_waited_for(
    said: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = folder / "bin"
    programs.mkdir()
    (programs / "squeue").write_text(SQUEUE)
    (programs / "squeue").chmod(0o755)
    monkeypatch.setattr(lease.shutil, "which", lambda name: name)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    others = f"7|{folder}|rule_label_structures_wildcards_si_b_00_000\n9|{folder}|(null)\n"
    others += "8|/elsewhere|rule_label_references_wildcards_si\n"
    ours = f"11|{folder}|rule_label_references_wildcards_si\n12_3|{folder}|rule_label_structures_wildcards_si_00_000\n"
    (folder / "jobs").write_text(others + ours)
    (folder / "down").touch()
    finisher = threading.Timer(0.5, lambda: (folder / "jobs").write_text(others))
    finisher.start()
    with take(said, executor="slurm"):
        assert not finisher.is_alive()
    assert "Slurm does not answer" in said[0]
    assert "no controller" in said[0]
    assert "Waiting for 2 Slurm job(s)" in said[1]
    assert "scancel 11 12_3" in said[1]
    assert "have ended" in said[2]


@pytest.mark.parametrize(
    "comment",
    [
        "rule_label_candidates_wildcards_si_eos_01_003",
        "rule_measure_study_in_loop_wildcards_si_01_eos",
        "rule_run_experiment_wildcards_si_elastic_ablation_short-cutoff",
    ],
)
def test_jobs_of_studies_are_waited_for(comment: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = "2|{0}|rule_label_candidates_wildcards_si_sw_eos_01_003\n3|{0}|rule_train_committee_wildcards_si_eos_01\n"
    (folder / "squeue").write_text(f"#!/bin/sh\necho '1|{folder}|{comment}'\nprintf '{others.format(folder)}'\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    assert lease._jobs_of("si") == ["1"]


def test_claim_that_another_driver_has_just_removed_is_tried_again(said: list[str]) -> None:
    """One of many that take over the lease of a dead driver finds another's claim, which goes away as it looks."""
    gone = dead()
    path = leave(gone)
    claim = path.with_name(f".{path.name}.after-{gone.token}")
    claim.write_text(json.dumps(asdict(dead())))

    class Vanishing(type(path)):  # type: ignore[misc]
        def with_name(self, name: str) -> Path:
            return Vanishing(super().with_name(name))

        def stat(self, **options: bool) -> os.stat_result:
            self.unlink(missing_ok=True)
            return super().stat(**options)

    own = path.with_name(".own")
    own.write_text(json.dumps(asdict(Driver.this("local"))))
    assert lease._succeed(Vanishing(path), gone, own) is False
    with take(said):  # and the next try succeeds
        pass


def test_frozen_configuration_is_what_was_given(folder: Path) -> None:
    assert json.loads(freeze("si", {"system": "si", "label": {"x": [1, 2.5]}}).read_text())["label"] == {"x": [1, 2.5]}
    assert socket.gethostname() == Driver.this("local").host
