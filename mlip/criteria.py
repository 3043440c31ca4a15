"""Conditions for convergence, of the loop and of studies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Criterion:
    """One condition for convergence: ``value`` must reach ``target``."""

    name: str
    value: float | None
    target: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the target is reached; a value that could not be computed does not pass."""
        if self.value is None:
            return False
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """The criterion as plain values, verdict included."""
        return {"name": self.name, "value": self.value, "target": self.target, "passed": self.passed}
