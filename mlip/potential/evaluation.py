"""Errors of a potential on labelled structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa

from mlip.potential.interface import Potential, Prediction
from mlip.potential.uncertainty import coverage, rank_correlation
from mlip.structures.labelled import labelled_energy, labelled_forces, labelled_stress

UNITS = {
    "energy_mae": "meV/atom",
    "energy_rmse": "meV/atom",
    "force_mae": "meV/Å",
    "force_rmse": "meV/Å",
    "force_rms": "meV/Å",
    "stress_rmse": "GPa",
}
"""Units of what :func:`evaluate_potential` returns."""


def evaluate_potential(potential: Potential, structures: Sequence[Atoms]) -> dict[str, Any]:
    """Errors against the labels that ``structures`` carry.

    Returns ``energy_mae``, ``energy_rmse`` (meV/atom), ``force_mae``, ``force_rmse`` (meV/Å, per
    component), ``force_rms`` (the labels' own, meV/Å), ``stress_rmse`` (GPa, None without stress
    labels), ``coverage`` (share of force components within 1.96 calibrated standard deviations),
    ``spearman`` (rank correlation of force uncertainty and force error per atom),
    ``n_structures``, ``n_atoms`` and ``units``.

    Raises:
        ValueError: for an empty list.
    """
    if not structures:
        raise ValueError("no structures to evaluate the potential on")
    return evaluate_predictions(structures, potential.predict(structures))


def evaluate_predictions(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """:func:`evaluate_potential` from ``predictions`` already made."""
    errors = compare_with_labels(structures, predictions)
    milli = {name: 1e3 * errors[name] for name in ("energy_mae", "energy_rmse", "force_mae", "force_rmse", "force_rms")}
    rest = {name: errors[name] for name in ("coverage", "spearman", "n_structures", "n_atoms")}
    return milli | {"stress_rmse": errors["stress_rmse_gpa"]} | rest | {"units": UNITS}


def compare_with_labels(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The same errors from ``predictions`` already made, energies in eV/atom and forces in eV/Å."""
    pairs = list(zip(predictions, structures, strict=True))
    energy = np.array([(p.energy - labelled_energy(a)) / len(a) for p, a in pairs])
    forces = np.concatenate([p.forces - labelled_forces(a) for p, a in pairs])
    std = np.concatenate([p.forces_std[:, 0] for p in predictions])
    return {
        "energy_mae": float(np.abs(energy).mean()),
        "energy_rmse": float(np.sqrt((energy**2).mean())),
        "force_mae": float(np.abs(forces).mean()),
        "force_rmse": float(np.sqrt((forces**2).mean())),
        "force_rms": float(np.sqrt(np.mean(np.concatenate([labelled_forces(a) for a in structures]) ** 2))),
        "stress_rmse_gpa": _stress_rmse(pairs),
        "coverage": coverage(forces, std),
        "spearman": rank_correlation(std, np.linalg.norm(forces, axis=1)),
        "n_structures": len(structures),
        "n_atoms": len(forces),
    }


def _stress_rmse(pairs: Sequence[tuple[Prediction, Atoms]]) -> float | None:
    """RMSE of the stress components in GPa over the structures that have a stress label."""
    errors = [
        p.stress - labelled_stress(a)
        for p, a in pairs
        if p.stress is not None and np.isfinite(getattr(a.calc, "results", {}).get("stress", np.nan)).all()
    ]
    return float(np.sqrt(np.mean(np.square(errors)))) / GPa if errors else None
