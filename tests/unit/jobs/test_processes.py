"""Processes: one is known by its number and when it began, and a zombie is none."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlip.jobs.processes import find_with, is_alive, start_ticks

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_birth_is_what_leases_of_earlier_versions_hold() -> None:
    """They read the kernel's ticks from /proc; such a lease of a living driver must not look like a dead one's."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    assert start_ticks(os.getpid()) == ticks


def test_zombie_is_dead_and_one_that_ended_too() -> None:
    child = subprocess.Popen(SLEEP)
    assert start_ticks(child.pid).isdigit()
    assert is_alive(child.pid)
    child.kill()
    deadline = time.monotonic() + 30.0
    while is_alive(child.pid) and time.monotonic() < deadline:  # nobody has waited for it yet
        time.sleep(0.01)
    assert start_ticks(child.pid) == ""
    assert not is_alive(child.pid)
    child.wait()
    assert start_ticks(child.pid) == ""
    assert not is_alive(child.pid)
    assert not is_alive(0)


def test_process_is_found_by_its_environment() -> None:
    mark = f"mark-{os.getpid()}"
    environments = ({"MARK": mark}, {"MARK": mark, "SLURM_JOB_ID": "1"}, {"MARK": mark + "x"})
    children = [subprocess.Popen(SLEEP, env=os.environ | more) for more in environments]
    try:
        deadline = time.monotonic() + 30.0
        while not (found := find_with("MARK", mark, without="SLURM_JOB_ID")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found == [children[0].pid]
    finally:
        for child in children:
            child.kill()
            child.wait()
