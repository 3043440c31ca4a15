"""Settings that cannot work, or would corrupt labels silently, are refused before the first label."""

from __future__ import annotations

from typing import Any

from mlip.config.label import Label
from mlip.io.files import sha256_of
from mlip.labels.escalation import check_escalation
from mlip.labels.importing import LabelError, is_gpaw

MIN_ECUT = 50.0  # eV; below, plane waves cannot hold a valence orbital and the eigensolver fails


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
        check_escalation(settings.calculator, escalation)
    if is_gpaw(settings.calculator):
        _check_gpaw(settings.parameters | settings.isolated_atom_parameters)


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
