"""Structures of a file by number, as Python counts: ``0``, ``-1``, ``:100``, ``::10``."""

from __future__ import annotations

import re

INDEX = re.compile(r"-?\d+|(-?\d*)(:(-?\d*)){1,2}")
STEP_ZERO = re.compile(r".*:.*:-?0+")


def check_index(value: object) -> str:
    """``value`` as text without blanks.

    Raises:
        ValueError: when it is neither a number nor a slice.
    """
    text = str(value).replace(" ", "")
    if not INDEX.fullmatch(text) or STEP_ZERO.fullmatch(text):
        raise ValueError(f"{text!r} is no index; write a number or a slice such as `:100`, `-200:` or `::10`")
    return text


def parse_index(text: str) -> slice:
    """The slice that ``text`` describes; a number means that one structure."""
    if ":" in text:
        return slice(*(int(part) if part else None for part in text.split(":")))
    number = int(text)
    return slice(number, number + 1 or None)


def named_numbers(text: str) -> range | None:
    """The numbers that ``text`` names whatever the length of the file; None where they depend on it."""
    if ":" not in text:
        return range(int(text), int(text) + 1)
    begin, end, step = (parse_index(text).start or 0), parse_index(text).stop, parse_index(text).step or 1
    return None if end is None or min(begin, end, step) < 0 else range(begin, end, step)
