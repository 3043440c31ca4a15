"""Processes of this machine: which are alive, and which have a variable in their environment."""

from __future__ import annotations

import os

import psutil


def start_ticks(pid: int) -> str:
    """When a living process began, in the kernel's ticks since the machine started; empty when there is none.

    With the machine's boot this tells a process from a later one of the same number. Since the epoch, which
    :mod:`psutil` counts from, the time of one and the same process would move whenever the clock is set. A
    zombie is dead.
    """
    if pid <= 0:
        return ""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""
        return str(round((process.create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK")))
    except psutil.Error:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process of this number, whosever it is, runs here."""
    try:
        return pid > 0 and psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.AccessDenied:  # another user's
        return True
    except psutil.Error:
        return False


def find_with(name: str, value: str, *, without: str) -> list[int]:
    """Processes with the variable ``name`` of this ``value`` in their environment, and none called ``without``.

    Those whose environment cannot be read, of other users say, are left out.
    """
    numbers = []
    for process in psutil.process_iter(["environ"]):
        environment = process.info["environ"] or {}  # None where it may not be read
        if environment.get(name) == value and without not in environment:
            numbers.append(process.pid)
    return numbers
