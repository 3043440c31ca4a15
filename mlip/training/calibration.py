"""Raw spreads of a trained potential and their calibration on held-out structures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms

from mlip.potential.certification import expected_squares, squared_errors
from mlip.potential.interface import Potential, Prediction, member_spreads
from mlip.potential.uncertainty import (
    Calibration,
    Residuals,
    Spread,
    describe_shift,
    fit_calibration,
    measure_quality,
    pool_residuals,
)
from mlip.structures.labelled import labelled_energy, labelled_forces

MIN_VALIDATION_ATOMS = 20
"""Below this many validation atoms with forces the calibration rests on the training data as well."""
MIN_VALIDATION_STRUCTURES = 2
"""The same for structures: one alone cannot be judged by another."""
NO_FORCE = 1e-3
"""eV/Å below which a label's force is zero by symmetry: there is no error to calibrate with."""


@dataclass(frozen=True)
class HeldOut:
    """Structures that a potential is calibrated on, with its predictions.

    The first ``n_train`` are training structures: where there are too few others, all of them serve.
    """

    structures: list[Atoms]
    predictions: list[Prediction]
    n_train: int

    @classmethod
    def predict(cls, potential: Potential, train: Sequence[Atoms], valid: Sequence[Atoms]) -> HeldOut:
        """``valid``, or ``train`` and ``valid`` where that is too small, predicted by ``potential``."""
        n_atoms = sum(int((np.linalg.norm(labelled_forces(atoms), axis=1) > NO_FORCE).sum()) for atoms in valid)
        enough = n_atoms >= MIN_VALIDATION_ATOMS and len(valid) >= MIN_VALIDATION_STRUCTURES
        structures = list(valid) if enough else [*train, *valid]
        return cls(structures, potential.predict(structures), 0 if enough else len(train))

    @property
    def source(self) -> str:
        """What to call them: ``validation`` or ``training``."""
        return "training" if self.n_train else "validation"

    def thin(self, stride: int) -> HeldOut:
        """With every ``stride``-th training structure alone."""
        kept = [*range(0, self.n_train, stride), *range(self.n_train, len(self.structures))]
        n_train = len(range(0, self.n_train, stride))
        return HeldOut([self.structures[k] for k in kept], [self.predictions[k] for k in kept], n_train)

    def spreads(self, potential: Potential) -> list[Spread]:
        """Raw spreads of ``potential``; a committee's lie in the predictions already."""
        committee = potential.estimator == "committee"
        return member_spreads(self.predictions) if committee else potential.spreads(self.structures)

    def residuals(self, spreads: Sequence[Spread]) -> Residuals:
        """Errors of the predictions against the labels, with the raw ``spreads``."""
        pairs = list(zip(self.predictions, self.structures, strict=True))
        return pool_residuals(
            [a.get_chemical_symbols() for a in self.structures],
            [p.forces - labelled_forces(a) for p, a in pairs],
            [p.energy - labelled_energy(a) for p, a in pairs],
            spreads,
        )

    def calibrate(self, spreads: Sequence[Spread]) -> tuple[Calibration, HeldOut]:
        """Calibration of the raw ``spreads``, inflated on training structures, and the predictions under it."""
        calibration = fit_calibration(self.residuals(spreads), source=self.source)
        if calibration.source == "none":
            warnings.warn(
                "uncertainties are not calibrated: no atom of the data has a force, all are zero by symmetry; add "
                "structures with displaced atoms",
                stacklevel=2,
            )
        parts = zip(self.predictions, self.structures, spreads, strict=True)
        return calibration, replace(self, predictions=[p.recalibrate(a, calibration, s) for p, a, s in parts])


PRIOR_STRUCTURES = 5.0
"""Weight, in structures, of the ratio of all in that of one starting structure's."""
CAP = 10.0
"""Squared ratio of one structure, over the median one, beyond which it counts no more: it would decide alone."""


def error_over_expected(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Root of mean squared force error over mean predicted variance, of ``all`` and by starting structure.

    The calibration above covers 95 % of the errors; with the heavy tails that errors have, its standard deviations are
    no RMS errors. Structures count alike, for atoms of one are not independent; starting structures with few held-out
    ones are drawn to the ratio of all.
    """
    squared, variance = squared_errors(structures, predictions), expected_squares(structures, predictions, {})
    told = np.isfinite(squared) & np.isfinite(variance) & (variance > 0)
    sources = np.array([int(a.info.get("source", 0)) for a in structures])[told]
    ratios = squared[told] / variance[told]
    if not len(ratios) or not ratios.any():
        return {"all": 1.0, "structures": {}}
    ratios = np.minimum(ratios, CAP * max(float(np.median(ratios)), 1e-12))
    common = (ratios.sum() + PRIOR_STRUCTURES) / (len(ratios) + PRIOR_STRUCTURES)
    groups = {int(s): ratios[sources == s] for s in np.unique(sources)}
    each = {s: (g.sum() + PRIOR_STRUCTURES * common) / (len(g) + PRIOR_STRUCTURES) for s, g in groups.items()}
    return {"all": float(common**0.5), "structures": {str(s): float(r**0.5) for s, r in each.items()}}


def report_uncertainty(estimator: str, held: HeldOut, spreads: Mapping[str, Sequence[Spread]]) -> dict[str, Any]:
    """Block ``uncertainty`` of ``training.json``, from calibrated predictions and raw ``spreads`` by estimator.

    ``estimator`` is the one in use. Under the name of each, ``committee`` or ``last_layer``, is its
    cross-fitted quality, so that they can be compared. ``shift`` holds the 50, 95 and 99 %
    quantiles over validation atoms of the raw spread and of the calibrated uncertainty:
    :func:`mlip.potential.uncertainty.measure_shift` compares an exploration with them.
    """
    raw = np.concatenate([s.forces for s in spreads[estimator]])
    calibrated = np.concatenate([p.force_uncertainty for p in held.predictions])
    return {
        "estimator": estimator,
        "source": held.source,
        "error_over_expected": error_over_expected(held.structures, held.predictions),
        **{name: measure_quality(held.residuals(estimated)) for name, estimated in spreads.items()},
        "shift": {"raw_force_spread": describe_shift(raw), "force_uncertainty": describe_shift(calibrated)},
    }
