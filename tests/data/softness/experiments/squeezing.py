"""The cost over several compressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlip.studies.softness.study import cost_of_compression

from mlip.potential.calculator import load_calculator
from mlip.studies.experiments import Page, Task


def run(task: Task) -> dict[str, Any]:
    """The cost by the potential and by the labeller."""
    crystal, compression = task.structures[0], task.plan["compression"]
    return {
        "potential": cost_of_compression(crystal, load_calculator(task.potential, task.device), compression),
        "labeller": cost_of_compression(crystal, task.labeller.direct(), compression),
        "n_training": len(task.training),
        "n_valid": len(task.valid),
        "elements": sorted(task.isolated_energies or {}),
        "reference": float(task.reference.cost),
    }


def report(results: Mapping[str, Mapping[str, Any]]) -> Page:
    """One row a part."""
    rows = [f"| {name} | {found['potential']:.4g} | {found['labeller']:.4g} |" for name, found in results.items()]
    return Page("\n".join(["| squeeze | potential | labeller |", "|---|---|---|", *rows]) + "\n")
