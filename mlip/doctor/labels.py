"""``mlip doctor --label``: labels that are tried, held against themselves, and what the loop will cost by them."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from mlip.config.system import Config, load_config
from mlip.config.values import ConfigError
from mlip.doctor.checks import Check
from mlip.io.extxyz import read_structures
from mlip.jobs.progress import Progress
from mlip.labels.agreement import REMEDY, ForceAgreement, compare_stress
from mlip.labels.codes.kmesh import check_mesh
from mlip.labels.importing import LabelError
from mlip.labels.labeller import Labeller
from mlip.labels.store import label_store
from mlip.labels.trial import TrialLabel, label_trials, rattle_start, try_forces
from mlip.loop.label_references import label_references
from mlip.structures.labelled import split_by_source
from mlip.structures.starting import StructureError, load_starting_structure


def check_labels(path: Path, progress: Progress | None = None) -> list[Check]:
    """Label a rattled structure, two beside it and the references; all of them stay in the store.

    Args:
        path: configuration of the system.
        progress: called after each label.
    """
    try:
        config = load_config(path)
        check_mesh(config.label.parameters, [load_starting_structure(source) for source in config.structures])
        with Labeller(config.label, label_store()) as labeller:
            labels = label_trials(labeller, [rattle_start(config)], progress)
            agreement, moved = try_forces(labeller, labels[0], progress)
    except (ConfigError, StructureError, LabelError) as error:
        return [Check("label", "fail", str(error), f"Edit {path}.")]
    checks = [_check_label(labels[0])]
    if checks[0].status == "fail":
        return checks
    return [
        *checks,
        _check_forces(agreement, moved),
        _check_stress(config, progress),
        _check_cost(config, labels + moved),
    ]


def _check_label(label: TrialLabel) -> Check:
    values = label.as_json()
    if values["status"] != "ok":
        remedy = f"Correct `label`; the log is {label_store() / 'logs' / values['key']}.txt, if there is one."
        return Check("label", "fail", f"{values['formula']}: {values['status']}, {values['reason']}", remedy)
    detail = (
        f"{values['formula']}, rattled: {values['energy'] / values['n_atoms']:.4f} eV/atom, largest force"
        f" {values['max_force']:.3f} eV/Å, {values['wall_seconds']:.1f} s, {values['core_seconds']:.1f} core-seconds"
    )
    detail += f", {values['peak_mb']:.0f} MB" if values["peak_mb"] else ""
    if values["attempts"] > 1:
        detail += f", {values['attempts']} attempts"
        return Check("label", "warn", detail, "The SCF converged only with safer settings; begin with those.")
    if values["warnings"]:
        return Check("label", "warn", f"{detail}; {'; '.join(values['warnings'])}", "Correct `label.parameters`.")
    return Check("label", "ok", detail)


def _check_forces(agreement: ForceAgreement | None, moved: Sequence[TrialLabel]) -> Check:
    if agreement is None:
        failed = [f"{label.outcome.status}, {label.outcome.reason}" for label in moved if label.outcome.reason]
        if failed:
            return Check("forces", "warn", f"a displaced copy has no label: {failed[0]}", "Look at its log.")
        return Check("forces", "info", "too small to compare with differences of energies")
    if agreement.agrees:
        return Check("forces", "ok", str(agreement))
    return Check("forces", "fail", str(agreement), f"Converge the SCF further; {REMEDY}.")


def _check_stress(config: Config, progress: Progress | None) -> Check:
    """The references, labelled and judged as the loop does it."""
    structures, volumes = _compressed_structures(config), config.assess.eos_volumes
    if not (structures and volumes):
        return Check("stress", "info", "no volumes to compare it over")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "references.extxyz"
        try:
            label_references(structures, config.label, volumes, store=label_store(), out=out, progress=progress)
        except LabelError as error:
            return Check("stress", "fail", str(error), "The loop would stop with the same words.")
        found = [compare_stress(scan) for scan in split_by_source(read_structures(out)).values()]
    agreements = [agreement for agreement in found if agreement is not None]
    if not agreements:
        return Check("stress", "warn", "the labels have none", "NPT walkers learn pressures from energies alone.")
    worst = max(agreements, key=lambda agreement: agreement.certain)
    return Check("stress", "ok", f"{worst}; energies scatter by {1e3 * worst.scatter:.2f} meV/atom about a curve")


def _compressed_structures(config: Config) -> dict[int, Atoms]:
    """Periodic starting structures whose equation of state the loop labels, by number."""
    found = {number: load_starting_structure(config.structures[number]) for number in config.assess.eos_structures}
    return {number: structure for number, structure in found.items() if structure.pbc.all()}


def _check_cost(config: Config, labels: Sequence[TrialLabel]) -> Check:
    """Labels of a whole loop at the cost of the ones tried; training and dynamics are not in it."""
    records = [label.outcome.record for label in labels]
    wall = statistics.median(record["wall_seconds"] for record in records)
    core = statistics.median(record["core_seconds"] for record in records)
    batches = plan_batches(config)
    n_labels = sum(n for n, _ in batches)
    hours = sum(math.ceil(n / shards) for n, shards in batches) * wall / 3600
    core_hours = n_labels * core / 3600
    detail = (
        f"at most {n_labels} labels in {config.max_iterations} iterations, {core_hours:.2g} core-hours; {hours:.2g} h"
        f" with {config.label.n_shards} shards at a time"
    )
    budget = config.budget
    if budget.labels is not None and budget.labels < n_labels:
        detail += f"; budget.labels ends it at {budget.labels}, {budget.labels * core / 3600:.2g} core-hours"
    if len(config.structures) > 1:
        detail += f"; taking all structures for {labels[0].structure.get_chemical_formula()}"
    if budget.core_hours is not None and core_hours > budget.core_hours:
        return Check("cost", "warn", detail, f"More than budget.core_hours ({budget.core_hours:g}) for labels alone.")
    return Check("cost", "info", detail)


def plan_batches(config: Config) -> list[tuple[int, int]]:
    """Labels and the jobs that share them, of the references, isolated atoms and each iteration that may come."""
    starts = [load_starting_structure(source) for source in config.structures]
    references = len(config.assess.eos_volumes) * sum(starts[k].pbc.all() for k in config.assess.eos_structures)
    if config.label.isolated_atoms == "compute":
        references += len({symbol for atoms in starts for symbol in atoms.symbols})
    batches = [(references, 1), (config.prepare.n_structures, config.label.n_shards)]
    for iteration in range(1, config.max_iterations):
        current = config.at_iteration(iteration)
        batches.append((current.select.n_structures, current.label.n_shards))
    return batches
