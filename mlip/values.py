"""Plain values of a configuration: merging them, and finding numbers that YAML took for text."""

from __future__ import annotations

import re
from typing import Any

NUMBER_LIKE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def merge_deeply(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``; mappings are merged key by key, everything else is replaced."""
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = merge_deeply(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return merged


def find_number_text(value: Any, path: str = "") -> str | None:
    """Place and content of the first text that looks like a number: YAML 1.1 reads ``1e-6`` as text."""
    if isinstance(value, str):
        return f"{path.lstrip('.')}: {value!r}" if NUMBER_LIKE.fullmatch(value) else None
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return next(filter(None, (find_number_text(item, f"{path}.{key}") for key, item in items)), None)
