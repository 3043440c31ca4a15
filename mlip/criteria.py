"""Conditions for convergence, of the loop and of studies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Criterion:
    """One condition for convergence: ``value`` must reach ``target``.

    Where either could not be computed it is None, the criterion does not pass, and ``remedy`` says what is missing.
    """

    name: str
    value: float | None
    target: float | None
    at_least: bool = False
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Whether the target is reached."""
        if self.value is None or self.target is None:
            return False
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """The criterion as plain values, verdict included; the remedy where there is one."""
        plain = {"name": self.name, "value": self.value, "target": self.target, "passed": self.passed}
        return plain | ({"remedy": self.remedy} if self.remedy else {})
