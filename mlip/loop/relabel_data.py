"""Are existing data of the settings of ``label``? A few are labelled again and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa

from mlip.config.data import DataSource
from mlip.config.label import Label
from mlip.io.files import write_json
from mlip.jobs.progress import Progress
from mlip.labels.importing import LabelError
from mlip.labels.labeller import Labeller, Outcome
from mlip.labels.progress import report_label
from mlip.seeds import derive_rng
from mlip.statistics import fit_absolute
from mlip.structures.labelled import has_label, labelled_energy, labelled_forces, labelled_stress

FEWEST = 2
"""Structures that must have a label to be compared."""


class ComparisonError(ValueError):
    """Existing data and the labeller disagree; the message has the numbers and the remedy."""


@dataclass(frozen=True)
class Comparison:
    """Existing labels less those of the labeller, of one source.

    Attributes:
        ids: structures compared.
        energies: differences [n], eV/atom.
        shift: constant for each element (eV) that would bring the data's energies to the labeller's.
        left: differences [n] that remain once the shift is added, eV/atom.
        force_rmse: eV/Å.
        force_slope: of the data's forces on the labeller's, through the origin; 1 in the same unit and sign.
        stress: largest difference of a component, GPa; None without stresses.
        stress_slope: likewise.
    """

    ids: tuple[str, ...]
    energies: np.ndarray
    shift: dict[str, float]
    left: np.ndarray
    force_rmse: float
    force_slope: float
    stress: float | None
    stress_slope: float | None


def relabel_data(
    structures: Sequence[Atoms],
    sources: Sequence[DataSource],
    settings: Label,
    *,
    store: Path,
    seed: int,
    out: Path,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Label some structures of each source with ``settings: check`` again, compare and write what was found.

    Args:
        structures: what :func:`mlip.loop.import_data.import_data` has written.
        sources: section ``data``.
        settings: section ``label``.
        store: folder of the label store.
        seed: of the choice.
        out: JSON: for each source the differences, and the shift of energies that is to be added.
        scratch: folder for files of running calculations.
        progress: called after each label.

    Raises:
        ComparisonError: when they disagree by more than ``data.check`` allows.
        LabelError: when the settings are at fault or too few could be labelled.
    """
    chosen = {
        number: _choose([a for a in structures if a.info["data_source"] == number], source, number, seed)
        for number, source in enumerate(sources)
        if source.settings == "check"
    }
    total, done = sum(map(len, chosen.values())), 0
    entries, problems = [], []
    with Labeller(settings, store, scratch) as labeller:
        for number, members in chosen.items():
            outcomes = []
            for atoms in members:
                outcomes.append(labeller.label(atoms))
                done += 1
                report_label(progress, done, total, atoms.info["structure_id"], outcomes[-1])
            comparison = compare_labels(*_finished(members, outcomes, labeller.settings_id))
            entries.append({"source": number, "file": sources[number].file, **_as_dict(comparison, sources[number])})
            problems += _judge(comparison, sources[number])
    if problems:
        raise ComparisonError(
            "existing data disagree with the settings of `label`:\n  "
            + "\n  ".join(problems)
            + "\n  Change `label` to what they were computed with, or leave them out; data.check has the limits."
        )
    write_json(out, {"sources": entries}, checked=True)


def _choose(members: Sequence[Atoms], source: DataSource, number: int, seed: int) -> list[Atoms]:
    n = min(source.check.n_structures, len(members))
    picked = derive_rng(seed, "relabel_data", number).choice(len(members), n, replace=False)
    return [members[k] for k in sorted(picked.tolist())]


def _finished(
    members: Sequence[Atoms], outcomes: Sequence[Outcome], settings_id: str
) -> tuple[list[Atoms], list[dict[str, Any]]]:
    pairs = [
        (atoms, outcome.record["results"])
        for atoms, outcome in zip(members, outcomes, strict=True)
        if outcome.status == "ok" and outcome.settings_id == settings_id
    ]
    if len(pairs) < FEWEST:
        failed = [
            f"{atoms.info['structure_id']}: {outcome.status}, {outcome.reason or 'escalated to other settings'}"
            for atoms, outcome in zip(members, outcomes, strict=True)
            if outcome.status != "ok" or outcome.settings_id != settings_id
        ]
        raise LabelError(
            f"data: only {len(pairs)} of {len(members)} structures could be labelled to compare, at least {FEWEST} are"
            " needed; mend `label`, or raise data.check.n_structures:\n  " + "\n  ".join(failed[:6])
        )
    return [atoms for atoms, _ in pairs], [results for _, results in pairs]


def compare_labels(members: Sequence[Atoms], results: Sequence[dict[str, Any]]) -> Comparison:
    """Labels that ``members`` carry against the labeller's ``results`` (eV, eV/Å, eV/Å³)."""
    sizes = np.array([len(atoms) for atoms in members], dtype=float)
    rest = np.array([labelled_energy(a) - r["energy"] for a, r in zip(members, results, strict=True)])
    symbols = sorted({symbol for atoms in members for symbol in atoms.symbols})
    counts = np.array([[list(atoms.symbols).count(s) for s in symbols] for atoms in members], dtype=float)
    constants = fit_absolute(counts, rest)
    forces = np.concatenate([labelled_forces(atoms) for atoms in members])
    wanted = np.concatenate([np.asarray(r["forces"], dtype=float) for r in results])
    stressed = [(a, r) for a, r in zip(members, results, strict=True) if has_label(a, "stress") and r.get("stress")]
    stress = np.array([labelled_stress(atoms) for atoms, _ in stressed])
    target = np.array([r["stress"] for _, r in stressed])
    return Comparison(
        ids=tuple(str(atoms.info["structure_id"]) for atoms in members),
        energies=rest / sizes,
        shift={s: -float(c) for s, c in zip(symbols, constants, strict=True)},
        left=(rest - counts @ constants) / sizes,
        force_rmse=float(np.sqrt(np.mean((forces - wanted) ** 2))),
        force_slope=_slope(forces, wanted),
        stress=float(np.abs(stress - target).max() / GPa) if stressed else None,
        stress_slope=_slope(stress, target) if stressed else None,
    )


def _slope(values: np.ndarray, wanted: np.ndarray) -> float:
    square = float(np.sum(wanted**2))
    return float(np.sum(values * wanted)) / square if square > 0 else 1.0


def _judge(comparison: Comparison, source: DataSource) -> list[str]:
    """What is beyond the limits, in numbers."""
    limits, problems = source.check, []
    n = f"of {len(comparison.ids)} structures of {source.file} labelled again"
    energies = comparison.left if source.shift_energies else comparison.energies
    worst, least = int(np.abs(energies).argmax()), float(np.abs(comparison.left).max())
    if abs(energies[worst]) > limits.energy:
        text = (
            f"energies {n} differ by up to {energies[worst]:+.4g} eV/atom ({comparison.ids[worst]}),"
            f" more than data.check.energy = {limits.energy:g}"
        )
        if least <= limits.energy:
            text += (
                f"; but for one constant for each element by {least:.2g} at most: their zero is another, set"
                " `shift_energies: true` to move them"
            )
        problems.append(text)
    if comparison.force_rmse > limits.force_rmse:
        problems.append(
            f"forces {n} have an RMSE of {comparison.force_rmse:.4g} eV/Å, more than data.check.force_rmse ="
            f" {limits.force_rmse:g}{_factor(comparison.force_slope)}"
        )
    if comparison.stress is not None and comparison.stress > limits.stress:
        problems.append(
            f"stresses {n} differ by up to {comparison.stress:.4g} GPa, more than data.check.stress = {limits.stress:g}"
            f"{_factor(comparison.stress_slope)}"
        )
    return problems


def _factor(slope: float | None) -> str:
    """A hint where the data are a multiple of the labels: another unit or sign."""
    if slope is None or 0.5 < slope < 2.0:
        return ""
    return f"; they are {slope:.4g} times the labels: is their unit or sign another?"


def _as_dict(comparison: Comparison, source: DataSource) -> dict[str, Any]:
    return {
        "structures": list(comparison.ids),
        "energy_differences": comparison.energies.tolist(),
        "shift": comparison.shift if source.shift_energies else {},
        "force_rmse": comparison.force_rmse,
        "force_slope": comparison.force_slope,
        "stress_difference_gpa": comparison.stress,
        "stress_slope": comparison.stress_slope,
    }
