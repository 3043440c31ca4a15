"""Why elastic constants are wrong: labels, data or descriptor. Every cause is tried, not argued.

- Wrong labels: structures whose labels do not fit the others' (screened by a fit that they cannot bend), and
  without which the last layer's constants come nearer to the reference.
- Missing strains: unlabelled strained structures would shrink the posterior error of a constant by a factor.
- Descriptor: a linear readout on a longer cutoff, or more angular or radial functions, does better than one on
  the present descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.config.train import Train
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.calculator import MLIPCalculator
from mlip.potential.uncertainty import Calibration
from mlip.properties.elastic.constants import Elasticity, measure_elasticity
from mlip.properties.symmetry import PropertyError
from mlip.studies.elastic.attribution.influence import SUSPECT, Attribution, screen_labels
from mlip.studies.elastic.equilibrium import find_equilibrium
from mlip.studies.elastic.tables import tabulate
from mlip.training.ace.pipeline import prepare_training
from mlip.training.ace.readout import Readout, build_readout, evaluate_columns, label_rows, with_last_weights
from mlip.training.data import resolve_cutoff
from mlip.training.request import TrainingRequest

CauseName = Literal["none", "wrong labels", "missing strains", "descriptor", "unknown"]
GAIN = 3.0
"""Factor on a constant's posterior error from which strained structures count as missing: 1.1 to 1.6 with complete
data of Stillinger-Weber silicon, 2.3 to 3.2 with too short a cutoff, 5 to 31 without shear."""
CLEAR_GAIN = 5.0
"""The same, for other causes not to be tried: too poor a descriptor makes constants look open, too."""
IMPROVEMENT = 0.7
"""Share of the error that may be left when a cause is removed, for it to be the cause."""
CLEAR = 0.3
"""The same, for other causes not to be tried."""
QUICK_STRUCTURES = 60
"""Training structures, at most, of the linear readouts that are compared."""

Fit = Callable[[Sequence[Atoms], Train], ACEPotential]


@dataclass(frozen=True)
class Cause:
    """A cause with its evidence and its remedy.

    Attributes:
        name: what is at fault.
        text: one sentence with numbers.
        suspects: structures to label again, indices into the training data.
        paths: strain paths to label structures along.
        settings: keys of ``train`` to change.
        numbers: the evidence.
        left: share of the error expected to remain when the cause is removed.
    """

    name: CauseName
    text: str
    suspects: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    left: float = 1.0


def relative_error(values: np.ndarray, reference: xr.Dataset) -> float:
    """RMS over states and constants of errors relative to the reference; ``values`` [n_states, n_constants], GPa.

    Constants below a tenth of the largest are compared with that tenth.
    """
    true = reference.constants.values
    return float(np.sqrt(np.mean(((values - true) / np.maximum(abs(true), 0.1 * abs(true).max())) ** 2)))


def expected_gains(
    potential: ACEPotential, attribution: Attribution, frames: Sequence[Atoms], settings: Train
) -> dict[str, np.ndarray]:
    """Posterior error of every constant over that with the ``frames`` of one path added, by path; no labels needed."""
    gains: dict[str, np.ndarray] = {}
    for path in dict.fromkeys(str(a.info["path"]) for a in frames):
        strained = [a for a in frames if a.info["path"] == path]
        parts = [
            readout.expected_gain(gradient, np.concatenate(unlabelled_rows(potential, strained, settings, member)))
            for member, (readout, gradient) in enumerate(zip(attribution.readouts, attribution.gradients, strict=True))
        ]
        gains[path] = np.mean(parts, axis=0)
    return gains


def unlabelled_rows(potential: ACEPotential, frames: Sequence[Atoms], settings: Train, member: int) -> list[np.ndarray]:
    """Rows of the design matrix that each of ``frames`` would add, [n_rows, D] each."""
    columns = evaluate_columns(potential, frames, member)
    return [label_rows(columns, k, atoms, settings)[0][:, 1:] for k, atoms in enumerate(frames)]


def find_cause(
    potential: ACEPotential,
    training: Sequence[Atoms],
    settings: Train,
    elasticity: Elasticity,
    attribution: Attribution,
    reference: xr.Dataset,
    frames: Sequence[Atoms],
    *,
    tolerance: float,
    seed: int = 0,
) -> Cause:
    """The cause of wrong constants.

    Args:
        potential: whose constants ``elasticity`` holds.
        training: its labelled structures.
        settings: it was trained with.
        elasticity: its constants, measured.
        attribution: of ``training``.
        reference: constants of the labeller.
        frames: strained structures that could be labelled, with ``path`` in ``info``.
        tolerance: RMS relative error below which nothing is sought.
        seed: of the linear readouts.
    """
    present = np.array([elasticity.by_energy[state].values for state in elasticity.samples])
    error = relative_error(present, reference)
    if error <= tolerance:
        return Cause("none", f"RMS relative error {error:.1%}, within {tolerance:.1%}.", numbers={"error": error})
    gains = expected_gains(potential, attribution, frames, settings)
    best_path = max(gains, key=lambda path: gains[path].max())
    gain = float(gains[best_path].max())
    if gain >= CLEAR_GAIN:
        return _missing(gains, attribution, error)
    labels = None
    suspects = screen_afresh(training, settings, seed)
    if suspects:
        kept = [a for k, a in enumerate(training) if k not in suspects]
        everything, left = (
            _readout_error(part, settings, elasticity.crystal, reference, seed) for part in (training, kept)
        )
        labels = _wrong_labels(training, suspects, everything, left)
        if left <= CLEAR * everything:
            return labels
    descriptor = _descriptor(training, settings, elasticity, reference, error, gain, seed)
    if labels is not None and labels.left <= min(IMPROVEMENT, descriptor.left):
        return labels
    if gain >= GAIN and descriptor.left > CLEAR:
        return _missing(gains, attribution, error)
    return descriptor


def _wrong_labels(training: Sequence[Atoms], suspects: tuple[int, ...], error: float, left: float) -> Cause:
    ids = ", ".join(str(training[k].info.get("structure_id", k)) for k in suspects)
    text = (
        f"{len(suspects)} of {len(training)} labels do not fit the others: {ids}. Without them the constants of "
        f"a linear readout are {left:.1%} off instead of {error:.1%}. Label them again."
    )
    return Cause("wrong labels", text, suspects, numbers={"error": error, "expected_error": left}, left=left / error)


def _missing(gains: Mapping[str, np.ndarray], attribution: Attribution, error: float) -> Cause:
    """Every path along which structures would tell much."""
    wanted = tuple(path for path, values in gains.items() if values.max() >= GAIN)
    told = [f"{attribution.influenced[int(gains[p].argmax())]} by {gains[p].max():.1f} with {p} strain" for p in wanted]
    text = (
        f"The training data leave constants open: strained structures would shrink the posterior error of "
        f"{'; of '.join(told)} (complete data: 1 to 2). Label strained structures."
    )
    return Cause(
        "missing strains", text, paths=wanted, numbers={"error": error} | {p: g.max() for p, g in gains.items()}
    )


def _descriptor(
    training: Sequence[Atoms],
    settings: Train,
    elasticity: Elasticity,
    reference: xr.Dataset,
    error: float,
    gain: float,
    seed: int,
) -> Cause:
    """Compare linear readouts on several descriptors."""
    errors = compare_descriptors(training, settings, elasticity.crystal, reference, seed)
    numbers = {"error": error, "gain": gain} | errors
    best = min(errors, key=lambda name: errors[name])
    told = ", ".join(f"{name} {value:.1%}" for name, value in errors.items())
    if errors[best] > IMPROVEMENT * errors["present"]:
        text = f"No cause was found: labels fit each other, strains are covered, and no descriptor helps ({told})."
        return Cause("unknown", text, numbers=numbers)
    changed = variants(training, settings)[best]
    keys = ", ".join(f"{key}: {value}" for key, value in changed.items())
    text = f"The descriptor is at fault: errors of linear readouts are {told}. Set train: {{{keys}}}."
    return Cause("descriptor", text, settings=changed, numbers=numbers, left=errors[best] / errors["present"])


def variants(training: Sequence[Atoms], settings: Train) -> dict[str, dict[str, Any]]:
    """Changes of the descriptor worth trying, by what they lengthen or refine."""
    automatic = resolve_cutoff(training, settings.model_copy(update={"cutoff": "auto"}), None).radius
    return {
        "cutoff": {"cutoff": automatic if automatic > 1.1 * settings.radius else round(1.2 * settings.radius, 2)},
        "angular": {"l_max": settings.l_max + 2},
        "radial": {"n_radial": settings.n_radial + 4},
    }


def screen_afresh(training: Sequence[Atoms], settings: Train, seed: int) -> tuple[int, ...]:
    """Structures whose labels do not fit the others', by the features of an untrained network, most suspicious first.

    The hidden layers of the trained one have learned the wrong labels with the right ones.
    """
    potential = fit_readout(training, settings, seed)
    suspicion = screen_labels(readouts_from_scratch(potential, training, settings), training)[1]
    return tuple(int(k) for k in np.argsort(-suspicion) if suspicion[k] > SUSPECT)


def _readout_error(
    training: Sequence[Atoms], settings: Train, crystal: Atoms, reference: xr.Dataset, seed: int
) -> float:
    """RMS relative error of the constants of a linear readout; 1 where it has no equilibrium."""
    try:
        return relative_error(measure_potential(fit_readout(training, settings, seed), crystal)[1], reference)
    except PropertyError:
        return 1.0


def compare_descriptors(
    training: Sequence[Atoms], settings: Train, crystal: Atoms, reference: xr.Dataset, seed: int
) -> dict[str, float]:
    """RMS relative error of the constants by linear readouts on the present descriptor and on :func:`variants`.

    Of every ``stride``-th training structure, where there are many. A readout without equilibrium has error 1.
    """
    part = list(training)[:: 1 + len(training) // QUICK_STRUCTURES]
    tried = {"present": settings} | {
        name: settings.model_copy(update=change) for name, change in variants(training, settings).items()
    }
    return {name: _readout_error(part, variant, crystal, reference, seed) for name, variant in tried.items()}


def fit_readout(training: Sequence[Atoms], settings: Train, seed: int) -> ACEPotential:
    """An untrained network whose last layer is fitted to ``training``: a linear potential, in a second."""
    prepared = prepare_training(
        TrainingRequest(training, [], settings.model_copy(update={"consistency": "off"}), Path(), seed)
    )
    potential = ACEPotential(prepared.basis, prepared.network, prepared.isolated, Calibration())
    return with_last_weights(potential, [r.weights for r in readouts_from_scratch(potential, training, settings)])


def readouts_from_scratch(potential: ACEPotential, training: Sequence[Atoms], settings: Train) -> list[Readout]:
    """The members' last layers as problems without prior weights."""
    members = range(potential.n_members)
    return [build_readout(potential, training, settings, m, from_scratch=True) for m in members]


def measure_potential(potential: ACEPotential, structure: Atoms) -> tuple[Elasticity, np.ndarray]:
    """Elasticity at the potential's equilibrium, and its constants by energy [n_states, n_constants], GPa."""
    calculator = MLIPCalculator(potential, uncertainty=False)
    crystal = find_equilibrium(structure, calculator)
    elasticity = measure_elasticity(crystal, calculator, potential=potential)
    return elasticity, np.array([elasticity.by_energy[state].values for state in elasticity.samples])


def measure_reference(calculator: Any, structure: Atoms) -> xr.Dataset:
    """The same table for any calculator, at its own equilibrium."""
    return tabulate(measure_elasticity(find_equilibrium(structure, calculator), calculator))
