"""Plain values of a configuration: merging them, and telling what is wrong with them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

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


def describe_problems(error: ValidationError, source: str, keys: Collection[str]) -> str:
    """Every problem of a configuration on its own line: key, what is wrong, what was found.

    Args:
        error: What pydantic found.
        source: File that the values come from.
        keys: Keys that exist, for suggestions.
    """
    lines = [f"{source}: {error.error_count()} problem(s) in the configuration"]
    for item in error.errors()[:20]:
        key = ".".join(str(part) for part in item["loc"]) or "(top level)"
        value = repr(item["input"])
        value = value if len(value) <= 60 else value[:57] + "..."
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), keys, n=1)
            hint = f"did you mean `{near[0]}`? See" if near else "see"
            message, value = f"unknown key; {hint} config/README.md for the keys that exist", ""
        elif item["type"] == "missing":
            message, value = "this key is required; see config/README.md", ""
        lines.append(f"  {key}: {message}" + (f" (found {value})" if value and len(value) < 60 else ""))
    return "\n".join(lines)
