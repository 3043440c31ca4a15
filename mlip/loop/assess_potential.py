"""Is the loop done? Errors on unseen labels, calibration, properties, stability and budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from ase import Atoms
from scipy import stats

from mlip.config.loop import Assess, Budget, Select
from mlip.criteria import Criterion
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json, write_json
from mlip.io.netcdf import read_netcdf, write_netcdf
from mlip.loop.select_candidates import auditable, screen_frames
from mlip.potential import Potential, Prediction, load_potential
from mlip.potential.evaluation import compare_with_labels
from mlip.potential.uncertainty import SHIFT_QUANTILES
from mlip.properties.eos import EquationOfState, fit_eos
from mlip.properties.symmetry import PropertyError, lattice_constant
from mlip.structures.labelled import labelled_energy, labelled_forces

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
        planned: structures that this iteration was to label, to notice audit frames whose label
            failed; None at iteration 0.
        candidates: structures that the next iteration would label.
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
    """

    iteration: int
    old: Path | None
    potential: Path
    dataset: Path
    references: Path
    frames: Path
    planned: Path | None
    candidates: Path
    count_costs: Callable[[int], tuple[Cost, Cost]]
    settings: Assess
    select: Select
    min_ratio: float
    budget: Budget
    min_iterations: int
    out: Path
    device: str = "cpu"
    studies: Sequence[Criterion] = ()


def assess_potential(request: AssessmentRequest) -> None:
    """Judge an iteration and write ``assessment.json``, ``parity.nc`` and ``eos.nc`` into ``request.out``."""
    counts = read_json(request.dataset / "dataset.json")
    errors = _assess_fresh(request)
    committee = load_potential(request.potential, device=request.device)
    references = read_structures(request.references)
    properties = _assess_eos(committee, references, request.out / "eos.nc")
    exploration = _read_exploration(request.frames) | {"unaudited": find_unaudited(request)}
    criteria = [*list_criteria(errors, properties, exploration, request.settings), *request.studies]
    core_seconds = counts["core_seconds"] + sum(a.info.get("core_seconds", 0.0) for a in references)
    assessment = {
        "iteration": request.iteration,
        **{name: counts[name] for name in ("labels_total", "labels_new", "failed_new", "failed_total")},
        "dataset": {split: counts[split] for split in ("train", "valid", "test")},
        **errors,
        "test": _assess_test(committee, read_structures(request.dataset / "test.extxyz"), request.settings.confidence),
        "properties": properties,
        "exploration": exploration,
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
        Criterion("force RMSE on new labels (eV/Å)", fresh.get("force_rmse"), settings.force_rmse),
        Criterion("force RMSE over RMS force", _relative(fresh), settings.relative_force_rmse),
        Criterion(
            "coverage of the 95 % uncertainty", calibration.get("coverage"), settings.min_coverage, at_least=True
        ),
        Criterion("share of walkers stopped early", stopped, settings.max_unstable_fraction),
    ]
    if settings.audit_force_rmse is not None:
        # A frame that could not be labelled may have been the worst one: without it there is no bound.
        bound = None if audit.get("n_failed") else audit.get("interval", [None, None])[1]
        criteria.insert(2, Criterion("audit force RMSE, upper bound (eV/Å)", bound, settings.audit_force_rmse))
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


def _relative(fresh: Mapping[str, Any]) -> float | None:
    """Force RMSE over the labels' RMS force: a target in eV/Å alone is met by no forces at all in a soft system."""
    return fresh["force_rmse"] / fresh["force_rms"] if fresh.get("force_rms") else None


def force_interval(squared: Sequence[float], confidence: float) -> list[float | None]:
    """Confidence interval of a force RMSE from each structure's mean squared error, (eV/Å)².

    Student's t interval of the mean over structures, because the atoms of one structure are
    not independent; the root is taken of its ends. One structure alone has no interval.
    """
    values = np.asarray(squared, float)
    if len(values) < 2:
        return [None, None]
    margin = stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(np.sqrt(max(values.mean() - margin, 0.0))), float(np.sqrt(values.mean() + margin))]


def _assess_fresh(request: AssessmentRequest) -> dict[str, Any]:
    """Errors and calibration of the old committee on new labels; every value None without one."""
    new, parity = read_structures(request.dataset / "new.extxyz"), request.out / "parity.nc"
    if request.old is None or not new:
        write_netcdf(parity, _parity_table([], []))
        return {"fresh": None, "audit": None, "calibration": None}
    predictions = load_potential(request.old, device=request.device).predict(new)
    write_netcdf(parity, _parity_table(new, predictions))
    audited = [(a, p) for a, p in zip(new, predictions, strict=True) if a.info.get("reason") == "audit"]
    planned = read_structures(request.planned) if request.planned else []
    n_planned = sum(a.info.get("reason") == "audit" for a in planned)
    errors = compare_with_labels(new, predictions)
    calibration = {"coverage": errors.pop("coverage"), "expected": NOMINAL_COVERAGE, "spearman": errors.pop("spearman")}
    audit = _audit(audited, n_planned, request.settings.confidence)
    confidence = request.settings.confidence
    interval = force_interval(_squared_errors(zip(new, predictions, strict=True)), confidence)
    fresh = errors | {"interval": interval, "confidence": confidence}
    return {"fresh": fresh, "audit": audit, "calibration": calibration}


def _assess_test(potential: Potential, structures: Sequence[Atoms], confidence: float) -> dict[str, Any] | None:
    """Errors of the new committee on the test set, which no training ever sees, with the force RMSE's interval."""
    if not structures:
        return None
    predictions = potential.predict(structures)
    interval = force_interval(_squared_errors(zip(structures, predictions, strict=True)), confidence)
    return compare_with_labels(structures, predictions) | {"interval": interval, "confidence": confidence}


def _squared_errors(pairs: Iterable[tuple[Atoms, Prediction]]) -> list[float]:
    """Mean squared force error of each structure, (eV/Å)²."""
    return [float(np.mean((labelled_forces(atoms) - prediction.forces) ** 2)) for atoms, prediction in pairs]


def _audit(audited: Sequence[tuple[Atoms, Prediction]], n_planned: int, confidence: float) -> dict[str, Any] | None:
    if not audited:
        return None
    squared = _squared_errors(audited)
    return {
        "n_structures": len(audited),
        "n_failed": max(0, n_planned - len(audited)),
        "force_rmse": float(np.sqrt(np.mean(squared))),
        "interval": force_interval(squared, confidence),
        "confidence": confidence,
    }


def _assess_eos(potential: Potential, references: Sequence[Atoms], out: Path) -> dict[str, Any]:
    """Lattice constant, bulk modulus and EOS of committee and labeller; empty for non-periodic systems."""
    if not references:
        write_netcdf(out, _eos_table(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)))
        return {}
    predictions = potential.predict(references)
    n = len(references[0])
    volumes = np.array([atoms.get_volume() for atoms in references])
    reference = np.array([labelled_energy(atoms) for atoms in references])
    predicted = np.array([p.energy for p in predictions])
    std = np.array([p.energy_std for p in predictions])
    write_netcdf(out, _eos_table(volumes / n, reference / n, predicted / n, std / n))
    try:
        true_fit = fit_eos(volumes, reference)
    except PropertyError as error:
        raise PropertyError(
            f"assess: the labeller's own equation of state has no minimum in assess.eos_volumes: {error}"
        ) from None
    properties: dict[str, Any] = {"eos_rmse": _eos_rmse(reference, predicted) / n}
    try:
        fitted: EquationOfState | None = fit_eos(volumes, predicted)
    except PropertyError:
        fitted = None  # a poor early potential may have no minimum here: that is an error, not a crash
    for name, unit in (("lattice_constant", "Å"), ("bulk_modulus", "GPa")):
        properties[name] = _compare(
            _property(name, references[0], fitted), _property(name, references[0], true_fit), unit
        )
    return properties


def _property(name: str, structure: Atoms, fit: EquationOfState | None) -> float | None:
    if fit is None:
        return None
    return fit.b0 if name == "bulk_modulus" else lattice_constant(structure, fit.v0)


def _compare(value: float | None, reference: float | None, unit: str) -> dict[str, Any]:
    error = abs(value - reference) / abs(reference) if value is not None and reference else None
    return {"potential": value, "reference": reference, "relative_error": error, "unit": unit}


def _eos_rmse(reference: np.ndarray, predicted: np.ndarray) -> float:
    """RMSE of the curve's shape: a constant offset of all energies is no error of the EOS."""
    difference = predicted - reference
    return float(np.std(difference))


def _eos_table(volumes: np.ndarray, reference: np.ndarray, predicted: np.ndarray, std: np.ndarray) -> xr.Dataset:
    def energy(values: np.ndarray) -> tuple[str, np.ndarray, dict[str, str]]:
        return "volume", values - values.min() if len(values) else values, {"units": "eV/atom"}

    return xr.Dataset(
        {"energy_reference": energy(reference), "energy_potential": energy(predicted), "energy_std": ("volume", std)},
        coords={"volume": ("volume", volumes, {"units": "Å³/atom"})},
    )


def _parity_table(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> xr.Dataset:
    pairs = list(zip(structures, predictions, strict=True))

    def atoms_array(values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(values) if values else np.zeros((0, 3))

    audit = [np.full(len(a), a.info.get("reason") == "audit") for a in structures]
    force = {"units": "eV/Å"}
    energy = {"units": "eV/atom"}
    sample = ("atom_sample", "space")
    return xr.Dataset(
        {
            "force_true": (sample, atoms_array([labelled_forces(a) for a in structures]), force),
            "force_predicted": (sample, atoms_array([p.forces for p in predictions]), force),
            "force_std": (sample, atoms_array([p.forces_std for p in predictions]), force),
            "audit": ("atom_sample", (np.concatenate(audit) if audit else np.zeros(0)).astype(np.int8)),
            "energy_true": ("structure", np.array([labelled_energy(a) / len(a) for a in structures]), energy),
            "energy_predicted": ("structure", np.array([p.energy / len(a) for a, p in pairs]), energy),
            "energy_std": ("structure", np.array([p.energy_std / len(a) for a, p in pairs]), energy),
            "structure_id": (
                "structure",
                np.array([str(a.info.get("structure_id", "?")) for a in structures], dtype=object),
            ),
        }
    )


def find_unaudited(request: AssessmentRequest) -> dict[str, list[str]]:
    """What the audit cannot vouch for: explored, but never tested by a frame drawn at random.

    Walkers that ran to their end and left no frame fit to be drawn, and starting structures of which no audit has been
    labelled in any iteration. The first iteration has no audit yet.
    """
    table = read_netcdf(request.frames, required=("force_uncertainty",))
    fit = auditable(table, screen_frames(table, request.select, request.min_ratio))
    heard = {int(walker) for walker in table.walker.values[fit]}
    finished = table.explorer.values[table.stop_reason.values == "finished"]
    unaudited = {
        "walkers": [f"walker {walker}" for walker in finished.tolist() if walker not in heard],
        "structures": [],
    }
    if request.old is not None:
        explored = {int(source) for source in table.explorer_source.values}
        known = [a for name in ("train", "valid", "test") for a in read_structures(request.dataset / f"{name}.extxyz")]
        # Labels of earlier versions do not say what they come from; most loops have one starting structure.
        audited = {int(a.info.get("source", 0)) for a in known if a.info.get("reason") == "audit"}
        unaudited["structures"] = [f"structure {source}" for source in sorted(explored - audited)]
    return unaudited


def _read_exploration(frames: Path) -> dict[str, Any]:
    table = read_netcdf(frames, required=("force_uncertainty",))
    uncertainty = table.force_uncertainty.values
    return {
        **{name: int(table.attrs[name]) for name in ("n_walkers", "n_exploded", "n_uncertain")},
        "n_frames": len(uncertainty),
        "mean_uncertainty": float(uncertainty.mean()) if len(uncertainty) else None,
        "shift": {str(q): float(table.attrs[f"above_{q}"]) for q in SHIFT_QUANTILES if f"above_{q}" in table.attrs},
    }
