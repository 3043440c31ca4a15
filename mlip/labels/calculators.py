"""Which calculator, with which parameters and in which version."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from mlip.files import sha256_file, sha256_of

if TYPE_CHECKING:  # the child process has no use for the configuration models
    from mlip.config import Label

# Part of every label's key: raise it when a change to this package changes label values.
LABELLER_VERSION = 1

GPAW_LADDER: tuple[dict[str, Any], ...] = (
    {"mixer": {"backend": "pulay", "beta": 0.05, "nmaxold": 8, "weight": 100.0}, "maxiter": 400},
    {
        "mixer": {"backend": "pulay", "beta": 0.02, "nmaxold": 8, "weight": 100.0},
        "maxiter": 600,
        "eigensolver": {"name": "dav", "niter": 3},
    },
)
# What an escalation may change: the way to the solution, never the solution. A ladder that
# changed, say, the smearing would mix labels of different free energies.
GPAW_NUMERICS = frozenset({"mixer", "maxiter", "eigensolver"})
PHYSICS = frozenset(
    {"mode", "xc", "kpts", "occupations", "smearing", "width", "sigma", "ecut", "encut", "basis", "setups", "h", "gpts"}
    | {"pseudopotentials", "charge", "spinpol", "magmoms", "hund", "nbands", "convergence", "symmetry"}
)
MIN_ECUT = 50.0  # eV; below, plane waves cannot hold a valence orbital and the eigensolver fails


class LabelError(ValueError):
    """A fault of the settings, not of a structure: the run has to stop. Names setting and remedy."""


def import_calculator(path: str) -> Callable[..., Any]:
    """The calculator class (or a function that returns a calculator) at ``path``.

    Raises:
        LabelError: when it cannot be imported.
    """
    if path == "gpaw":
        path = "gpaw.GPAW"
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # importing may fail in any way, e.g. a missing shared library
        raise LabelError(
            f"label.calculator: cannot import `{path}` ({type(error).__name__}: {error}); install the package into the"
            " environment of the label rule or correct the import path"
        ) from error
    if not callable(found):
        raise LabelError(f"label.calculator: `{path}` is a {type(found).__name__}; give a calculator class")
    return found


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
    module = path.rpartition(".")[0] or path
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # a parent package that cannot be imported: the worker reports it properly
        spec = None
    return f"source {sha256_file(spec.origin)[:16]}" if spec and spec.origin else "unknown"


def check_settings(settings: Label) -> None:
    """Refuse settings that cannot work or would corrupt labels silently.

    Raises:
        LabelError: naming the key and the remedy.
    """
    for key, owner in (("txt", "label.parameters"), ("atoms", "label.parameters")):
        if key in settings.parameters or key in settings.isolated_atom_parameters:
            raise LabelError(f"{owner}.{key}: set by the labeller itself; remove it")
    try:
        sha256_of([settings.parameters, settings.isolated_atom_parameters, settings.escalations])
    except (TypeError, ValueError) as error:
        raise LabelError(f"label.parameters: only numbers, text, lists and mappings can be used ({error})") from None
    for escalation in settings.escalations or ():
        _check_escalation(settings.calculator, escalation)
    if settings.calculator == "gpaw":
        _check_gpaw(settings.parameters | settings.isolated_atom_parameters)


def _check_escalation(calculator: str, escalation: dict[str, Any]) -> None:
    wrong = sorted(set(escalation) - GPAW_NUMERICS if calculator == "gpaw" else set(escalation) & PHYSICS)
    if wrong:
        raise LabelError(
            f"label.escalations: `{wrong[0]}` would change what is computed, so that labels no longer belong together;"
            f" change only how the SCF converges, e.g. {', '.join(sorted(GPAW_NUMERICS))}"
        )


def _check_gpaw(parameters: dict[str, Any]) -> None:
    mode = parameters.get("mode")
    ecut = mode.get("ecut") if isinstance(mode, dict) else None
    if isinstance(ecut, int | float) and ecut < MIN_ECUT:
        raise LabelError(
            f"label.parameters.mode.ecut: {ecut} eV is below {MIN_ECUT:.0f} eV; is it in eV? 250-600 is usual"
        )
    convergence = parameters.get("convergence")
    if isinstance(convergence, dict) and "maximum iterations" in convergence:
        raise LabelError(
            "label.parameters.convergence: with `maximum iterations`, unconverged results pass for converged;"
            " use `maxiter` instead"
        )


def escalation_ladder(settings: Label, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Changes tried one after the other, each on top of those before it, when the SCF does not converge."""
    if settings.escalations is not None:
        return [dict(step) for step in settings.escalations]
    if settings.calculator != "gpaw":
        return []
    patience = parameters.get("maxiter")
    floor = patience if isinstance(patience, int) else 0
    return [step | {"maxiter": max(step["maxiter"], floor)} for step in GPAW_LADDER]


def settings_identity(calculator: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Everything besides the structure that determines a label's value."""
    return {
        "calculator": calculator,
        "parameters": parameters,
        "version": calculator_version(calculator),
        "labeller_version": LABELLER_VERSION,
    }


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
