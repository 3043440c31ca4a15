"""Values and files in a form that equal inputs share everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlip.io.files import sha256_file

# Parameters that name what a calculator writes: a log that grows must not change the label's key.
OUTPUTS = frozenset({"logfile", "log_file", "log", "trajectory", "outfile", "output", "stdout", "stderr"})


def normalise(value: Any) -> Any:
    """``value`` with integer-valued floats as integers, tuples as lists and keys as text."""
    if isinstance(value, dict):
        return {str(key): normalise(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normalise(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def with_contents(value: Any, key: str = "") -> Any:
    """``value`` with the SHA-256 of each file in place of its path."""
    if isinstance(value, dict):
        return {name: with_contents(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [with_contents(item, key) for item in value]
    if isinstance(value, str) and key.lower() not in OUTPUTS and is_file(value):
        return content_of(Path(value))
    return value


def content_of(path: Path) -> dict[str, str]:
    """What stands for a file in a key: its content, neither its name nor its place."""
    return {"sha256": sha256_file(path)}


def folder_at(text: str) -> Path:
    """The absolute path of a folder of data, which may begin with `~` or hold environment variables."""
    return Path(os.path.expandvars(text)).expanduser().absolute()


def is_file(text: str) -> bool:
    """Whether ``text`` is the path of a file."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null byte
        return False


def leaves(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths of keys and values at every depth; an empty mapping is a value."""
    for key, value in values.items():
        path = (*above, str(key))
        if isinstance(value, dict) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def without_keys(values: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """``values`` without the keys of ``names`` (lower case) at any depth, nor mappings that this empties."""
    kept = {}
    for key, value in values.items():
        if str(key).lower() in names:
            continue
        if isinstance(value, dict) and value:
            value = without_keys(value, names)
            if not value:
                continue
        kept[key] = value
    return kept
