"""A fault is planted, found, named and mended: with a cheap labeller, in minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import spglib
import xarray as xr
from ase import Atoms

from mlip.config.train import Train
from mlip.labels.calculator import label_with
from mlip.labels.importing import import_calculator
from mlip.potential.ace.committee import ACEPotential
from mlip.properties.symmetry import SYMMETRY_PRECISION
from mlip.studies.elastic.attribution.causes import Fit, measure_reference
from mlip.studies.elastic.experiments.mending import FaultName, Mending, MendingLimits, mend, plant_fault
from mlip.studies.experiments import Page, Task
from mlip.training.data import resolve_cutoff

N_STRUCTURES = 30
EXPECTED = {"wrong_labels": "wrong labels", "short_cutoff": "descriptor", "missing_shear": "missing strains"}


def run(task: Task) -> dict[str, Any]:
    """Plant the fault that the part is called by, find and mend it, with the loop's own trainings."""
    fault = cast(FaultName, task.part)
    settings = task.labeller.settings
    build = import_calculator(settings.calculator)
    wrong, mending, reference = demonstrate_fault(
        fault,
        task.structures[0],
        task.train,
        build(**settings.parameters),
        build(**settings.parameters | task.plan["wrong_parameters"]),
        fit=train_fully(task.seed, task.device),
        n_labels=task.plan["n_labels"],
        seed=task.seed,
    )
    return record(fault, wrong, mending, reference)


def report(results: Mapping[str, Mapping[str, Any]]) -> Page:
    """What was planted, named and mended."""
    (result,) = results.values()
    return Page(format_mending(result))


def train_fully(seed: int, device: str = "cpu") -> Fit:
    """The loop's own training, as a :data:`Fit`."""

    def fit(structures: Sequence[Atoms], settings: Train) -> ACEPotential:
        from mlip.loop.train_committee import TrainingRequest, train_committee
        from mlip.potential import load_potential

        with tempfile.TemporaryDirectory() as folder:
            train_committee(TrainingRequest(structures, [], settings, Path(folder), seed=seed, device=device))
            loaded = load_potential(Path(folder), device=device)
        if not isinstance(loaded, ACEPotential):
            raise TypeError("attribution needs train.backend: ace")
        return loaded

    return fit


def primitive_cell(crystal: Atoms) -> Atoms:
    """The primitive cell of ``crystal`` in the same orientation: constants are the same, and cheaper."""
    cell = (crystal.cell.array, crystal.get_scaled_positions(), crystal.numbers)
    standardised = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMMETRY_PRECISION)
    if standardised is None:
        return crystal
    vectors, scaled, numbers = standardised
    return Atoms(numbers, cell=vectors, scaled_positions=scaled, pbc=True)


def demonstrate_fault(
    fault: FaultName,
    crystal: Atoms,
    settings: Train,
    calculator: Any,
    wrong_calculator: Any,
    *,
    fit: Fit,
    n_labels: int,
    seed: int,
) -> tuple[tuple[int, ...], Mending, xr.Dataset]:
    """Plant ``fault`` and let :func:`mend` find and mend it.

    Args:
        fault: which.
        crystal: conventional cell of a cubic crystal.
        settings: section ``train`` that would do.
        calculator: the labeller.
        wrong_calculator: makes the wrong labels.
        fit: trains a potential.
        n_labels: labels that mending may take.
        seed: of everything.

    Returns:
        Which labels are wrong, what was found and done, and the constants of the labeller.
    """
    label, mislabel = label_with(calculator), label_with(wrong_calculator)
    cell = primitive_cell(crystal)
    reference = measure_reference(calculator, cell)
    settings = resolve_cutoff([label(crystal)], settings, None).model_copy(update={"consistency": "off"})
    training, faulty, wrong = plant_fault(fault, crystal, N_STRUCTURES, settings, label, mislabel, seed)
    return (
        wrong,
        mend(training, faulty, cell, reference, label, fit, MendingLimits(n_labels=n_labels), seed=seed),
        reference,
    )


def record(fault: FaultName, wrong: Sequence[int], mending: Mending, reference: xr.Dataset) -> dict[str, Any]:
    """All of a demonstration as plain values; constants in GPa, [n_states, n_constants]."""
    return {
        "fault": fault,
        "expected": EXPECTED[fault],
        "named": mending.cause.name,
        "right": mending.cause.name == EXPECTED[fault],
        "text": mending.cause.text,
        "wrong_labels": list(wrong),
        "suspects": list(mending.cause.suspects),
        "numbers": {key: float(value) for key, value in mending.cause.numbers.items()},
        "change_of_settings": dict(mending.cause.settings),
        "paths": list(mending.cause.paths),
        "n_labels": mending.n_labels,
        "error_before": mending.error_before,
        "error_after": mending.error_after,
        "constants": [str(name) for name in reference.constant.values],
        "before": mending.before.tolist(),
        "after": mending.after.tolist(),
        "reference": reference.constants.values.tolist(),
    }


def format_mending(result: Mapping[str, Any]) -> str:
    """What :func:`record` returned, as Markdown."""
    lines = [
        f"# Planted: {result['fault'].replace('_', ' ')}",
        "",
        f"Named: **{result['named']}**. {result['text']}",
        "",
    ]
    wrong, suspects = set(result["wrong_labels"]), result["suspects"]
    if wrong:
        hits = len(wrong & set(suspects))
        lines += [f"Of {len(wrong)} wrong labels {hits} were found, with {len(suspects) - hits} false.", ""]
    lines += ["| constant | faulty | mended | reference (GPa) |", "|---|---|---|---|"]
    for s, state in enumerate(("clamped", "relaxed")):
        for k, name in enumerate(result["constants"]):
            before, after, true = (result[key][s][k] for key in ("before", "after", "reference"))
            lines.append(f"| {name} {state} | {before:.1f} | {after:.1f} | {true:.1f} |")
    errors = f"RMS relative error {result['error_before']:.1%} before and {result['error_after']:.1%} after"
    lines += ["", f"{errors}, with {result['n_labels']} more labels."]
    return "\n".join(lines) + "\n"
