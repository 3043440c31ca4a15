"""A fault is planted, found, named and mended: with a cheap labeller, in minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import spglib
from ase import Atoms

from mlip.config.train import Train
from mlip.io.files import write_atomic, write_json
from mlip.potential.ace.committee import ACEPotential
from mlip.properties.symmetry import SYMMETRY_PRECISION
from mlip.studies.elastic.attribution.causes import Fit, measure_reference
from mlip.studies.elastic.experiments.mending import FaultName, Mending, label_with, mend, plant_fault
from mlip.training.data import resolve_cutoff

N_STRUCTURES = 30
EXPECTED = {"wrong_labels": "wrong labels", "short_cutoff": "descriptor", "missing_shear": "missing strains"}


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
    found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMMETRY_PRECISION)
    if found is None:
        return crystal
    vectors, scaled, numbers = found
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
    out: Path,
) -> Mending:
    """Plant ``fault``, let :func:`mend` find and mend it, write ``<fault>.json`` and ``<fault>.md`` into ``out``.

    Args:
        fault: which.
        crystal: conventional cell of a cubic crystal.
        settings: section ``train`` that would do.
        calculator: the labeller.
        wrong_calculator: makes the wrong labels.
        fit: trains a potential.
        n_labels: labels that mending may take.
        seed: of everything.
        out: folder written.
    """
    label, mislabel = label_with(calculator), label_with(wrong_calculator)
    cell = primitive_cell(crystal)
    reference = measure_reference(calculator, cell)
    complete = [label(crystal)]
    settings = resolve_cutoff(complete, settings, None).model_copy(update={"consistency": "off"})
    training, faulty, wrong = plant_fault(fault, crystal, N_STRUCTURES, settings, label, mislabel, seed)
    found = mend(training, faulty, cell, reference, label, fit, n_labels=n_labels, seed=seed)
    write_json(out / f"{fault}.json", _record(fault, wrong, found))
    names = list(reference.constant.values)
    write_atomic(out / f"{fault}.md", _page(fault, wrong, found, names, reference.constants.values))
    return found


def _record(fault: str, wrong: Sequence[int], found: Mending) -> dict[str, Any]:
    return {
        "fault": fault,
        "expected": EXPECTED[fault],
        "named": found.cause.name,
        "right": found.cause.name == EXPECTED[fault],
        "text": found.cause.text,
        "wrong_labels": list(wrong),
        "suspects": list(found.cause.suspects),
        "numbers": {key: float(value) for key, value in found.cause.numbers.items()},
        "change_of_settings": dict(found.cause.settings),
        "paths": list(found.cause.paths),
        "n_labels": found.n_labels,
        "error_before": found.error_before,
        "error_after": found.error_after,
        "before": found.before.tolist(),
        "after": found.after.tolist(),
    }


def _page(fault: str, wrong: Sequence[int], found: Mending, names: list[str], true: np.ndarray) -> str:
    lines = [f"# Planted: {fault.replace('_', ' ')}", "", f"Named: **{found.cause.name}**. {found.cause.text}", ""]
    if wrong:
        hits = len(set(wrong) & set(found.cause.suspects))
        lines += [f"Of {len(wrong)} wrong labels {hits} were found, with {len(found.cause.suspects) - hits} false.", ""]
    lines += ["| constant | faulty | mended | reference (GPa) |", "|---|---|---|---|"]
    for s, state in enumerate(("clamped", "relaxed")):
        for k, name in enumerate(names):
            lines.append(f"| {name} {state} | {found.before[s, k]:.1f} | {found.after[s, k]:.1f} | {true[s, k]:.1f} |")
    errors = f"RMS relative error {found.error_before:.1%} before and {found.error_after:.1%} after"
    lines += ["", f"{errors}, with {found.n_labels} more labels."]
    return "\n".join(lines) + "\n"
