"""From detection through attribution to mending: find what makes constants wrong, repair it, measure again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.config.train import Train
from mlip.labels.calculator import LabelFunction
from mlip.potential.ace.committee import ACEPotential
from mlip.seeds import derive_rng
from mlip.studies.elastic.acquisition import offer_strained
from mlip.studies.elastic.attribution.causes import (
    Cause,
    Fit,
    find_cause,
    measure_potential,
    relative_error,
    unlabelled_rows,
)
from mlip.studies.elastic.attribution.influence import Attribution, attribute

FaultName = Literal["wrong_labels", "short_cutoff", "missing_shear"]
WRONG_SHARE = 0.2
SHORT_CUTOFF = 1.1
"""Over the distance of nearest neighbours: the first shell alone, and only while it is hardly strained."""


@dataclass(frozen=True)
class Mending:
    """What was found and done.

    Attributes:
        cause: found before mending.
        before, after: constants by energy, [n_states, n_constants], GPa.
        error_before, error_after: RMS relative errors.
        n_labels: labels that mending took.
        attribution: of the training data before.
        settings: after mending.
    """

    cause: Cause
    before: np.ndarray
    after: np.ndarray
    error_before: float
    error_after: float
    n_labels: int
    attribution: Attribution
    settings: Train


def training_structures(crystal: Atoms, n: int, seed: int, *, shear: bool = True) -> list[Atoms]:
    """A training set of ``crystal``: volumes, strains and displaced atoms.

    With ``shear=False`` there are volumes, and one displaced atom in every third structure.
    """
    rng = derive_rng(seed, "elastic", "training")
    structures = []
    for k in range(n):
        atoms = crystal.copy()
        strain = np.eye(3) * rng.uniform(-0.025, 0.025)
        if shear:
            step = rng.uniform(-0.04, 0.04, (3, 3))
            strain = strain + 0.5 * (step + step.T)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        if shear:
            atoms.positions += rng.normal(0.0, rng.choice([0.02, 0.05, 0.1]), (len(atoms), 3))
        elif k % 3 == 0:
            atoms.positions[0] += rng.normal(0.0, 0.02, 3)
        atoms.info = {"structure_id": f"train-{k:03d}"}
        structures.append(atoms)
    return structures


def plant_fault(
    fault: FaultName, crystal: Atoms, n: int, settings: Train, label: LabelFunction, mislabel: LabelFunction, seed: int
) -> tuple[list[Atoms], Train, tuple[int, ...]]:
    """Training data and settings with one fault, and which labels are wrong.

    Args:
        fault: which.
        crystal: conventional cell.
        n: structures.
        settings: that would do.
        label: right labels.
        mislabel: labels by other settings, which must not be mixed with them.
        seed: of structures.
    """
    structures = training_structures(crystal, n, seed, shear=fault != "missing_shear")
    wrong: tuple[int, ...] = ()
    if fault == "wrong_labels":
        chosen = derive_rng(seed, "elastic", "wrong").choice(n, max(1, round(WRONG_SHARE * n)), replace=False)
        wrong = tuple(sorted(chosen.tolist()))
    if fault == "short_cutoff":
        distances = crystal.get_all_distances(mic=True)
        settings = settings.model_copy(
            update={"cutoff": round(SHORT_CUTOFF * float(distances[distances > 0].min()), 2)}
        )
    return [mislabel(a) if k in wrong else label(a) for k, a in enumerate(structures)], settings, wrong


@dataclass(frozen=True)
class MendingLimits:
    """What :func:`mend` may do.

    Attributes:
        tolerance: RMS relative error that needs no mending.
        n_labels: Strained structures that may be labelled.
        strain: Their largest strain.
        rattle: Displacements of their atoms, Å.
    """

    tolerance: float = 0.05
    n_labels: int = 12
    strain: float = 0.04
    rattle: float = 0.03


def mend(
    training: Sequence[Atoms],
    settings: Train,
    crystal: Atoms,
    reference: xr.Dataset,
    label: LabelFunction,
    fit: Fit,
    limits: MendingLimits = MendingLimits(),
    *,
    seed: int = 0,
) -> Mending:
    """Train, measure, find the cause, repair it, train and measure again.

    Args:
        training: labelled structures.
        settings: section ``train``, its cutoff a number.
        crystal: starting structure.
        reference: constants of the labeller.
        label: the labeller.
        fit: trains a potential.
        limits: what may be labelled, and when that is needless.
        seed: of what is random.

    Raises:
        PropertyError: when the potential has no equilibrium crystal at all.
    """
    training = list(training)
    potential = fit(training, settings)
    elasticity, before = measure_potential(potential, crystal)
    attribution = attribute(potential, training, settings, elasticity)
    paths = [samples.path for samples in elasticity.samples["clamped"]]
    frames = offer_strained(crystal, paths, limits.strain, limits.rattle, seed)
    evidence = (potential, training, settings, elasticity, attribution, reference, frames)
    cause = find_cause(*evidence, tolerance=limits.tolerance, seed=seed)
    taken = 0
    if cause.name == "wrong labels":
        taken = len(cause.suspects)
        training = [label(a) if k in cause.suspects else a for k, a in enumerate(training)]
    elif cause.name == "missing strains":
        wanted = [a for a in frames if a.info["path"] in cause.paths]
        chosen = choose_informative(potential, attribution, wanted, settings, limits.n_labels)
        taken = len(chosen)
        training += [label(wanted[k]) for k in chosen]
    elif cause.name == "descriptor":
        settings = settings.model_copy(update=dict(cause.settings))
    changed = cause.name not in ("none", "unknown")
    after = measure_potential(fit(training, settings), crystal)[1] if changed else before
    errors = relative_error(before, reference), relative_error(after, reference)
    return Mending(cause, before, after, *errors, taken, attribution, settings)


def choose_informative(
    potential: ACEPotential, attribution: Attribution, frames: Sequence[Atoms], settings: Train, n_labels: int
) -> list[int]:
    """Greedy choice of ``frames`` that shrink the posterior variance of all constants most (c-optimal design).

    By the first member's last layer. Each constant counts by the logarithm of its variance.
    """
    rows = unlabelled_rows(potential, frames, settings, 0)
    inverse, gradients = attribution.readouts[0].inverse, attribution.gradients[0]
    chosen: list[int] = []
    for _ in range(min(n_labels, len(frames))):
        scores = []
        for k, added in enumerate(rows):
            if k in chosen:
                scores.append(np.inf)
                continue
            after = _updated(inverse, added)
            scores.append(float(np.log(np.einsum("nd,de,ne->n", gradients, after, gradients)).sum()))
        chosen.append(int(np.argmin(scores)))
        inverse = _updated(inverse, rows[chosen[-1]])
    return chosen


def _updated(inverse: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """G^-1 with ``rows`` added to the fit."""
    shared = rows @ inverse
    return inverse - shared.T @ np.linalg.solve(np.eye(len(rows)) + shared @ rows.T, shared)
