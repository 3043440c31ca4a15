"""How long work tells how far it is: by calls with its state, a few plain values by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[dict[str, Any]], None]


def silent(state: dict[str, Any]) -> None:
    """A progress callback that says nothing."""
