"""Active learning of machine-learned interatomic potentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_calculator"]

if TYPE_CHECKING:
    from mlip.potential.calculator import load_calculator


def __getattr__(name: str) -> Any:
    """Import the calculator, and with it torch, only when somebody asks for it."""
    if name == "load_calculator":
        from mlip.potential.calculator import load_calculator

        return load_calculator
    raise AttributeError(f"module 'mlip' has no attribute {name!r}")
