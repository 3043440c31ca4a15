"""What every step of the workflow does around its science: log, threads, device, places."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def log_step(log: str, threads: int = 1) -> Iterator[None]:
    """Send the output of a step to its ``log`` and keep its libraries to ``threads`` threads.

    An exception leaves its traceback in the log and ends the process with status 1. A
    ``ValueError`` is a message for the user: it is repeated last, without the traceback.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with Path(log).open("w", encoding="utf-8", buffering=1) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            if isinstance(error, ValueError):
                sys.stderr.write(f"\n{error}\n")
            sys.exit(1)


def report_progress(path: Path | None = None) -> Callable[[dict[str, Any]], None]:
    """A progress callback that prints to the log and, where ``path`` is given, keeps a small JSON there."""
    from mlip.files import write_json

    def report(state: dict[str, Any]) -> None:
        sys.stdout.write(" ".join(f"{key}={value}" for key, value in state.items()) + "\n")
        sys.stdout.flush()
        if path is not None:
            write_json(path, state)

    return report


def pick_device() -> str:
    """``cuda`` where torch finds a GPU, else ``cpu``; ``MLIP_DEVICE`` overrides."""
    import torch

    return os.environ.get("MLIP_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")


def label_store() -> Path:
    """Folder of the label store: ``MLIP_LABEL_STORE``, else ``label_store`` in the working directory.

    Outside ``results/``, so that a cleaned results folder costs no DFT; and no parameter of any
    rule, so that moving the store is no reason to label again.
    """
    return Path(os.environ.get("MLIP_LABEL_STORE", "label_store"))


def use_mpi(resources: Mapping[str, Any]) -> None:
    """Let labels run on the MPI ranks that the job's resources ``mpi`` and ``tasks`` ask for, if they do.

    Raises:
        ValueError: when a launcher is named but no number of ranks.
    """
    from mlip.labels.launcher import VARIABLE, mpi_launcher

    launcher = mpi_launcher(resources)
    if launcher:
        os.environ[VARIABLE] = launcher
