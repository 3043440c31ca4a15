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
from mlip.io.files import read_json, read_table, write_table
from mlip.io.netcdf import read_netcdf, write_netcdf
from mlip.jobs.progress import Progress, silent
from mlip.structures.labelled import split_by_source
from mlip.studies import load_study
from mlip.studies.interface import Labelled, Measurement, Round, Study, Subject

PROPERTY, FRAMES = "property.nc", "frames.extxyz"


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
        device: torch device.
        progress: called now and then.
    """
    from mlip.potential import load_potential
    from mlip.potential.calculator import MLIPCalculator
    from mlip.potential.evaluation import compare_with_labels

    loaded = load_potential(potential, device=device)
    calculator = MLIPCalculator(loaded, uncertainty=False)
    scan = split_by_source(references).get(0, [])
    subject = Subject(calculator, loaded, structures, scan, seed, progress or silent, training)
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
) -> None:
    """Write the study's reference to the NetCDF file ``out``; ``settings`` is section ``label``.

    Of ``references``, labelled equations of state, that of structure 0 counts.
    """
    labeller = Labelled(settings, store, progress or silent)
    write_netcdf(out, study.refer(structures, split_by_source(references).get(0, []), labeller, seed))


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
    device: str = "cpu",
) -> None:
    """Choose what the round after ``number`` labels; write candidates (extended XYZ) and decisions (CSV)."""
    from mlip.potential import load_potential

    loaded = load_potential(potential, device=device)
    acquisition = study.acquire(read_measurement(measured), read_netcdf(reference), loaded, seed)
    candidates = []
    for k, atoms in enumerate(acquisition.candidates):
        chosen = atoms.copy()
        origin = {"structure_id": f"{study.name}-round_{number + 1:02d}-{k:03d}", "origin": study.name}
        chosen.info = {"reason": "acquired"} | dict(atoms.info) | origin
        candidates.append(chosen)
    write_structures(out, candidates)
    write_table(decisions, acquisition.decisions)


def read_round(study: Study, folder: Path, number: int, reference: xr.Dataset) -> Round:
    """The finished round ``number`` in ``folder`` (``studies/<name>/round_NN``)."""
    data = read_netcdf(folder / PROPERTY)
    records, decisions = folder / "dataset" / "dataset.json", folder / "decisions.csv"
    rows: list[dict[str, str]] = []
    if decisions.is_file():
        table = read_table(decisions, as_text=True).to_dict("records")
        rows = [{str(name): str(cell) for name, cell in row.items()} for row in table]
    n_labels = read_json(records)["usable_new"] if number and records.is_file() else 0
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
