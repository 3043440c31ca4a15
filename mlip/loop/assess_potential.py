"""Is the loop done? Errors on unseen labels, calibration, properties, stability and budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from ase import Atoms
from scipy import stats

from mlip.config.ladder import Ladder
from mlip.config.loop import Assess, Budget, Select
from mlip.criteria import Criterion
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json, write_json
from mlip.io.netcdf import read_netcdf, write_netcdf
from mlip.loop.select_candidates import auditable, screen_frames
from mlip.potential import Prediction, load_potential
from mlip.potential.certification import (
    Populations,
    certify_sources,
    error_ratios,
    expected_squares,
    read_error_ratios,
    squared_errors,
    summarise_certificates,
)
from mlip.potential.climbing import climb_ladders, judge_ladder
from mlip.potential.evaluation import compare_with_labels
from mlip.potential.expected_error import ErrorScale, read_training
from mlip.potential.parity import tabulate_parity
from mlip.potential.uncertainty import SHIFT_QUANTILES
from mlip.properties.eos_agreement import compare_eos
from mlip.structures.roles import is_audit

if TYPE_CHECKING:
    from mlip.jobs.ledger import Cost  # assessments do not depend on how costs are counted

NOMINAL_COVERAGE = 0.95
REMEDIES = "see decisions.csv for why its frames are left; raise select.n_audit, or give it no walkers"


@dataclass(frozen=True)
class AssessmentRequest:
    """What is known of an iteration when it is judged.

    Attributes:
        iteration: number of this iteration.
        old: committee of the previous iteration, whose errors on this iteration's labels are
            honest because it never saw them; None at iteration 0.
        potential: committee of this iteration, whose properties are compared with the labeller's.
        dataset: ``collect_dataset`` folder of this iteration.
        references: labelled reference structures (equation of state).
        frames: scored frames of this iteration's exploration.
        candidates: structures that the next iteration would label.
        earlier: assessment of the previous iteration: what earlier audits were drawn from, where walkers stood.
        count_costs: of a number of labels, what all iterations so far have cost, and what the next one would with so
            many labels: :func:`mlip.jobs.ledger.count_costs`.
        settings: convergence criteria.
        select: what frames an audit may draw.
        min_ratio: likewise, the shortest allowed distance over the sum of covalent radii.
        budget: limits that end the loop without convergence.
        min_iterations: iterations to run at least.
        out: folder written.
        device: torch device.
        studies: criteria of the studies that convergence waits for.
        ladder: what walkers climb, where any do.
    """

    iteration: int
    old: Path | None
    potential: Path
    dataset: Path
    references: Path
    frames: Path
    candidates: Path
    earlier: Path | None
    count_costs: Callable[[int], tuple[Cost, Cost]]
    settings: Assess
    select: Select
    min_ratio: float
    budget: Budget
    min_iterations: int
    out: Path
    device: str = "cpu"
    studies: Sequence[Criterion] = ()
    ladder: Ladder = field(default_factory=Ladder)


@dataclass(frozen=True)
class Explored:
    """This iteration's scored frames, and which of them an audit may draw, [n_frames]."""

    table: xr.Dataset
    auditable: np.ndarray

    @classmethod
    def read(cls, request: AssessmentRequest) -> Explored:
        """Those of ``request.frames``."""
        table = read_netcdf(request.frames, required=("force_uncertainty",))
        return cls(table, auditable(table, screen_frames(table, request.select, request.min_ratio)))


def assess_potential(request: AssessmentRequest) -> None:
    """Judge an iteration; write ``assessment.json``, ``ladder.json``, ``parity.nc`` and ``eos.nc`` into the folder."""
    counts = read_json(request.dataset / "dataset.json")
    committee = load_potential(request.potential, device=request.device)
    before = read_json(request.earlier) if request.earlier else {}
    populations = before.get("populations", [])
    explored = Explored.read(request)
    errors, surprises = _assess_fresh(request)
    held_out = read_structures(request.dataset / "test.extxyz")
    predictions = committee.predict(held_out)
    trained = read_training(request.potential / "training.json")
    errors["audit"] = _assess_audits(request, held_out, predictions, populations, surprises, trained)
    references = read_structures(request.references)
    properties = compare_eos(committee, references, request.out / "eos.nc")
    exploration = _describe_exploration(explored.table) | {"unaudited": find_unaudited(request, explored)}
    ladder = _climb(request, explored, held_out, predictions, before.get("ladder", {}), trained)
    write_json(request.out / "ladder.json", {"iteration": request.iteration, "structures": ladder}, checked=True)
    criteria = [*list_criteria(errors, properties, exploration, request.settings), *request.studies]
    criteria += judge_ladder(ladder)
    core_seconds = counts["core_seconds"] + sum(a.info.get("core_seconds", 0.0) for a in references)
    assessment = {
        "iteration": request.iteration,
        **{name: counts[name] for name in ("labels_total", "labels_new", "failed_new", "failed_total")},
        "dataset": {split: counts[split] for split in ("train", "valid", "test")},
        **errors,
        "test": _assess_test(held_out, predictions, request.settings.confidence),
        "properties": properties,
        "exploration": exploration,
        "ladder": ladder,
        "populations": [*populations, _describe_population(request, explored)],
        "criteria": [criterion.as_dict() for criterion in criteria],
        "core_hours_labels": core_seconds / 3600,
        **_decide(request, all(criterion.passed for criterion in criteria), counts["labels_total"]),
    }
    write_json(request.out / "assessment.json", assessment, checked=True)


def _decide(request: AssessmentRequest, passed: bool, labels: int) -> dict[str, Any]:
    """What was spent, what the next iteration would need, and whether there is to be one."""
    n_next = len(read_structures(request.candidates))
    spent, needed = request.count_costs(n_next)
    converged = passed and request.iteration + 1 >= request.min_iterations
    stop, reason = decide_stop(converged, labels, n_next, spent, needed, request.budget)
    return {
        "spent": _hours(spent),
        "next": {"labels": n_next, **_hours(needed)},
        "converged": converged,
        "stop": stop,
        "reason": reason,
    }


def _hours(cost: Cost) -> dict[str, float]:
    return {"core_hours": cost.core_hours, "gpu_hours": cost.gpu_hours}


def decide_stop(
    converged: bool, labels: int, n_next: int, spent: Cost, needed: Cost, budget: Budget
) -> tuple[bool, str]:
    """Whether the loop ends after this iteration, and why; ``continue`` when it does not.

    An iteration that would exceed a budget is not begun, for what it had cost when the budget
    ran out would be lost.

    Args:
        converged: Whether every criterion passed.
        labels: Labels used so far.
        n_next: Labels that the next iteration would need.
        spent: Cost of all iterations so far.
        needed: Cost that the next iteration is expected to have.
        budget: Limits.
    """
    if converged:
        return True, "converged"
    if not n_next:
        return True, "nothing to label: exploration found no sane frame that is uncertain or new"
    if budget.labels is not None and labels + n_next > budget.labels:
        return True, f"budget: {labels} labels used, {n_next} more would exceed {budget.labels}"
    for name, used, more, limit in (
        ("core-hours", spent.core_hours, needed.core_hours, budget.core_hours),
        ("GPU-hours", spent.gpu_hours, needed.gpu_hours, budget.gpu_hours),
    ):
        if limit is not None and used >= limit:
            return True, f"budget: {used:.3g} of {limit:g} {name} used"
        if limit is not None and used + more > limit:
            return True, f"budget: {used:.3g} of {limit:g} {name} used, the next iteration needs about {more:.3g}"
    return False, "continue"


def list_criteria(
    errors: Mapping[str, Any], properties: Mapping[str, Any], exploration: Mapping[str, Any], settings: Assess
) -> list[Criterion]:
    """Every criterion with its value; properties count only where the system has them."""
    fresh, audit, calibration = (errors[name] or {} for name in ("fresh", "audit", "calibration"))
    stopped = (exploration["n_exploded"] + exploration["n_uncertain"]) / max(exploration["n_walkers"], 1)
    criteria = [
        Criterion("force RMSE over RMS force", _relative(fresh), settings.relative_force_rmse),
        Criterion(
            "coverage of the 95 % uncertainty", calibration.get("coverage"), settings.min_coverage, at_least=True
        ),
        Criterion("share of walkers stopped early", stopped, settings.max_unstable_fraction),
    ]
    if settings.audit_force_rmse is not None:
        criteria.insert(1, _judge_audits(audit, settings))
    if settings.force_rmse is not None:
        criteria.insert(0, Criterion("force RMSE on new labels (eV/Å)", fresh.get("force_rmse"), settings.force_rmse))
    if settings.max_unseen is not None:
        seen = [found["unseen"] for found in audit.get("certificates", {}).values()]
        criteria.append(
            Criterion("share of frames that audits may have missed", max(seen, default=1.0), settings.max_unseen)
        )
    for name in ("lattice_constant", "bulk_modulus"):
        if name in properties:
            label = f"relative error of the {name.replace('_', ' ')}"
            criteria.append(Criterion(label, properties[name]["relative_error"], getattr(settings, name)))
    if "eos_rmse" in properties:
        criteria.append(Criterion("RMSE of the equation of state (eV/atom)", properties["eos_rmse"], settings.eos_rmse))
    unaudited = [text for texts in exploration.get("unaudited", {}).values() for text in texts]
    if unaudited and settings.audit_force_rmse is not None:
        name = "walkers and structures without an audit"
        remedy = f"{', '.join(unaudited)}: the audit says nothing of it; {REMEDIES}"
        criteria.append(Criterion(name, float(len(unaudited)), 0.0, remedy=remedy))
    return criteria


def _judge_audits(audit: Mapping[str, Any], settings: Assess) -> Criterion:
    """The bound that audits certify: in eV/Å, or over the RMS force of each starting structure's labels, the worst."""
    bound, why = audit.get("interval", [None, None])[1], audit.get("refused") or ""
    if settings.audit_force_rmse != "relative":
        return Criterion("audit force RMSE, upper bound (eV/Å)", bound, settings.audit_force_rmse, remedy=why)
    shares = audit.get("relative_upper") if bound is not None else None
    return Criterion("audit force RMSE over RMS force, upper bound", shares, settings.relative_force_rmse, remedy=why)


def _relative(fresh: Mapping[str, Any]) -> float | None:
    """Force RMSE over the labels' RMS force: one in eV/Å is met by no forces in a soft system, by none in a melt."""
    return fresh["force_rmse"] / fresh["force_rms"] if fresh.get("force_rms") else None


def force_interval(squared: np.ndarray, confidence: float) -> list[float | None]:
    """Confidence interval of a force RMSE from each structure's mean squared error, (eV/Å)².

    Student's t interval of the mean over structures, because the atoms of one structure are
    not independent; the root is taken of its ends. One structure alone has no interval.
    """
    values = np.asarray(squared, float)
    if len(values) < 2:
        return [None, None]
    margin = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(np.sqrt(max(values.mean() - margin, 0.0))), float(np.sqrt(values.mean() + margin))]


def _assess_fresh(request: AssessmentRequest) -> tuple[dict[str, Any], dict[int, list[float]]]:
    """Errors and calibration of the old committee on new labels; every value None without one.

    Also, by starting structure, the squared error over the expected one of those that are no audits.
    """
    new, parity = read_structures(request.dataset / "new.extxyz"), request.out / "parity.nc"
    if request.old is None or not new:
        write_netcdf(parity, tabulate_parity([], []))
        return {"fresh": None, "audit": None, "calibration": None}, {}
    predictions = load_potential(request.old, device=request.device).predict(new)
    write_netcdf(parity, tabulate_parity(new, predictions))
    errors = compare_with_labels(new, predictions)
    calibration = {"coverage": errors.pop("coverage"), "expected": NOMINAL_COVERAGE, "spearman": errors.pop("spearman")}
    confidence = request.settings.confidence
    interval = force_interval(squared_errors(new, predictions), confidence)
    fresh = errors | {"interval": interval, "confidence": confidence}
    found = {"fresh": fresh, "audit": None, "calibration": calibration}
    return found, _find_surprises(new, predictions, read_error_ratios(request.old / "training.json"))


def _find_surprises(
    new: Sequence[Atoms], predictions: Sequence[Prediction], ratios: Mapping[int | None, float]
) -> dict[int, list[float]]:
    """Squared error over the expected one of the new labels that were chosen to teach, by starting structure."""
    expected, squared = expected_squares(new, predictions, ratios), squared_errors(new, predictions)
    found: dict[int, list[float]] = {}
    for atoms, e, s in zip(new, expected, squared, strict=True):
        if atoms.info.get("origin") == "walker" and not is_audit(atoms):
            found.setdefault(int(atoms.info.get("source", 0)), []).append(float(s / max(e, 1e-12)))
    return found


def _assess_audits(
    request: AssessmentRequest,
    held_out: Sequence[Atoms],
    predictions: Sequence[Prediction],
    populations: Populations,
    surprises: Mapping[int, Sequence[float]],
    trained: Mapping[str, Any],
) -> dict[str, Any] | None:
    """What all audits so far, none of which was trained on, say of this iteration's potential."""
    if not populations:
        return None
    # Audits of earlier versions do not say with what chance they were drawn.
    known = [k for k, atoms in enumerate(held_out) if is_audit(atoms) and "audit_probability" in atoms.info]
    certificates = certify_sources(
        [held_out[k] for k in known],
        [predictions[k] for k in known],
        error_ratios(trained),
        populations,
        surprises=surprises,
        confidence=request.settings.confidence,
    )
    scales = {source: ErrorScale.of(trained, source) for source in certificates}
    return summarise_certificates(certificates, {source: s.rms_force for source, s in scales.items() if s is not None})


def _climb(
    request: AssessmentRequest,
    explored: Explored,
    held_out: Sequence[Atoms],
    predictions: Sequence[Prediction],
    before: Mapping[str, Mapping[str, Any]],
    trained: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Where the next iteration's walkers stand, by starting structure; ``before`` is where this one's did."""
    audits = [k for k, atoms in enumerate(held_out) if is_audit(atoms) and "rung" in atoms.info]
    return climb_ladders(
        explored.table,
        explored.auditable,
        [held_out[k] for k in audits],
        [predictions[k] for k in audits],
        ladder=request.ladder,
        before=before,
        trained=trained,
    )


def _describe_population(request: AssessmentRequest, explored: Explored) -> dict[str, dict[str, float]]:
    """Of each starting structure, the frames that this iteration's audits were drawn from, and how many were drawn."""
    table, fit = explored.table, explored.auditable
    sources, expected = table.source.values.astype(int), table.expected_squared_error.values
    drawn = [int(atoms.info.get("source", 0)) for atoms in read_structures(request.candidates) if is_audit(atoms)]
    return {
        str(source): {
            "n_frames": int(np.sum(fit & (sources == source))),
            "expected": float(np.mean(expected[fit & (sources == source)])),
            "n_audits": drawn.count(source),
        }
        for source in sorted(set(sources[fit].tolist()))
    }


def _assess_test(
    structures: Sequence[Atoms], predictions: Sequence[Prediction], confidence: float
) -> dict[str, Any] | None:
    """Errors of the new committee on the test set, which no training ever sees, with the force RMSE's interval."""
    if not structures:
        return None
    interval = force_interval(squared_errors(structures, predictions), confidence)
    return compare_with_labels(structures, predictions) | {"interval": interval, "confidence": confidence}


def find_unaudited(request: AssessmentRequest, explored: Explored) -> dict[str, list[str]]:
    """What the audit cannot vouch for: explored, but never tested by a frame drawn at random.

    Walkers without a bias that ran to their end and left no frame fit to be drawn, and starting structures of which no
    audit has been labelled in any iteration. The first iteration has no audit yet.
    """
    table = explored.table
    heard = {int(walker) for walker in table.walker.values[explored.auditable]}
    plain = table.explorer_uncertainty_bias.values == 0 if "explorer_uncertainty_bias" in table else True
    finished = table.explorer.values[(table.stop_reason.values == "finished") & plain]
    unaudited = {
        "walkers": [f"walker {walker}" for walker in finished.tolist() if walker not in heard],
        "structures": [],
    }
    if request.old is not None:
        sources = {int(source) for source in table.explorer_source.values}
        known = [a for name in ("train", "valid", "test") for a in read_structures(request.dataset / f"{name}.extxyz")]
        # Labels of earlier versions do not say what they come from; most loops have one starting structure.
        audited = {int(a.info.get("source", 0)) for a in known if is_audit(a)}
        unaudited["structures"] = [f"structure {source}" for source in sorted(sources - audited)]
    return unaudited


def _describe_exploration(table: xr.Dataset) -> dict[str, Any]:
    uncertainty = table.force_uncertainty.values
    return {
        **{name: int(table.attrs[name]) for name in ("n_walkers", "n_exploded", "n_uncertain")},
        "n_frames": len(uncertainty),
        "mean_uncertainty": float(uncertainty.mean()) if len(uncertainty) else None,
        "shift": {str(q): float(table.attrs[f"above_{q}"]) for q in SHIFT_QUANTILES if f"above_{q}" in table.attrs},
    }
