"""Which calculator, with which parameters and in which version."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any

from mlip.io.files import sha256_file

# Part of every label's key: raise it when a change to this package changes label values.
LABELLER_VERSION = 2

GPAW = "gpaw.GPAW"

MOVED = {
    "mlip.lennard_jones.LennardJones": "mlip.calculators.lennard_jones.LennardJones",
    "mlip.studies.elastic.stillinger_weber.StillingerWeber": "mlip.calculators.stillinger_weber.StillingerWeber",
}
"""Where calculators of this package are now, by the import path that keys of their labels hold for ever."""


class LabelError(ValueError):
    """A fault of the settings, not of a structure: the run has to stop. Names setting and remedy."""


def is_gpaw(path: str) -> bool:
    """Whether ``path`` is GPAW's calculator, in short or in full."""
    return path in ("gpaw", GPAW)


def key_path(path: str) -> str:
    """What stands for the import path in keys of labels: the oldest name, so that labels outlive a move."""
    if is_gpaw(path):
        return "gpaw"
    return next((old for old, new in MOVED.items() if new == path), path)


def import_calculator(path: str) -> Callable[..., Any]:
    """The calculator class (or a function that returns a calculator) at ``path``.

    Raises:
        LabelError: when it cannot be imported.
    """
    module, _, name = (GPAW if is_gpaw(path) else MOVED.get(path, path)).rpartition(".")
    try:
        member = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing may fail in any way, e.g. a missing shared library
        raise LabelError(
            f"label.calculator: cannot import `{path}` ({type(error).__name__}: {error}); install the package into the"
            " environment of the label rule or correct the import path"
        ) from error
    if not callable(member):
        raise LabelError(f"label.calculator: `{path}` is a {type(member).__name__}; give a calculator class")
    return member


@cache
def calculator_version(path: str) -> str:
    """Version of the package behind ``path``, without importing it; the source's hash when it has none."""
    package = path.partition(".")[0]
    names = ["gpaw", "gpaw-data"] if package == "gpaw" else [package]
    try:
        return ", ".join(f"{name} {metadata.version(name)}" for name in names)
    except metadata.PackageNotFoundError:
        pass
    owners = metadata.packages_distributions().get(package)
    if owners:
        return ", ".join(f"{name} {metadata.version(name)}" for name in sorted(set(owners)))
    module = MOVED.get(path, path).rpartition(".")[0] or path
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # a parent package that cannot be imported: the worker reports it properly
        spec = None
    return f"source {sha256_file(spec.origin)[:16]}" if spec and spec.origin else "unknown"


def scf_converged(calculator: Any) -> bool:
    """Whether a calculator that returned says that its SCF converged; True when it says nothing.

    Looks at ``calculator.scf.converged`` (legacy GPAW) and ``calculator.converged`` (Vasp and
    others). New GPAW raises at the iteration limit and needs no flag.
    """
    for owner in (getattr(calculator, "scf", None), calculator):
        flag = getattr(owner, "converged", None)
        if isinstance(flag, bool) and not flag:
            return False
    return True
