"""From an exception of a DFT code to a class of failure and its remedy."""

from __future__ import annotations

import errno
import re
import traceback
from dataclasses import dataclass
from typing import Any, Literal

LabelStatus = Literal["ok", "rejected", "unconverged", "timeout", "crashed", "config_error"]

CONFIG_TYPES = frozenset(
    {"NameError", "TypeError", "KeyError", "ImportError", "NotImplementedError"}
    | {"CalculatorSetupError", "EnvironmentError", "BadConfiguration"}  # ASE
    | {"CalculationModeError", "KPointError"}  # GPAW
)
CONFIG_MESSAGE = re.compile(
    r"PAW dataset|k-?points?\b|kpts|bands|\bxc\b|functional|libxc|occupation|illegal size|convergence keyword|unknown"
    r"|keyword|parameter|pseudo|basis|cutoff|not available",
    re.IGNORECASE,
)
NOT_CONVERGED = re.compile(
    r"(not|did ?n.t|fail\w*( to)?|no|un) ?(achieve |reach )?(scf |electronic )?converge", re.IGNORECASE
)


@dataclass(frozen=True)
class Failure:
    """Why a label has no value."""

    status: LabelStatus
    reason: str


def classify_failure(error: BaseException, parameters: dict[str, Any], constructing: bool) -> Failure:
    """Class of failure that ``error`` stands for.

    ``constructing`` tells errors of the calculator's construction, which cannot depend on the
    structure, from those of the calculation. Names are compared instead of types so that no
    DFT code needs to be imported.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    message = str(error).strip()
    reason = f"{type(error).__name__}: {message[:400]}" if message else type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        # Every further label would fail alike, and be remembered as failed.
        return Failure("config_error", f"no space left for the calculator's files; free some, or set TMPDIR ({reason})")
    if isinstance(error, MemoryError):
        return Failure("crashed", f"{reason} (out of memory)")
    if names & {"KohnShamConvergenceError", "SCFError"} or (not constructing and NOT_CONVERGED.search(message)):
        return Failure("unconverged", f"the SCF did not converge ({reason})")
    if names & {"AtomsTooClose", "LinAlgError"}:
        return Failure("rejected", f"the structure cannot be computed ({reason})")
    if constructing or _is_config_error(error, names, message):
        return Failure("config_error", f"{_setting(message, parameters)} ({reason})")
    return Failure("crashed", reason)


def _is_config_error(error: BaseException, names: set[str], message: str) -> bool:
    if isinstance(error, FileNotFoundError):
        # Output that a code did not write means that it crashed; a program that cannot be started, settings.
        return bool(CONFIG_MESSAGE.search(message)) or _raised_in(error, "subprocess.py")
    if names & CONFIG_TYPES:
        return True
    return isinstance(error, ValueError) and bool(CONFIG_MESSAGE.search(message))


def _raised_in(error: BaseException, filename: str) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith(filename)


def _setting(message: str, parameters: dict[str, Any]) -> str:
    """The setting that ``message`` is about and what to do, as far as the message tells."""
    if "PAW dataset" in message:
        return (
            "label.parameters.setups: there is no PAW setup for an element of the structure and this `xc`;"
            " install setups and set GPAW_SETUP_PATH, or use another calculator"
        )
    if re.search(r"libxc|functional", message, re.IGNORECASE):
        return "label.parameters.xc: this functional is not available; use PBE or LDA, or build GPAW with libxc"
    for token in re.findall(r"""(?<=["'])\w+(?=["'])|(?<=: )\w+$""", message):
        for key, value in parameters.items():
            if token == key or _mentions(value, token):
                return f"label.parameters.{key}: correct this value"
    for key, words in {"kpts": "k-?point|kpts|illegal size", "nbands": "bands", "occupations": "occupation"}.items():
        if re.search(words, message, re.IGNORECASE):
            return f"label.parameters.{key}: correct this value"
    return "label.calculator and label.parameters: correct them, the calculator refuses them"


def _mentions(value: Any, token: str) -> bool:
    if isinstance(value, dict):
        return any(key == token or _mentions(item, token) for key, item in value.items())
    return isinstance(value, str) and value == token
