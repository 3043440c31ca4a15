"""What besides the structure determines a label's value, in a form that equal inputs share everywhere."""

from __future__ import annotations

from typing import Any

from mlip.labels.codes.registry import find_code
from mlip.labels.importing import LABELLER_VERSION, calculator_version, key_path


def settings_identity(
    calculator: str, parameters: dict[str, Any], profile: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Calculator, what decides of its parameters, the content of files that it reads, and versions.

    Neither the place of a file nor how a number or a sequence is written is part of it, nor how the
    program is started.

    Raises:
        LabelError: when a file or a program that the settings name is missing.
        TypeError: when ``parameters`` hold a type that JSON does not know.
    """
    code = find_code(calculator)
    return {
        "calculator": key_path(code.calculators[0] if code.calculators else calculator),
        "version": calculator_version(calculator),
        "labeller_version": LABELLER_VERSION,
    } | code.identity(*code.split(parameters, profile or {}))
