"""Ablation: the potential trained with other cutoffs and resolutions, its elastic constants measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from ase import Atoms

from mlip.config.train import Train
from mlip.properties.elastic.constants import measure_elasticity
from mlip.properties.symmetry import PropertyError
from mlip.studies.elastic.attribution.causes import relative_error
from mlip.studies.elastic.attribution.diagnosis import diagnose
from mlip.studies.elastic.equilibrium import find_equilibrium
from mlip.studies.elastic.settings import PRESENT
from mlip.studies.elastic.tables import tabulate
from mlip.studies.experiments import Page, Task


def run(task: Task) -> dict[str, Any]:
    """Train with the change that the part's plan makes in ``train`` and measure constants and errors."""
    from mlip.loop.train_committee import TrainingRequest, train_committee
    from mlip.potential.calculator import load_calculator
    from mlip.potential.evaluation import evaluate_potential

    change, n_steps = task.plan["change"], task.plan["n_steps"]
    # The loop has checked the labels; a variant too poor to tell structures apart would find them inconsistent.
    fixed = {"n_steps": n_steps, "restart": "scratch", "consistency": "off"}
    train = Train.model_validate(task.train.model_dump() | fixed | dict(change))
    folder = task.folder / "potential"
    energies = task.isolated_energies
    train_committee(
        TrainingRequest(
            task.training, task.valid, train, folder, seed=task.seed, device=task.device, isolated_energies=energies
        )
    )
    calculator = load_calculator(folder, task.device, uncertainty=False)
    errors = evaluate_potential(calculator.potential, task.valid or task.training)
    return {
        "variant": task.part,
        "change": dict(change),
        "n_steps": n_steps,
        "force_rmse": errors["force_rmse"],
        **measure_variant(task.structures[0], calculator, task.reference, task.plan["tolerance"]),
        "reference": _named(task.reference),
    }


def measure_variant(structure: Atoms, calculator: Any, reference: xr.Dataset, tolerance: float) -> dict[str, Any]:
    """RMS relative error of the constants, what is wrong, the constants (GPa), and why there are none."""
    try:
        data = tabulate(measure_elasticity(find_equilibrium(structure, calculator), calculator))
        diagnosis = diagnose(data, reference, tolerance)
        error = relative_error(data.by_energy.values, reference)
    except PropertyError as failure:
        return {"error": None, "place": None, "constants": {}, "failure": str(failure)}
    place = diagnosis.place if diagnosis is not None else None
    return {"error": error, "place": place, "constants": _named(data), "failure": None}


def _named(data: xr.Dataset) -> dict[str, float]:
    """Constants by name and state, GPa."""
    return {
        f"{constant} {state}": float(data.constants.sel(constant=constant, state=state))
        for state in data.state.values
        for constant in data.constant.values
    }


def report(results: Mapping[str, Mapping[str, Any]]) -> Page:
    """Table of the variants, the best named."""
    rows = list(results.values())
    true = rows[0]["reference"]
    lines = ["| variant | change | RMS relative error | force RMSE (meV/Å) | " + " | ".join(true) + " | wrong is |"]
    lines.append("|" + "---|" * (len(true) + 5))
    for row in rows:
        change = ", ".join(f"{key} {value}" for key, value in row["change"].items()) or "none"
        error = "no crystal" if row["error"] is None else f"{row['error']:.1%}"
        values = [f"{row['constants'][name]:.1f}" if name in row["constants"] else "" for name in true]
        cells = [row["variant"], change, error, f"{row['force_rmse']:.0f}", *values, row["place"] or ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("| reference | | | | " + " | ".join(f"{value:.1f}" for value in true.values()) + " | |")
    return Page("\n".join([*lines, "", verdict(rows), ""]))


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which change of the descriptor makes the constants better, in one sentence."""
    usable = [row for row in rows if row["error"] is not None]
    present = next((row for row in usable if row["variant"] == PRESENT), None)
    if not usable or present is None:
        return "The present settings give no crystal; compare the variants that do."
    best = min(usable, key=lambda row: row["error"])
    if best is present or best["error"] > 0.7 * present["error"]:
        return "No variant is clearly better than the present settings: the descriptor is not what is wrong."
    return (
        f"{best['variant']} brings the error from {present['error']:.1%} to {best['error']:.1%}: the descriptor's "
        f"{', '.join(best['change'])} is what is wrong."
    )
