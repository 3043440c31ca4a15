"""Ablation: the potential trained with other cutoffs and resolutions, its elastic constants measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from ase import Atoms

from mlip.config.train import Train
from mlip.io.files import read_json, write_atomic, write_json
from mlip.properties.elastic.constants import measure_elasticity
from mlip.properties.symmetry import PropertyError
from mlip.studies.elastic.attribution.causes import relative_error
from mlip.studies.elastic.attribution.diagnosis import diagnose
from mlip.studies.elastic.equilibrium import find_equilibrium
from mlip.studies.elastic.settings import PRESENT
from mlip.studies.elastic.tables import tabulate


def ablate_variant(
    name: str,
    change: Mapping[str, Any],
    training: Sequence[Atoms],
    valid: Sequence[Atoms],
    structure: Atoms,
    reference: xr.Dataset,
    settings: Train,
    *,
    n_steps: int,
    tolerance: float,
    isolated_energies: dict[str, float] | None,
    seed: int,
    out: Path,
    device: str = "cpu",
) -> None:
    """Train with ``change`` of ``settings`` for ``n_steps`` and write constants and errors to the JSON file ``out``."""
    from mlip.loop.train_committee import TrainingRequest, train_committee
    from mlip.potential.calculator import load_calculator
    from mlip.potential.evaluation import evaluate_potential

    # The loop has checked the labels; a variant too poor to tell structures apart would find them inconsistent.
    fixed = {"n_steps": n_steps, "restart": "scratch", "consistency": "off"}
    own = Train.model_validate(settings.model_dump() | fixed | dict(change))
    folder = out.parent / f"{name}-potential"
    train_committee(
        TrainingRequest(training, valid, own, folder, seed=seed, device=device, isolated_energies=isolated_energies)
    )
    calculator = load_calculator(folder, device, uncertainty=False)
    result: dict[str, Any] = {"variant": name, "change": dict(change), "n_steps": n_steps}
    result["force_rmse"] = evaluate_potential(calculator.potential, list(valid) or list(training))["force_rmse"]
    try:
        data = tabulate(measure_elasticity(find_equilibrium(structure, calculator), calculator))
        found = diagnose(data, reference, tolerance)
        result |= {
            "error": relative_error(data.by_energy.values, reference),
            "place": found.place if found is not None else None,
            "constants": {
                f"{c} {s}": float(data.constants.sel(constant=c, state=s))
                for s in data.state.values
                for c in data.constant.values
            },
            "failure": None,
        }
    except PropertyError as error:
        result |= {"error": None, "place": None, "constants": {}, "failure": str(error)}
    write_json(out, result, checked=True)


def write_ablation(results: Sequence[Path], reference: xr.Dataset, out: Path) -> None:
    """Markdown table of the variants' JSON files, the best named."""
    rows = [read_json(path) for path in results]
    names = [f"{c} {s}" for s in reference.state.values for c in reference.constant.values]
    lines = ["| variant | change | RMS relative error | force RMSE (meV/Å) | " + " | ".join(names) + " | wrong is |"]
    lines.append("|" + "---|" * (len(names) + 5))
    for row in rows:
        change = ", ".join(f"{key} {value}" for key, value in row["change"].items()) or "none"
        error = "no crystal" if row["error"] is None else f"{row['error']:.1%}"
        values = [f"{row['constants'][n]:.1f}" if n in row["constants"] else "" for n in names]
        cells = [row["variant"], change, error, f"{row['force_rmse']:.0f}", *values, row["place"] or ""]
        lines.append("| " + " | ".join(cells) + " |")
    true = [
        f"{float(reference.constants.sel(constant=c, state=s)):.1f}"
        for s in reference.state.values
        for c in reference.constant.values
    ]
    lines.append("| reference | | | | " + " | ".join(true) + " | |")
    lines += ["", verdict(rows), ""]
    write_atomic(out, "\n".join(lines))


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
