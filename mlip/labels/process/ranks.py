"""The process in which one rank of a parallel DFT calculation runs: all calculate, the first one talks.

Started by :class:`mlip.labels.process.parent.Worker` through an MPI launcher and ``gpaw python``.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from multiprocessing.connection import Connection
from typing import Any

from mlip.labels.process.launcher import NO_MPI, connect
from mlip.labels.process.worker import cpu_seconds, die_with_parent, peak_memory, serve


class Ranks:
    """The worker's messages among all ranks: the first receives and sends, the others hear of it."""

    def __init__(self, world: Any, address: str) -> None:
        self._world = world
        self._connection = connect(address) if world.rank == 0 else None
        if self._connection is not None:
            threading.Thread(target=_watch, args=(self._connection,), daemon=True).start()

    def receive(self) -> dict[str, Any]:
        """The next request, on every rank.

        Raises:
            EOFError: when there will be none.
        """
        from gpaw.mpi import broadcast_string

        text = None
        if self._connection is not None:
            try:
                text = self._connection.recv_bytes().decode()
            except (EOFError, OSError):
                text = ""
        text = broadcast_string(text, comm=self._world)
        if not text:
            raise EOFError("the parent closed the connection")
        return json.loads(text)

    def send(self, message: dict[str, Any]) -> None:
        """Answer, from the first rank; every rank is taken to have used as much CPU time and memory as this one."""
        if self._connection is not None:
            message |= {"cpu": cpu_seconds() * self._world.size, "peak_mb": peak_memory() * self._world.size}
            self._connection.send_bytes(json.dumps(message).encode())


def main(address: str, expected: int) -> None:
    """Serve label requests on this rank until the connection at ``address`` closes; ``expected`` ranks in all."""
    die_with_parent(os.getppid())
    from gpaw.mpi import world

    if world.size != expected:  # every process believes to be alone
        connection = connect(address)
        connection.recv_bytes()
        connection.send_bytes(json.dumps({"status": "config_error", "reason": NO_MPI, "cpu": 0.0}).encode())
        return
    serve(Ranks(world, address))


def _watch(connection: Connection) -> None:
    """End this rank, and by that all, when the parent is gone in the middle of a calculation.

    The parent kills the launcher, but launchers differ in what they do to ranks then.
    """
    stream = socket.socket(fileno=os.dup(connection.fileno()))
    poller = select.poll()
    poller.register(stream, select.POLLRDHUP)
    poller.poll()
    # An idle rank has seen the end as well and leaves in order before this.
    threading.Event().wait(5.0)
    os._exit(1)
