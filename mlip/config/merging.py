"""Settings merged into others; code that label jobs call, and a change of which concerns them."""

from __future__ import annotations

from typing import Any


def merge_deeply(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``; mappings are merged key by key, everything else is replaced."""
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = merge_deeply(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return merged
