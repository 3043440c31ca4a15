"""Labels: energies, forces and stresses from any ASE calculator, stored by content.

Every label runs in a child process, so that a crash or a hang of the DFT code costs one
label; every finished label is stored at once, so that nothing is computed twice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip.labels.calculators import LABELLER_VERSION, LabelError
    from mlip.labels.isolated import label_isolated_atoms
    from mlip.labels.references import label_references
    from mlip.labels.shard import label_structures
    from mlip.labels.store import LabelStore

__all__ = [
    "LABELLER_VERSION",
    "LabelError",
    "LabelStore",
    "label_isolated_atoms",
    "label_references",
    "label_structures",
]

_HOMES = {
    "LABELLER_VERSION": "calculators",
    "LabelError": "calculators",
    "LabelStore": "store",
    "label_isolated_atoms": "isolated",
    "label_references": "references",
    "label_structures": "shard",
}


def __getattr__(name: str) -> Any:
    """Import on demand: the child process needs few of these modules and starts at every crash."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
