"""Settings that cannot work, or would corrupt labels silently, are refused before the first label."""

from __future__ import annotations

from mlip.config.label import Label
from mlip.io.files import sha256_of
from mlip.labels.codes.registry import find_code
from mlip.labels.escalation import check_escalation
from mlip.labels.importing import LabelError


def check_settings(settings: Label) -> None:
    """Refuse settings that cannot work or would corrupt labels silently.

    Raises:
        LabelError: naming the key and the remedy.
    """
    code = find_code(settings.calculator)
    for parameters in (settings.parameters, settings.parameters | settings.isolated_atom_parameters):
        code.check(*code.split(parameters, settings.profile))
    try:
        sha256_of([settings.parameters, settings.isolated_atom_parameters, settings.escalations])
    except (TypeError, ValueError) as error:
        raise LabelError(f"label.parameters: only numbers, text, lists and mappings can be used ({error})") from None
    for escalation in settings.escalations or ():
        check_escalation(settings.calculator, escalation)
