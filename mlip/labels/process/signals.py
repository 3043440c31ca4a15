"""An end in good order: a label whose calculation has ended is stored before SIGTERM or Ctrl-C takes effect.

Slurm sends SIGTERM to all processes of a job that is cancelled or reaches its walltime, and kills
them ``KillWait`` (30 s) later. On a slow disk, most of a cheap label's time is spent on its record.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_SECONDS = 1.0  # for a calculation that goes on; one that ends within it is kept

_told: list[tuple[int, float]] = []  # signals that wait for a label, with their times


def is_overdue() -> bool:
    """Whether this process was told to end and the label at work has had its grace."""
    return bool(_told) and time.monotonic() - _told[0][1] > GRACE_SECONDS


def end_if_told() -> None:
    """End this process if it was told to; for a label that failed, perhaps by the same signal.

    Raises:
        SystemExit: inside :func:`store_first`, which replaces it by the signal's own effect.
    """
    if _told:
        raise SystemExit(128 + _told[0][0])


@contextlib.contextmanager
def store_first() -> Iterator[None]:
    """Put signals off until what runs inside is done; in threads, which have none, do nothing.

    Raises:
        SystemExit: for a SIGTERM nobody handles, so that scratch folders and child processes are cleaned up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _told.clear()
    earlier = {number: signal.getsignal(number) for number in SIGNALS}
    earlier = {number: handler for number, handler in earlier.items() if handler not in (signal.SIG_IGN, None)}
    for number in earlier:
        signal.signal(number, lambda number, _: _told.append((number, time.monotonic())))
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if _told:
            _take_effect(_told[0][0])


def _take_effect(number: int) -> None:
    _told.clear()
    if signal.getsignal(number) is signal.SIG_DFL:
        raise SystemExit(128 + number)
    signal.raise_signal(number)
