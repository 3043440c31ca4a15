"""Labels on several MPI ranks: which command starts the ranks, and how the first of them is spoken to.

GPAW is started as ``<launcher> python -m gpaw python ...``. Calculators that run a program of their own
need nothing from here: their command, e.g. ``srun pw.x``, finds the job's tasks by itself.
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mlip.labels.importing import is_gpaw

VARIABLE = "MLIP_MPI"
NO_MPI = (
    "resources: `mpi` is asked for, but GPAW's processes do not find each other. Either GPAW was built without MPI:"
    " `make distclean setup GPAW_MPI=1`, or use envs/dft.yaml. Or the launcher speaks another MPI than it was built"
    ' with: try `mpi: "srun --mpi=pmix"`, `"srun --mpi=pmi2"` or `mpiexec`. Or remove `mpi` and `tasks` in the profile'
)
LONGEST_SOCKET_PATH = 100  # characters; the kernel takes 107


def mpi_launcher(resources: Mapping[str, Any]) -> str:
    """The command that starts a job's ranks, e.g. ``srun -n 4``; empty for a job without MPI.

    Args:
        resources: of a Snakemake job: ``mpi`` names the launcher, ``tasks`` counts the ranks, or
            ``tasks_per_node`` and ``nodes`` do.

    Raises:
        ValueError: when there is a launcher but no number of ranks.
    """
    launcher = str(resources.get("mpi") or "")
    if not launcher:
        return ""
    tasks = int(resources.get("tasks") or 0)
    tasks = tasks or int(resources.get("tasks_per_node") or 0) * int(resources.get("nodes") or 1)
    if tasks < 1:
        raise ValueError(f"resources: mpi is {launcher!r} but the number of ranks is missing; add e.g. `tasks: 4`")
    return f"{launcher} -n {tasks}"


def launcher_of(calculator: str) -> list[str]:
    """Words of the launcher in the environment variable ``MLIP_MPI``; none for calculators other than GPAW."""
    return shlex.split(os.environ.get(VARIABLE, "")) if is_gpaw(calculator) else []


def count_ranks(launcher: list[str]) -> int:
    """Ranks that the last ``-n`` of ``launcher`` asks for.

    Raises:
        ValueError: when it asks for none.
    """
    numbers = [word for flag, word in pairwise(launcher) if flag == "-n" and word.isdigit()]
    if not numbers:
        raise ValueError(f"{VARIABLE}: {shlex.join(launcher)!r} names no number of ranks; write e.g. `mpiexec -n 4`")
    return int(numbers[-1])


class Meeting:
    """A Unix socket at which the first rank reports; in a folder that nobody else can enter.

    The first rank runs where its launcher does, on a job's first node, so the socket need not leave the machine.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mlip-"))
        if len(str(self._folder)) > LONGEST_SOCKET_PATH:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="mlip-", dir="/tmp"))
        self.address = str(self._folder / "s")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.address)
        self._socket.listen(1)

    def accept(self, alive: Callable[[], bool], timeout: float) -> Connection | None:
        """The connection to the first rank; None when ``alive`` ends or nobody comes within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and alive():
            if select.select([self._socket], [], [], 0.2)[0]:
                return Connection(self._socket.accept()[0].detach())
        return None

    def close(self) -> None:
        """Remove the socket; a connection that was made stays."""
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def connect(address: str) -> Connection:
    """The first rank's end of the connection."""
    made = socket.socket(socket.AF_UNIX)
    made.connect(address)
    return Connection(made.detach())


def use_mpi(resources: Mapping[str, Any]) -> None:
    """Let labels run on the MPI ranks that the job's resources ``mpi`` and ``tasks`` ask for, if they do.

    Raises:
        ValueError: when a launcher is named but no number of ranks.
    """
    from mlip.labels.process.launcher import VARIABLE, mpi_launcher

    launcher = mpi_launcher(resources)
    if launcher:
        os.environ[VARIABLE] = launcher
