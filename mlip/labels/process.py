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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mlip.labels.calculators import LabelError
from mlip.labels.worker import main as serve

START_SECONDS = 600.0  # importing a DFT code from a slow network file system takes minutes
# Imported above only for its name, which makes the worker part of this module's code digest.
COMMAND = f"import sys; from {serve.__module__} import main; main(int(sys.argv[1]), int(sys.argv[2]))"
# With more threads, small cells become an order of magnitude slower; parallelism comes from shards.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Worker:
    """A child process with an imported calculator, restarted whenever it dies.

    Use as a context manager. ``scratch`` receives what the child prints (``worker.txt``).
    """

    def __init__(self, calculator: str, scratch: Path) -> None:
        self.calculator = calculator
        self.output = scratch / "worker.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
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
            return answer | {"core_seconds": self._cpu - used, "wall_seconds": wall}
        code = self._end()
        spent = {"core_seconds": max(0.0, _reaped_cpu() - reaped - used), "wall_seconds": wall}
        if wall >= timeout:
            reason = f"no result within {timeout:.4g} s (label.timeout_minutes, less what earlier attempts took)"
            return {"status": "timeout", "reason": reason} | spent
        return {"status": "crashed", "reason": f"the calculator's process {_describe_exit(code)}"} | spent

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._end()
        ours, theirs = multiprocessing.Pipe(duplex=True)
        search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        environment = os.environ | ONE_THREAD | {"PYTHONPATH": search_path}
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", COMMAND, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment, start_new_session=True,  # a group of its own, killed with all it started
            )  # fmt: skip
        theirs.close()
        self._connection = ours
        self._greet()

    def _greet(self) -> None:
        answer = self._exchange({}, START_SECONDS)
        if answer is not None and answer["status"] == "ready":
            self._cpu = float(answer["cpu"])
            return
        code = self._end()
        if answer is not None:
            raise LabelError(answer["reason"])
        tail = self.output.read_text(encoding="utf-8", errors="replace")[-1500:]
        raise LabelError(
            f"label.calculator: the process that imports `{self.calculator}` {_describe_exit(code)};"
            f" try the import by hand in the environment of the label rule. It printed:\n{tail}"
        )

    def _exchange(self, request: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """Send ``request`` and wait for the answer; None when time is up or the child is gone."""
        process, connection = self._process, self._connection
        if process is None or connection is None:
            raise RuntimeError("the worker process is not running")
        deadline = time.monotonic() + timeout
        try:
            connection.send_bytes(json.dumps(request | {"calculator": self.calculator}).encode())
            # In slices, because a grandchild may keep the pipe open after the child's death.
            while not connection.poll(max(0.0, min(1.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline or process.poll() is not None:
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
            process.wait(timeout=0.5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _reaped_cpu() -> float:
    """CPU seconds of all finished and awaited children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in signal.Signals.__members__.values() else str(-code)
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
