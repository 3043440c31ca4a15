"""A study without the workflow: one measurement of a potential or of any ASE calculator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import xarray as xr
from ase import Atoms

from mlip.config.system import Config
from mlip.io.netcdf import read_netcdf, write_netcdf
from mlip.jobs.job import report_progress
from mlip.labels.calculator import label_with
from mlip.labels.store import label_store
from mlip.studies import load_study
from mlip.studies.interface import Labelled, Reference, Round, Subject
from mlip.studies.report import write_report
from mlip.studies.steps import refer as refer_with
from mlip.studies.steps import write_measurement


def study_alone(
    name: str,
    potential: str,
    config: Config,
    out: Path,
    *,
    reference: Path | None = None,
    refer: bool = False,
    device: str = "cpu",
) -> bool:
    """Measure, compare and report into ``out``: ``property.nc``, ``report.html``, ``result.json``.

    Args:
        name: the study.
        potential: folder of a potential, or import path of an ASE calculator that needs no arguments but
            ``label.parameters`` where it is the labeller's.
        config: configuration of the system.
        out: folder written.
        reference: ``reference.nc`` computed before.
        refer: compute the reference with the labeller, into ``out``.
        device: torch device.

    Returns:
        Whether every criterion passed.
    """
    from mlip.structures.geometry import scale_volume
    from mlip.structures.starting import load_starting_structure

    study = load_study(name, getattr(config.studies, name))
    structures = [load_starting_structure(source) for source in config.structures]
    # The scan that the loop labels as its references.
    volumes = config.assess.eos_volumes if structures[0].pbc.all() else ()
    scan = [scale_volume(structures[0], change) for change in volumes]
    known = Reference(read_netcdf(reference) if reference is not None else xr.Dataset())
    if refer:
        labeller = Labelled(config.label, label_store(), report_progress())
        with labeller.stored() as calculator:
            label = label_with(calculator)
            found = refer_with(study, structures, [label(atoms) for atoms in scan], labeller, config.seed)
            known = Reference(found.data, [label(atoms) for atoms in found.structures])
        write_netcdf(out / "reference.nc", known.data)
    subject = _subject(potential, config, structures, scan, device)
    measurement = study.measure(replace(subject, reference=known))
    write_measurement(measurement, out)
    criteria = study.compare(measurement.data, known.data)
    return write_report(study, config.system, [Round(0, measurement.data, criteria)], known.data, out)


def _subject(potential: str, config: Config, structures: list[Atoms], scan: list[Atoms], device: str) -> Subject:
    if Path(potential).is_dir():
        from mlip.potential import load_potential
        from mlip.potential.calculator import MLIPCalculator

        loaded = load_potential(potential, device=device)
        calculator = MLIPCalculator(loaded, uncertainty=False)
        return Subject(calculator, loaded, structures, scan, config.seed, report_progress())
    from mlip.labels.importing import import_calculator

    parameters = config.label.parameters if potential == config.label.calculator else {}
    labeller = import_calculator(potential)(**parameters)
    return Subject(labeller, None, structures, scan, config.seed, report_progress())
