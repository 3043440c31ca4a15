"""What to change in the configuration when a criterion is not met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mlip.config.ladder import LADDER
from mlip.config.system import Config
from mlip.report.settings import describe_size
from mlip.report.sources import LoopRecord

STEEP = 0.9
"""Ratio of an error to that of the iteration before, below which more iterations are worth their cost."""

MOST_ITERATIONS = 12
"""Further iterations beyond which a forecast says nothing."""


class FailedCriterion(NamedTuple):
    """A criterion that was not met, and all there is to find out why."""

    value: float | None
    target: float | None
    config: Config
    loop: LoopRecord
    name: str

    @property
    def assessment(self) -> dict[str, Any]:
        """The last one."""
        return self.loop.last.assessment


def advise(entry: Mapping[str, Any], config: Config, loop: LoopRecord) -> str:
    """A sentence or two that name keys and values; empty for a criterion that is met or not known here."""
    if entry.get("passed"):
        return ""
    case = FailedCriterion(
        entry.get("value"), entry.get("target"), config.at_iteration(loop.last.number), loop, str(entry["name"])
    )
    for start, remedy in REMEDIES.items():
        if case.name.startswith(start):
            return remedy(case)
    return ""


def _forces(case: FailedCriterion) -> str:
    if case.value is None:
        return _no_error_yet(case)
    return f"{_more_data(case)} If {case.value:.2g} is enough for your purpose, raise {_key(case)}."


def _key(case: FailedCriterion) -> str:
    relative = "over RMS" in case.name
    return f"assess.{'relative_' if relative else 'audit_' if case.name.startswith('audit') else ''}force_rmse"


def _no_error_yet(case: FailedCriterion) -> str:
    if case.loop.last.number == 0:
        return (
            "No error on unseen labels yet: that takes a second iteration. Set max_iterations to"
            f" {max(3, case.config.max_iterations)} or more."
        )
    return "No new label was usable in the last iteration: see the failed labels below."


def _more_data(case: FailedCriterion) -> str:
    """More iterations while the error falls, else more labels and a larger potential."""
    history = _history(case)
    if len(history) > 1 and case.value and case.target and case.value < STEEP * history[-2]:
        wanted = math.ceil(math.log(case.target / case.value) / math.log(case.value / history[-2]))
        done = case.loop.last.number + 1
        if wanted <= MOST_ITERATIONS:
            return (
                f"It fell from {history[-2]:.2g} to {case.value:.2g} in the last iteration; at that rate it takes"
                f" {wanted} more: set max_iterations to {max(done + wanted, case.config.max_iterations)}."
            )
    labels, select = case.loop.last.usable_labels, case.config.select
    more = f"set select.n_structures to {2 * select.n_structures} (now {select.n_structures})"
    if case.config.train.backend == "mace":
        return f"More labels than {labels}: {more}; or a larger potential (train.mace.hidden_irreps)."
    train = case.config.train
    return (
        f"More labels than {labels}: {more}; or a larger potential: train.n_channels {2 * train.n_channels}"
        f" (now {train.n_channels}), train.n_steps {2 * train.n_steps} (now {train.n_steps})."
    )


def _history(case: FailedCriterion) -> list[float]:
    found = [
        criterion["value"]
        for assessment in case.loop.history
        for criterion in assessment.get("criteria") or []
        if criterion.get("name") == case.name and criterion.get("value") is not None
    ]
    return [float(value) for value in found]


def _audit(case: FailedCriterion) -> str:
    audit, n_audit = case.assessment.get("audit") or {}, case.config.select.n_audit
    if audit.get("n_failed") and audit.get("refused"):
        return (
            f"{audit['n_failed']} audit frames could not be labelled, so nothing bounds the error: see the failed"
            " labels below."
        )
    if audit.get("refused"):
        return (
            f"The audits certify nothing yet ({audit['refused']}): let the loop go on (max_iterations), or set"
            f" select.n_audit to {max(2 * n_audit, 8)} (now {n_audit})."
        )
    if case.value is None:
        few = audit.get("n_structures") == 1
        text = "One audit frame has no interval" if few else "There are no audit frames"
        return _no_error_yet(case) if case.loop.last.number == 0 else f"{text}: set select.n_audit to 4 or more."
    error, upper = audit.get("force_rmse"), (audit.get("interval") or [None, None])[1]
    if error is not None and upper and "over RMS force" in case.name:
        error *= case.value / upper
    if error is not None and case.target is not None and error <= case.target:
        return (
            f"The error itself, {error:.2g}, is small enough, but {audit.get('n_structures', n_audit)} frames bound it"
            f" badly: set select.n_audit to {2 * n_audit} (now {n_audit})."
        )
    return _forces(case)


def _coverage(case: FailedCriterion) -> str:
    if case.value is None:
        return _no_error_yet(case)
    size, share = case.config.train.committee_size, case.config.collect.valid_fraction
    valid = (case.assessment.get("dataset") or {}).get("valid")
    known = f", {valid} structure{'s' if valid != 1 else ''} now" if valid else ""
    return (
        "The potential is surer than it should be. Its uncertainty is scaled on the validation data"
        f"{known}: set collect.valid_fraction to {min(0.3, 2 * share):g} (now {share:g}); or more members:"
        f" train.committee_size {2 * size} (now {size})."
    )


def _walkers(case: FailedCriterion) -> str:
    explored, explore = case.assessment.get("exploration") or {}, case.config.explore
    hottest = max((max(group.temperatures) for group in explore.walkers if group.temperatures != LADDER), default=None)
    parts = []
    if explored.get("n_uncertain"):
        parts.append(
            f"{explored['n_uncertain']} stopped where the potential was too unsure; the frames before that are labelled"
            f" next, so more iterations help (max_iterations, now {case.config.max_iterations})"
            + (f", or milder walkers: explore.walkers temperatures below {hottest:g} K." if hottest else ".")
        )
    if explored.get("n_exploded"):
        parts.append(
            f"{explored['n_exploded']} exploded: set explore.timestep to {explore.timestep / 2:g} fs (now"
            f" {explore.timestep:g}), or widen the data they start from (prepare.rattle, prepare.n_structures)."
        )
    return " ".join(parts)


def _ladder(case: FailedCriterion) -> str:
    """Where the walkers are that have not arrived, and how to go on or to stop there."""
    entries = [entry for entry in (case.assessment.get("ladder") or {}).values() if not entry["done"]]
    told = "; ".join(f"rung {e['walked']['rung']} of {e['n_rungs']} ({e['reason']})" for e in entries)
    reached = max((entry["walked"]["temperature"] for entry in entries), default=0.0)
    return (
        f"The walkers have not climbed to the top: {told}. Let the loop go on (max_iterations, now"
        f" {case.config.max_iterations}), or, where {reached:.4g} K is enough for your purpose, set explore.ladder.top."
    )


def _properties(case: FailedCriterion) -> str:
    volumes, scanned = case.config.assess.eos_volumes, case.config.prepare.volume_range
    if volumes and (min(volumes) < scanned[0] or max(volumes) > scanned[1]):
        return (
            f"The data span volumes of {100 * scanned[0]:+g} to {100 * scanned[1]:+g} %, the reference"
            f" {100 * min(volumes):+g} to {100 * max(volumes):+g} %: widen prepare.volume_range to"
            f" [{min(volumes):g}, {max(volumes):g}]."
        )
    train = case.config.train
    missing = "The potential has no minimum of energy in assess.eos_volumes. " if case.value is None else ""
    return (
        f"{missing}Give energies and stresses more weight: train.energy_weight {4 * train.energy_weight:g} (now"
        f" {train.energy_weight:g}), train.stress_weight {4 * train.stress_weight:g} (now {train.stress_weight:g});"
        f" or more volumes to learn from: {_more_volumes(case.config.prepare.n_structures)}.{_converge(case.config)}"
    )


def _more_volumes(n_prepared: int) -> str:
    """None are prepared where existing data begin the loop."""
    if not n_prepared:
        return "existing data that span them, or prepare.n_structures 12 (now 0)"
    return f"prepare.n_structures {2 * n_prepared} (now {n_prepared})"


def _converge(config: Config) -> str:
    """Only of labels that have a cutoff, grid or basis."""
    size = describe_size(config.label.parameters)
    if not size:
        return ""
    return f" If it stays, the labels' stress may not be converged: raise the cutoff of label.parameters (now {size})."


REMEDIES: dict[str, Callable[[FailedCriterion], str]] = {
    "force RMSE": _forces,
    "audit force RMSE": _audit,
    "coverage": _coverage,
    "share of walkers": _walkers,
    "structures below the top": _ladder,
    "relative error of": _properties,
    "RMSE of the equation of state": _properties,
}
"""By how the criterion's name begins (:func:`mlip.loop.assess_potential.list_criteria`)."""
