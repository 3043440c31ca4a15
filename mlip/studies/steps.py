"""The steps of a study's round, from files to files; the scripts of the workflow call these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr
from ase import Atoms

from mlip.config.label import Label
from mlip.criteria import Criterion
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import read_table, write_json, write_table
from mlip.io.netcdf import read_netcdf, write_netcdf
from mlip.jobs.progress import Progress, silent
from mlip.structures.labelled import split_by_source
from mlip.studies import load_study
from mlip.studies.interface import Acquisition, Labelled, Measurement, Reference, Round, Study, Subject

PROPERTY, FRAMES = "property.nc", "frames.extxyz"
REFERENCE = "reference"
"""Reason of the structures that a study's reference brings."""


def measure_study(
    study: Study,
    potential: Path,
    structures: Sequence[Atoms],
    references: Sequence[Atoms],
    test: Sequence[Atoms],
    *,
    seed: int,
    out: Path,
    training: Sequence[Atoms] = (),
    reference: Reference | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> None:
    """Measure a study's property with a potential; write ``property.nc`` and ``frames.extxyz`` into ``out``.

    Args:
        study: what to measure.
        potential: folder of the potential.
        structures: starting structures.
        references: labelled equations of state, of which that of structure 0 counts; may be empty.
        test: labelled structures that the potential was not trained on; may be empty.
        seed: seed of the configuration.
        out: folder written.
        training: labelled structures that the potential was trained on; may be empty.
        reference: where the study's measurement begins with it.
        device: torch device.
        progress: called now and then.
    """
    from mlip.potential import load_potential
    from mlip.potential.calculator import MLIPCalculator
    from mlip.potential.evaluation import compare_with_labels

    loaded = load_potential(potential, device=device)
    calculator = MLIPCalculator(loaded, uncertainty=False)
    scan = split_by_source(references).get(0, [])
    begin = reference or Reference()
    subject = Subject(calculator, loaded, structures, scan, seed, progress or silent, training, begin)
    measurement = study.measure(subject)
    if test:
        errors = compare_with_labels(test, loaded.predict(test))
        known = {"test_force_rmse": errors["force_rmse"], "test_force_rms": errors["force_rms"]}
        measurement.data.attrs.update(known | {"test_structures": len(test)})
    write_measurement(measurement, out)


def write_measurement(measurement: Measurement, out: Path) -> None:
    """``property.nc`` and ``frames.extxyz`` in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    write_structures(out / FRAMES, list(measurement.frames))
    write_netcdf(out / PROPERTY, measurement.data)


def read_measurement(folder: Path) -> Measurement:
    """Inverse of :func:`write_measurement`."""
    return Measurement(read_netcdf(folder / PROPERTY), read_structures(folder / FRAMES))


def refer_study(
    study: Study,
    structures: Sequence[Atoms],
    references: Sequence[Atoms],
    settings: Label,
    *,
    store: Path,
    seed: int,
    out: Path,
    progress: Progress | None = None,
) -> list[Atoms]:
    """Write the study's reference to the NetCDF file ``out``; ``settings`` is section ``label``.

    Of ``references``, labelled equations of state, that of structure 0 counts.

    Returns:
        The structures, not labelled, whose labels join the study's data.
    """
    labeller = Labelled(settings, store, progress or silent)
    found = refer(study, structures, split_by_source(references).get(0, []), labeller, seed)
    write_netcdf(out, found.data)
    return list(found.structures)


def refer(
    study: Study, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
) -> Reference:
    """:meth:`Study.refer`, its structures named and marked: what was chosen trains, and so do these."""
    found = study.refer(structures, references, labeller, seed)
    if not isinstance(found, Reference):
        return Reference(found)
    named = []
    for k, atoms in enumerate(found.structures):
        named.append(atoms.copy())
        origin = {"structure_id": f"{study.name}-reference-{k:03d}", "origin": study.name, "reason": REFERENCE}
        named[-1].info = dict(atoms.info) | origin
    return Reference(found.data, named)


def acquire_candidates(
    study: Study,
    measured: Path,
    reference: Path,
    potential: Path,
    *,
    number: int,
    seed: int,
    out: Path,
    decisions: Path,
    verdict: Path,
    device: str = "cpu",
) -> None:
    """Judge round ``number``, and choose what the next one labels unless the study ends here.

    It ends when every criterion is met, and when there is nothing left to label; without criteria it goes on.
    Candidates are extended XYZ, decisions CSV; the JSON file ``verdict`` has ``stop``, ``reason`` and ``criteria``.
    """
    from mlip.potential import load_potential

    measurement, known = read_measurement(measured), read_netcdf(reference)
    criteria = study.compare(measurement.data, known)
    passed = bool(criteria) and all(criterion.passed for criterion in criteria)
    chosen = Acquisition([], [])
    if not passed:
        chosen = study.acquire(measurement, known, load_potential(potential, device=device), seed)
    write_structures(out, [_sign(atoms, study, number + 1, k) for k, atoms in enumerate(chosen.candidates)])
    write_table(decisions, chosen.decisions)
    stop = not chosen.candidates
    failed = [criterion.name for criterion in criteria if not criterion.passed]
    reason = "every criterion is met" if passed else f"{'nothing left to label; ' if stop else ''}not met: {failed}"
    judged = [criterion.as_dict() for criterion in criteria]
    write_json(verdict, {"stop": stop, "reason": reason, "criteria": judged})


def _sign(atoms: Atoms, study: Study, number: int, k: int) -> Atoms:
    """A copy of candidate ``k`` of round ``number`` that says who asked for it and why."""
    chosen = atoms.copy()
    origin = {"structure_id": f"{study.name}-round_{number:02d}-{k:03d}", "origin": study.name}
    chosen.info = {"reason": "acquired"} | dict(atoms.info) | origin
    return chosen


def read_round(study: Study, folder: Path, number: int, reference: xr.Dataset) -> Round:
    """The finished round ``number`` in ``folder`` (``studies/<name>/round_NN``)."""
    data = read_netcdf(folder / PROPERTY)
    joined, decisions = folder / "dataset" / "new.extxyz", folder / "decisions.csv"
    rows: list[dict[str, str]] = []
    if decisions.is_file() and decisions.read_text().strip():
        table = read_table(decisions, as_text=True).to_dict("records")
        rows = [{str(name): str(cell) for name, cell in row.items()} for row in table]
    new = read_structures(joined) if number and joined.is_file() else []
    n_labels = sum(atoms.info.get("reason") != REFERENCE for atoms in new)
    return Round(number, data, study.compare(data, reference), n_labels, rows)


def gate_criteria(
    studies: Mapping[str, Mapping[str, Any]], properties: Sequence[Path], references: Sequence[Path]
) -> list[Criterion]:
    """The criteria of the studies that the loop's convergence waits for.

    Args:
        studies: settings of each, by name.
        properties: ``property.nc`` of each, measured with the iteration's potential, in the same order.
        references: ``reference.nc`` of each.
    """
    criteria = []
    for (name, settings), measured, reference in zip(studies.items(), properties, references, strict=True):
        of_study = load_study(name, settings).compare(read_netcdf(measured), read_netcdf(reference))
        criteria += [replace(c, name=f"{name}: {c.name}") for c in of_study]
    return criteria
