"""What every step of the workflow does around its science: log, threads, device, places."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlip.jobs.attempts import note_attempt
from mlip.jobs.progress import Progress


@contextlib.contextmanager
def log_step(log: str, threads: int = 1, resources: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Send the output of a step to its ``log``, keep its libraries to ``threads`` threads and note what it costs.

    An exception leaves its traceback in the log and ends the process with status 1. A ``ValueError``
    is a message for the user, as are failures of the machine: it comes last, without the traceback.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with note_attempt(Path(log), threads, resources), Path(log).open("w", encoding="utf-8", buffering=1) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            message = _explain(error)
            if message:
                sys.stderr.write(f"\n{message}\n")
            sys.exit(1)


def _explain(error: Exception) -> str:
    from mlip.io.files import explain_os_error

    if isinstance(error, OSError):
        return explain_os_error(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); give the job more memory, mem_mb of its rule, or make the problem smaller"
    return str(error) if isinstance(error, ValueError | ArithmeticError) else ""


def report_progress(path: Path | None = None) -> Progress:
    """A progress callback that prints to the log and, where ``path`` is given, keeps a small JSON there."""
    from mlip.io.files import write_json

    def report(state: dict[str, Any]) -> None:
        shown = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in state.items()}
        sys.stdout.write(" ".join(f"{key}={value}" for key, value in shown.items()) + "\n")
        sys.stdout.flush()
        if path is not None:
            with contextlib.suppress(OSError):  # a full disk must not cost a label for what only people read
                write_json(path, state)

    return report
