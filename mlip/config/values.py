"""Plain values of a configuration: merging them, and telling what is wrong with them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

NUMBER_LIKE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

MAX_PROBLEMS = 12
"""Problems listed at once: a message fits on one screen."""
TYPE_TAGS = frozenset({"float", "int", "str", "bool", "dict", "list", "tuple"})
MAX_FILE_BYTES = 1_000_000
"""Largest configuration that is read."""


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names file, key, value and remedy."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Plain values only: tags that name Python objects are refused.

    Raises:
        ConfigError: when the file is missing or huge, is not YAML, holds no mapping or a key twice.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes; is it a configuration?")
        values = yaml.load(content.decode("utf-8"), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(
            f"{shorten(path, 200)}: cannot be read ({error.strerror}); give the path of a configuration"
        ) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: cannot be read as YAML: {shorten(error, 600)}\n  Correct it; config/README.md lists all keys."
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys such as `system:`, found {type(values).__name__}")
    return values


class _UniqueKeys(yaml.SafeLoader):
    """YAML without objects, in which a key that is given twice is an error rather than silently replaced."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise ValueError(
                        f"`{key.value}` is given twice, in lines {lines[key.value]} and {line}; keep one of them"
                    )
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def find_number_text(value: Any, path: str = "") -> str | None:
    """Place and content of the first text that looks like a number: YAML 1.1 reads ``1e-6`` as text."""
    if isinstance(value, str):
        return f"{path.lstrip('.')}: {value!r}" if NUMBER_LIKE.fullmatch(value) else None
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return next(filter(None, (find_number_text(item, f"{path}.{key}") for key, item in items)), None)


def is_bounded(value: Any, most: int = 20_000, deepest: int = 20) -> bool:
    """Whether ``value`` is made of at most ``most`` values, nested at most ``deepest`` deep.

    YAML's aliases make a few lines stand for billions of values, or for a value within itself.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        count += 1
        if count > most or depth > deepest:
            return False
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
        waiting.extend((part, depth + 1) for part in inner)
    return True


def shorten(value: Any, length: int = 60) -> str:
    """``value`` as printable text of at most ``length`` characters; lines are kept."""
    try:
        text = str(value)
    except ValueError:  # integers of thousands of digits
        text = "a huge number"
    text = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text[: length + 1])
    return text if len(text) <= length else text[: length - 3] + "..."


def describe_problems(
    error: ValidationError, source: str, descriptions: Mapping[str, str], keys: Collection[str]
) -> str:
    """Every problem of a configuration: key, what is wrong, what was found, what the key means.

    Args:
        error: What pydantic found.
        source: File that the values come from.
        descriptions: What keys mean, by dotted path without list positions.
        keys: Keys that exist, for suggestions.
    """
    problems: dict[str, list[str]] = {}
    meanings: dict[str, str] = {}
    errors = error.errors(include_url=False)
    for item in errors:
        if _is_echo(item, errors):
            continue
        place, path = _place(item["loc"], descriptions)
        problems.setdefault(place, []).append(_problem(item, keys))
        if item["type"] not in ("extra_forbidden", "value_error") and descriptions.get(path):
            meanings[place] = f" – {descriptions[path]}"
    lines = [f"{source}: {len(problems)} problem(s) in the configuration"]
    for place, texts in list(problems.items())[:MAX_PROBLEMS]:
        lines.append(f"  {shorten(place, 100)}: {'; or '.join(dict.fromkeys(texts))}{meanings.get(place, '')}")
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"  ... and {len(problems) - MAX_PROBLEMS} more")
    return "\n".join(lines)


def _is_echo(item: Any, errors: Sequence[Any]) -> bool:
    """Whether an error only repeats another one that lies deeper.

    pydantic counts what it refused within a list as absent, and says that the list is too short; and of a list with a
    wrong entry, where a word would do as well, it says that it is not that word.
    """
    outer = {"too_short": item["loc"], "literal_error": item["loc"][:-1]}.get(item["type"])
    if outer is None or isinstance(item["input"], str):
        return False
    return any(is_within(other["loc"], outer) and len(other["loc"]) > len(item["loc"]) for other in errors)


def is_within(location: Sequence[Any], outer: Sequence[Any]) -> bool:
    """Whether ``location`` lies below ``outer``."""
    return len(location) > len(outer) and tuple(location[: len(outer)]) == tuple(outer)


def _place(location: Sequence[int | str], descriptions: Mapping[str, str]) -> tuple[str, str]:
    """The key as a person writes it, and its path without positions; alternatives of a type are no keys."""
    place, path = [], ""
    for part in location:
        longer = path if isinstance(part, int) else f"{path}.{part}".lstrip(".")
        known = longer in descriptions or not path or any(name.startswith(f"{path}.") for name in descriptions)
        if isinstance(part, str) and not known:
            if any(c in part for c in "[]-'") or part in TYPE_TAGS:
                continue  # pydantic's name for a member of a union
            place.append(part)
            continue
        place.append(str(part))
        path = longer
    return ".".join(place) or "(top level)", path


def _problem(item: Any, keys: Collection[str]) -> str:
    name, given = str(item["loc"][-1]) if item["loc"] else "", item["input"]
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, [key for key in keys if key != name], n=1)
        hint = f"did you mean `{near[0]}`? See" if near else "it has no place here; see"
        return f"unknown key; {hint} config/README.md for the keys that exist"
    if item["type"] == "missing":
        return "this key is required; see config/README.md"
    message = shorten(item["msg"].removeprefix("Value error, "), 300)
    if item["type"] == "value_error" and isinstance(given, dict | list | tuple):
        return message  # it names the values itself
    text = shorten(repr(given) if isinstance(given, str) else given)
    return message + (f" (found {text})" if len(text) < 60 else "")
