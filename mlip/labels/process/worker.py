"""The child process in which DFT runs: reads requests, answers with results or a classified failure.

Messages are JSON, so that nothing is unpickled. Started by :class:`mlip.labels.process.parent.Worker`
with a plain interpreter instead of ``multiprocessing``'s spawn, which would execute the
parent's main script, a workflow's rule, a second time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase.calculators.calculator import all_changes

from mlip.labels.codes.code import Code
from mlip.labels.codes.registry import code_of, find_code
from mlip.labels.importing import LabelError, import_calculator, scf_converged
from mlip.labels.store import decode_structure
from mlip.labels.triage import Failure, classify_failure

PR_SET_PDEATHSIG = 1
READING = (KeyError, TypeError, ValueError, NameError)
"""What ASE's readers of outputs raise where a part is missing."""


def main(descriptor: int, parent: int) -> None:
    """Serve label requests on ``descriptor`` until it closes or the process ``parent`` dies."""
    die_with_parent(parent)
    os.set_inheritable(descriptor, False)  # a program started by the calculator must not hold the pipe open
    with contextlib.suppress(BrokenPipeError):
        serve(Pipe(Connection(descriptor)))


class Messages(Protocol):
    """Where requests come from and answers go."""

    def receive(self) -> dict[str, Any]:
        """The next request; EOFError when there will be none."""

    def send(self, message: dict[str, Any]) -> None:
        """Answer it, with the CPU seconds used so far as ``cpu`` and the memory as ``peak_mb``."""


class Pipe:
    """The messages of a single process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def receive(self) -> dict[str, Any]:
        """The next request."""
        return json.loads(self._connection.recv_bytes())

    def send(self, message: dict[str, Any]) -> None:
        """Answer it."""
        self._connection.send_bytes(json.dumps(message | {"cpu": cpu_seconds(), "peak_mb": peak_memory()}).encode())


def serve(messages: Messages) -> None:
    """Import the calculator that the first request names, then answer label requests until there are no more."""
    try:
        path = messages.receive()["calculator"]
        try:
            factory = import_calculator(path)
        except LabelError as error:
            messages.send({"status": "config_error", "reason": str(error)})
            return
        messages.send({"status": "ready"})
        while True:
            answer = _answer(factory, messages.receive())
            messages.send(answer)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            gc.collect()  # calculators hold large arrays in reference cycles
    except EOFError:
        return


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent ends; elsewhere than on Linux, look every second."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before the call above
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def cpu_seconds() -> float:
    """CPU time of this process and its finished children, s."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_memory() -> float:
    """Memory (MB) that this process has held since :func:`forget_peak`, or any of its finished children, the most."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    try:
        # Not getrusage: what it tells of a process begins with the size of the one that has started it.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        here = next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1e3
    except (OSError, StopIteration):
        here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return 1.024 * max(here, children)  # the kernel counts in KiB


def forget_peak() -> None:
    """Let the peak of this process's own memory begin anew, where the kernel lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _answer(factory: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    code, folder, home = find_code(request["calculator"]), Path(request["scratch"]), Path.cwd()
    calculator = None
    forget_peak()
    try:
        structure = decode_structure(request["structure"])
        calculator = code.build(factory, request["parameters"], request["profile"], folder, structure)
        named, code = code, code_of(calculator, code)
        answer = _calculate(calculator, structure, at_once=code.runs_program)
        _close(calculator)  # it may write its last words now
        failure = code.read_failure(folder, True)  # in its own words, which also say more than a flag
        if failure is not None:
            answer = {"status": failure.status, "reason": failure.reason}
        answer["ran"] = code.read_program(folder)
        if code is not named:
            answer |= _describe_wrapped(code, calculator, structure)
        # Slurm ends all processes of a job at once; what is finished is handed over before.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a code that exits must not take the worker along
        traceback.print_exc()
        failure = _read_failure(code, folder) or _classify(code, error, request, calculator is None)
        answer = {"status": failure.status, "reason": failure.reason}
    finally:
        _close(calculator)
        os.chdir(home)
    sys.stdout.flush()
    sys.stderr.flush()
    return answer | {"outputs": list(code.outputs)}  # of a wrapper, the parent does not know them


def _describe_wrapped(code: Code, calculator: Any, atoms: Any) -> dict[str, Any]:
    """Of a calculator that a function or class of a user's own has made: its code, and the files that it has read.

    They were not known when the label's key was made.
    """
    try:
        return {"wraps": code.name, "element_files": code.files_of(calculator, sorted(set(atoms.symbols)))}
    except Exception:  # set up in a way of its own: that its files are not known is told
        traceback.print_exc()
        return {"wraps": code.name, "element_files": None}


def _read_failure(code: Code, folder: Path) -> Failure | None:
    """What the code's outputs say; an output that cannot be read says nothing."""
    try:
        return code.read_failure(folder, False)
    except Exception:
        traceback.print_exc()
        return None


def _classify(code: Code, error: BaseException, request: dict[str, Any], constructing: bool) -> Failure:
    """What ``error`` stands for, where the code itself does not say what went wrong."""
    failure = classify_failure(error, request["parameters"], constructing)
    if failure.status == "config_error" and isinstance(error, READING) and _has_output(code, Path(request["scratch"])):
        # The program took the input and ran: what is missing is the rest of its output.
        return Failure("crashed", f"{code.name}: its output is not whole ({type(error).__name__}: {error})")
    return failure


def _has_output(code: Code, folder: Path) -> bool:
    """Whether a program has written anything into ``folder``."""
    paths = [path for pattern in code.outputs for path in folder.glob(pattern)]
    return code.runs_program and any(path.stat().st_size for path in paths)


def _close(calculator: Any) -> None:
    """End a program that the calculator keeps running, so that its CPU time is known; whatever it says to that."""
    close = getattr(calculator, "close", None)
    if callable(close):
        with contextlib.suppress(Exception):
            close()


def _calculate(calculator: Any, atoms: Any, at_once: bool) -> dict[str, Any]:
    """Results in eV, eV/Å and eV/Å³.

    The energy is the one that the forces and the stress are derivatives of: with smeared
    occupations, the free energy, not its extrapolation to zero smearing. ``at_once``: a program is asked for
    everything in one run, as it would else run once for each.
    """
    atoms.calc = calculator
    implemented = getattr(calculator, "implemented_properties", ())
    if at_once:
        wanted = ["energy", "forces"] + ["stress"] * bool(atoms.pbc.all() and "stress" in implemented)
        calculator.calculate(atoms, wanted, all_changes)
        calculator.atoms = atoms.copy()
    consistent = "free_energy" in implemented
    energy = float(atoms.get_potential_energy(force_consistent=consistent))
    forces = np.asarray(atoms.get_forces(apply_constraint=False), dtype=float)
    stress = _stress(atoms) if atoms.pbc.all() and "stress" in implemented else None
    if not scf_converged(calculator):
        return {"status": "unconverged", "reason": "the calculator reports that its SCF did not converge"}
    results = {"energy": energy, "forces": forces.tolist(), "stress": stress}
    if consistent:
        results["energy_without_smearing"] = float(atoms.get_potential_energy())
    return {"status": "ok", "results": results}


def _stress(atoms: Any) -> list[float] | None:
    try:
        return np.asarray(atoms.get_stress(voigt=True, apply_constraint=False), dtype=float).tolist()
    except (NotImplementedError, AttributeError) as error:  # e.g. GPAW's LCAO mode
        warnings.warn(f"no stress: {type(error).__name__}: {error}", stacklevel=1)
        return None
