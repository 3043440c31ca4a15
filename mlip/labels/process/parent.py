"""The parent's side of the labelling child process: start, ask, wait, kill, restart."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from mlip.labels.importing import LabelError
from mlip.labels.process.launcher import NO_MPI, Meeting, count_ranks
from mlip.labels.process.ranks import main as serve_rank
from mlip.labels.process.signals import is_overdue
from mlip.labels.process.worker import main as serve

START_SECONDS = 600.0  # importing a DFT code from a slow network file system takes minutes
LAUNCHER_SECONDS = 10.0  # that srun or mpiexec may take to end
# Imported above only for its name, which makes the worker part of this module's code digest.
COMMAND = f"import sys; from {serve.__module__} import main; main(int(sys.argv[1]), int(sys.argv[2]))"
RANK_COMMAND = f"import sys; from {serve_rank.__module__} import main; main(sys.argv[1], int(sys.argv[2]))"
# Of Slurm's srun: when one rank dies, the others would wait for it until the job's time is up.
END_TOGETHER = {"SLURM_KILL_BAD_EXIT": "1"}
# With more threads, small cells become an order of magnitude slower; parallelism comes from shards.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Worker:
    """A child process with an imported calculator, restarted whenever it dies.

    Use as a context manager. ``scratch`` receives what the child prints (``worker.txt``). With a
    ``launcher``, e.g. ``["srun", "-n", "4"]``, the child is that, and its first rank is spoken to.
    """

    def __init__(self, calculator: str, scratch: Path, launcher: Sequence[str] = ()) -> None:
        self.calculator = calculator
        self.launcher = list(launcher)
        self.output = scratch / "worker.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self.own_threads = False  # whether the job's threads are for a program that the calculator starts
        self._cpu = 0.0  # CPU seconds of the present child when it last answered

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The child's answer to ``request``, with ``core_seconds`` and ``wall_seconds``.

        A child that dies or does not answer within ``timeout`` seconds gives an answer with
        status ``crashed`` or ``timeout``.

        Raises:
            LabelError: when the child cannot be started or cannot import the calculator.
        """
        self._start()
        begin, reaped, used = time.monotonic(), _reaped_cpu(), self._cpu
        answer = self._exchange(request, timeout)
        wall = time.monotonic() - begin
        if answer is not None:
            self._cpu = float(answer["cpu"])
            if self.launcher and answer["status"] != "ok":
                self._end()  # ranks that failed need not have done so in step
            return answer | {"core_seconds": float(answer["cpu"]) - used, "wall_seconds": wall}
        running = self._session_cpu()
        code = self._end()
        # Ranks started by srun are no children of this process: they are counted as busy all the time.
        core = wall * count_ranks(self.launcher) if self.launcher else max(0.0, _reaped_cpu() - reaped - used) + running
        spent = {"core_seconds": core, "wall_seconds": wall}
        if wall >= timeout:
            reason = f"no result within {timeout:.4g} s (label.timeout_minutes, less what earlier attempts took)"
            return {"status": "timeout", "reason": reason} | spent
        return {"status": "crashed", "reason": f"the calculator's process {_describe_exit(code)}"} | spent

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        threads = {name: os.environ.get(name, "1") for name in ONE_THREAD} if self.own_threads else ONE_THREAD
        environment = os.environ | threads | {"PYTHONPATH": search_path}
        (self._start_ranks if self.launcher else self._start_child)(environment)
        self._greet()

    def _start_child(self, environment: dict[str, str]) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=True)
        command = [sys.executable, "-X", "faulthandler", "-c", COMMAND, str(theirs.fileno()), str(os.getpid())]
        self._process = self._run(command, environment, theirs.fileno())
        theirs.close()
        self._connection = ours

    def _start_ranks(self, environment: dict[str, str]) -> None:
        meeting = Meeting()
        command = [*self.launcher, sys.executable, "-m", "gpaw", "python", "-c", RANK_COMMAND]
        try:
            process = self._run(
                [*command, meeting.address, str(count_ranks(self.launcher))], environment | END_TOGETHER
            )
            self._process = process
            self._connection = meeting.accept(lambda: process.poll() is None, START_SECONDS)
        except FileNotFoundError:
            raise LabelError(f"resources: mpi is {self.launcher[0]!r}, which is not on this machine") from None
        finally:
            meeting.close()

    def _run(self, command: list[str], environment: dict[str, str], *descriptors: int) -> subprocess.Popen[bytes]:
        with self.output.open("ab") as output:
            return subprocess.Popen(
                command, pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment, start_new_session=True,  # a group of its own, killed with all it started
            )  # fmt: skip

    def _greet(self) -> None:
        answer = self._exchange({}, START_SECONDS) if self._connection is not None else None
        if answer is not None and answer["status"] == "ready":
            self._cpu = float(answer["cpu"])
            return
        code = self._end()
        if answer is not None:
            raise LabelError(answer["reason"])
        tail = self.output.read_text(encoding="utf-8", errors="replace")[-1500:]
        remedy = NO_MPI if self.launcher else "try the import by hand in the environment of the label rule"
        raise LabelError(
            f"label.calculator: the process that imports `{self.calculator}` {_describe_exit(code)};"
            f" {remedy}. It printed:\n{tail}"
        )

    def _exchange(self, request: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """Send ``request`` and wait for the answer; None when time is up, for the job as well, or the child is gone."""
        process, connection = self._process, self._connection
        if process is None or connection is None:
            raise RuntimeError("the worker process is not running")
        deadline = time.monotonic() + timeout
        try:
            connection.send_bytes(json.dumps(request | {"calculator": self.calculator}).encode())
            # In slices, because a grandchild may keep the pipe open after the child's death.
            while not connection.poll(max(0.0, min(0.5, deadline - time.monotonic()))):
                if time.monotonic() >= deadline or process.poll() is not None or is_overdue():
                    return None
            return json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return None

    def _end(self) -> int:
        """Kill the child with everything it started; returns its exit code, negative for a signal."""
        process, connection = self._process, self._connection
        self._process, self._connection, self._cpu = None, None, 0.0
        if connection is not None:
            connection.close()  # an idle child ends on its own, and a dying one keeps its own exit code
        if process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=LAUNCHER_SECONDS if self.launcher else 0.5)
        if self.launcher and process.poll() is None:
            process.terminate()  # srun and mpiexec end their ranks, wherever they are; killed, they could not
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=LAUNCHER_SECONDS)
        for started in self._session(process.pid):  # also programs that made process groups of their own
            with contextlib.suppress(psutil.Error):
                started.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()

    def _session_cpu(self) -> float:
        """CPU seconds of the programs that the child has started and that run still: nobody waits for them."""
        used = 0.0
        for started in self._session(self._process.pid) if self._process is not None else ():
            with contextlib.suppress(psutil.Error):
                times = started.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
        return used

    @staticmethod
    def _session(leader: int) -> list[psutil.Process]:
        """Other processes of the child's session."""
        others = []
        for number in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                if number != leader and os.getsid(number) == leader:
                    others.append(psutil.Process(number))
        return others


def _reaped_cpu() -> float:
    """CPU seconds of all finished and awaited children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in signal.Signals.__members__.values() else str(-code)
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
