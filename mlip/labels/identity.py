"""What besides the structure determines a label's value, in a form that equal inputs share everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlip.io.files import sha256_file, sha256_of
from mlip.labels.importing import LABELLER_VERSION, calculator_version, is_gpaw

# Parameters that name what a calculator writes: a log that grows must not change the label's key.
OUTPUTS = frozenset({"logfile", "log_file", "log", "trajectory", "outfile", "output", "stdout", "stderr"})


def settings_identity(calculator: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Calculator, parameters, the content of files that they name, and versions.

    Neither the place of a file nor how a number or a sequence is written is part of it.

    Raises:
        TypeError: when ``parameters`` hold a type that JSON does not know.
    """
    identity = {
        "calculator": "gpaw" if is_gpaw(calculator) else calculator,
        "parameters": _with_contents(normalise(parameters)),
        "version": calculator_version(calculator),
        "labeller_version": LABELLER_VERSION,
    }
    return identity | ({"setups": setups_fingerprint()} if is_gpaw(calculator) else {})


def normalise(value: Any) -> Any:
    """``value`` with integer-valued floats as integers, tuples as lists and keys as text."""
    if isinstance(value, dict):
        return {str(key): normalise(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normalise(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def setups_fingerprint() -> str | None:
    """Hash of the names and sizes of GPAW's own PAW setups in ``GPAW_SETUP_PATH``; None without it.

    Those that GPAW finds otherwise belong to the package ``gpaw-data``, whose version is known.
    """
    search_path = os.environ.get("GPAW_SETUP_PATH")
    if search_path is None:
        return None
    folders = [Path(entry) for entry in search_path.split(os.pathsep) if entry]
    return sha256_of([_sizes(folder) for folder in folders])[:16]


def _sizes(folder: Path) -> list[tuple[str, int]]:
    """Name and size of the folder's files. Names, because a folder's order and place say nothing."""
    if not folder.is_dir():
        return []
    return sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())


def _with_contents(value: Any, key: str = "") -> Any:
    """``value`` with the SHA-256 of each file in place of its path."""
    if isinstance(value, dict):
        return {name: _with_contents(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_contents(item, key) for item in value]
    if isinstance(value, str) and key.lower() not in OUTPUTS and _is_file(value):
        return {"sha256": sha256_file(value)}
    return value


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null byte
        return False
