"""Influence held against the truth: constants of potentials trained again without a structure.

Trainings that differ in initial weights or batches differ by more than one structure's influence. So a
training without a structure keeps everything else: initial weights, batches, members; the structure has
weight zero in the loss. Two trainings are repeated so:

- *from scratch*, the whole schedule from the same initial weights;
- *continued*, full batches at a small learning rate from the trained weights, with and without the structure.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.config.train import Train
from mlip.jobs.progress import Progress
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.uncertainty import Calibration, rank_correlation
from mlip.seeds import derive_seed
from mlip.studies.elastic.attribution.causes import measure_potential
from mlip.studies.elastic.attribution.influence import Attribution, attribute
from mlip.studies.elastic.experiments.demonstration import primitive_cell
from mlip.studies.experiments import Page, Task
from mlip.training.ace.pipeline import Prepared, prepare_training
from mlip.training.ace.readout import with_last_weights
from mlip.training.ace.trainer import Trainer
from mlip.training.data import resolve_cutoff
from mlip.training.request import TrainingRequest

TRUTHS = ("refit of the last layer", "continued training", "training from scratch")
CONTINUED_RATE = 0.3
"""Learning rate of the continued training over what the schedule has there."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Repeated:
    """A training that can be repeated without a structure, and is the same otherwise."""

    structures: Sequence[Atoms]
    settings: Train
    seed: int
    isolated_energies: dict[str, float] | None = None

    @cached_property
    def prepared(self) -> Prepared:
        """Data and initial weights."""
        return prepare_training(
            TrainingRequest(
                self.structures, [], self.settings, Path(), self.seed, isolated_energies=self.isolated_energies
            )
        )

    @cached_property
    def whole(self) -> ACEPotential:
        """Trained with every structure."""
        return self.from_scratch(None)

    def from_scratch(self, dropped: int | None) -> ACEPotential:
        """Trained without structure ``dropped`` from the initial weights."""
        return self._train(self.prepared.network, self.settings, dropped, 0.0)

    def continued(self, dropped: int | None) -> ACEPotential:
        """Trained on without structure ``dropped`` from the weights of :attr:`whole`."""
        change = {"batch_size": len(self.structures), "learning_rate": CONTINUED_RATE * self.settings.learning_rate}
        network = CommitteeNetwork(self.whole.size, seed=0)
        network.load_state_dict(self.whole.state)
        return self._train(
            network, self.settings.model_copy(update=change), dropped, 1 - self.settings.restart_fraction
        )

    def _train(self, network: CommitteeNetwork, settings: Train, dropped: int | None, start: float) -> ACEPotential:
        trainer = self._trainer(copy.deepcopy(network), settings, start)
        if dropped is not None:
            trainer.member_weights[:, dropped] = 0.0
        trainer.run()
        return ACEPotential(self.prepared.basis, trainer.network, self.prepared.isolated, Calibration())

    def _trainer(self, network: CommitteeNetwork, settings: Train, start: float = 0.0) -> Trainer:
        keys = self.prepared.keys
        return Trainer(
            network, self.prepared.data, settings=settings, seed=self.seed, identity="", keys=keys, start=start
        )


@dataclass(frozen=True)
class Omission:
    """Changes of one constant when structures are left out, GPa.

    Attributes:
        influenced: the constant, e.g. "C44 relaxed".
        chosen: indices of the structures, [n].
        predicted: by the last layer's influence, [n_seeds, n].
        measured: by each of ``TRUTHS``, [n_seeds, n].
    """

    influenced: str
    chosen: np.ndarray
    predicted: np.ndarray
    measured: dict[str, np.ndarray]

    def correlation(self, truth: str) -> tuple[float, float, float]:
        """Rank correlation of the seeds' means, and its 95 % interval by resampling the structures."""
        return _interval(self.predicted.mean(0), self.measured[truth].mean(0))

    def agreement(self, truth: str) -> float:
        """Mean rank correlation between the truths of two seeds: what a perfect prediction could expect of one."""
        values = self.measured[truth]
        pairs = [(a, b) for a in range(len(values)) for b in range(a)]
        return float(np.mean([rank_correlation(values[a], values[b]) or 0.0 for a, b in pairs])) if pairs else np.nan


def _interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    resampled = [
        rank_correlation(first[rows], second[rows]) for rows in rng.integers(0, len(first), (RESAMPLES, len(first)))
    ]
    known = [value for value in resampled if value is not None]
    value = rank_correlation(first, second)
    low, high = np.quantile(known, [0.025, 0.975]) if known else (np.nan, np.nan)
    return float("nan") if value is None else value, float(low), float(high)


def omit_structures(
    training: Sequence[Atoms],
    settings: Train,
    crystal: Atoms,
    *,
    n: int,
    seeds: Sequence[int],
    influenced: str | None = None,
    isolated_energies: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> Omission:
    """Leave out ``n`` structures, evenly spaced in the ranking by predicted influence, with each seed.

    Args:
        training: labelled structures.
        settings: section ``train``; trainings start from scratch.
        crystal: whose constants count.
        n: structures.
        seeds: of trainings; predictions and truths are each seed's own.
        influenced: constant, e.g. "C44 relaxed"; the last one if absent.
        isolated_energies: eV; None fits them.
        progress: called after each retraining.
    """
    from_scratch = resolve_cutoff(training, settings, None).model_copy(
        update={"consistency": "off", "restart": "scratch"}
    )
    runs = [Repeated(training, from_scratch, seed, isolated_energies) for seed in seeds]
    attributions = [
        attribute(run.whole, training, from_scratch, measure_potential(run.whole, crystal)[0]) for run in runs
    ]
    names = attributions[0].influenced
    row = names.index(influenced) if influenced is not None else len(names) - 1
    predicted = np.array([changes.influence[row] for changes in attributions])
    order = np.argsort(predicted.mean(0))
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int))]
    changes = [_truths(run, a, chosen, row, crystal, progress) for run, a in zip(runs, attributions, strict=True)]
    return Omission(
        names[row],
        chosen,
        predicted[:, chosen],
        {name: np.array([from_scratch[name] for from_scratch in changes]) for name in TRUTHS},
    )


def _truths(
    run: Repeated,
    attribution: Attribution,
    chosen: np.ndarray,
    row: int,
    crystal: Atoms,
    progress: Progress | None,
) -> dict[str, list[float]]:
    """Changes of constant ``row`` [n] by each of ``TRUTHS``, GPa."""
    everything = np.arange(len(run.structures))

    def refit(dropped: int | None) -> ACEPotential:
        kept = everything if dropped is None else np.delete(everything, dropped)
        return with_last_weights(run.whole, [r.refit(kept) for r in attribution.readouts])

    def value(potential: ACEPotential) -> float:
        return float(measure_potential(potential, crystal)[1].ravel()[row])

    changes: dict[str, list[float]] = {}
    for name, train in zip(TRUTHS, (refit, run.continued, run.from_scratch), strict=True):
        base = value(run.whole if train == run.from_scratch else train(None))
        changes[name] = []
        for dropped in chosen.tolist():
            changes[name].append(value(train(dropped)) - base)
            if progress is not None:
                progress({"seed": run.seed, "repeated": name, "without": dropped})
    return changes


def run(task: Task) -> dict[str, Any]:
    """Leave out structures of the loop's training data."""
    seeds = [derive_seed(task.seed, "omission", k) % 2**31 for k in range(task.plan["n_seeds"])]
    crystal = primitive_cell(task.structures[0])
    omission = omit_structures(
        task.training,
        task.train,
        crystal,
        n=task.plan["n"],
        seeds=seeds,
        isolated_energies=task.isolated_energies,
        progress=task.progress,
    )
    return record(omission, task.training)


def record(omission: Omission, training: Sequence[Atoms]) -> dict[str, Any]:
    """All of ``omission`` as plain values, GPa."""
    correlations = {truth: map(_known, omission.correlation(truth)) for truth in TRUTHS}
    return {
        "influenced": omission.influenced,
        "units": "GPa",
        "n_training": len(training),
        "chosen": omission.chosen.tolist(),
        "structures": [str(training[k].info.get("structure_id", k)) for k in omission.chosen],
        "predicted": omission.predicted.tolist(),
        "found": {name: values.tolist() for name, values in omission.measured.items()},
        "correlations": {t: dict(zip(("value", "low", "high"), c, strict=True)) for t, c in correlations.items()},
        "agreement_of_seeds": {truth: _known(omission.agreement(truth)) for truth in TRUTHS},
    }


def _known(value: float) -> float | None:
    """JSON has no NaN, which a single seed's agreement with others is."""
    return value if np.isfinite(value) else None


def report(results: Mapping[str, Mapping[str, Any]]) -> Page:
    """Table and picture of what :func:`record` returned."""
    from mlip.studies.elastic.figures import draw_omission

    (result,) = results.values()
    measured = {name: np.array(values) for name, values in result["found"].items()}
    (n_seeds, n), n_training = measured[TRUTHS[0]].shape, result["n_training"]
    lines = [
        f"Influence on {result['influenced']} of {n} of {n_training} training structures: rank correlation of what",
        f"the last layer predicts with what leaving the structure out does, means of {n_seeds} seeds, with 95 %",
        "intervals by resampling the structures. The spread is that of the changes over the structures, the last",
        "column their rank correlation between two seeds: more cannot be expected of a single training.",
        "",
        "| left out by | rank correlation | spread (GPa) | seed against seed |",
        "|---|---|---|---|",
    ]
    for truth in TRUTHS:
        numbers = [*result["correlations"][truth].values(), result["agreement_of_seeds"][truth]]
        value, low, high, agreement = ("–" if number is None else f"{number:.2f}" for number in numbers)
        spread = float(measured[truth].mean(0).std())
        lines.append(f"| {truth} | {value} ({low} to {high}) | {spread:.2g} | {agreement} |")
    return Page("\n".join(lines) + "\n", [draw_omission(result["influenced"], np.array(result["predicted"]), measured)])
