"""Raw spreads of a trained potential and their calibration on held-out structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.potential.committee import ACEPotential
from mlip.potential.interface import Potential, Prediction, member_spreads
from mlip.potential.last_layer import REGULARIZATIONS, LastLayer, factorise, likelihood
from mlip.uncertainty import (
    Calibration,
    Residuals,
    Spread,
    describe_shift,
    fit_calibration,
    measure_quality,
    pool_residuals,
)

MIN_VALIDATION_ATOMS = 20
"""Below this many validation atoms the calibration rests on the training data."""
MAX_COMPARISON_ATOMS = 4000
"""Training atoms, roughly, that the last layer of a committee is compared with."""
NORMAL_MEDIAN = 0.6745
"""Median of |x| for a standard normal x."""


def calibration_set(train: Sequence[Atoms], valid: Sequence[Atoms]) -> tuple[list[Atoms], str]:
    """The structures to calibrate on and what to call them: ``validation``, or ``training`` where that is too small."""
    enough = sum(len(atoms) for atoms in valid) >= MIN_VALIDATION_ATOMS
    return (list(valid), "validation") if enough else ([*train, *valid], "training")


def calibrate(potential: Potential, train: Sequence[Atoms], valid: Sequence[Atoms]) -> Calibration:
    """Calibration of the potential's own spreads on ``valid``, or an inflated one on ``train``."""
    structures, source = calibration_set(train, valid)
    spreads = potential.spreads(structures)
    return fit_calibration(compare(structures, potential.predict(structures), spreads), source=source)


def compare(structures: Sequence[Atoms], predictions: Sequence[Prediction], spreads: Sequence[Spread]) -> Residuals:
    """Errors of ``predictions`` against the labels, with the raw ``spreads``."""
    return pool_residuals(
        [a.get_chemical_symbols() for a in structures],
        [p.forces - a.get_forces() for p, a in zip(predictions, structures, strict=True)],
        [p.energy - a.get_potential_energy() for p, a in zip(predictions, structures, strict=True)],
        spreads,
    )


def fit_last_layer(potential: ACEPotential, train: Sequence[Atoms], valid: Sequence[Atoms]) -> LastLayer:
    """Posterior of the last layer; regularisation and units by maximum likelihood on held-out errors.

    The energy's unit is the median of |error| / spread over that of a normal distribution: one
    structure far off must not set it.
    """
    structures, _ = calibration_set(train, valid)
    predictions = potential.predict(structures)
    gram = _gram(potential, train).to(potential.device)
    candidates = [factorise(gram, regularization) for regularization in REGULARIZATIONS]
    spreads: list[list[Spread]] = [[] for _ in candidates]
    for features in potential.last_features(structures):
        for last, found in zip(candidates, spreads, strict=True):
            found.extend(last.spreads(*features))
    fits = []
    for last, found in zip(candidates, spreads, strict=True):
        residuals = compare(structures, predictions, found)
        unit, misfit = likelihood(residuals.force_errors, residuals.force_spread)
        ratio = np.abs(residuals.energy_errors) / np.maximum(residuals.energy_spread, 1e-12)
        energy_unit = max(float(np.median(ratio)) / NORMAL_MEDIAN, 1e-12)
        fits.append((misfit, replace(last, force_unit=unit, energy_unit=energy_unit)))
    return min(fits, key=lambda fit: fit[0])[1]


def _gram(potential: ACEPotential, structures: Sequence[Atoms]) -> Tensor:
    """Phi^T Phi of every species and member [S, P, D, D] over the atoms of ``structures``."""
    width = potential.size.n_last
    gram = torch.zeros(len(potential.species), potential.n_members, width, width, dtype=torch.float64)
    for _, pairs, found in potential.last_features(structures):
        for s in range(len(potential.species)):
            if found.last is not None:
                phi = found.last[:, pairs.species == s]
                gram[s] += torch.bmm(phi.mT, phi).cpu()
    return gram


def report_uncertainty(potential: ACEPotential, train: Sequence[Atoms], valid: Sequence[Atoms]) -> dict[str, Any]:
    """Block ``uncertainty`` of ``training.json``.

    ``estimator`` is the one in use. ``last_layer``, and beside it ``committee`` where that is in use, hold the
    cross-fitted quality of each, so that they can be compared. ``shift`` holds the 50, 95 and 99 %
    quantiles over validation atoms of the raw spread and of the calibrated uncertainty:
    :func:`mlip.uncertainty.measure_shift` compares an exploration with them.
    """
    structures, source = calibration_set(train, valid)
    predictions = potential.predict(structures)
    last = potential.last_layer
    if last is None:  # only for comparison: a part of the data tells as much, and training is meant to be quick
        stride = 1 + sum(map(len, train)) // MAX_COMPARISON_ATOMS
        last = fit_last_layer(potential, train[::stride], valid).to(potential.device)
    committee = potential.n_members > 1 and potential.last_layer is None  # else predictions hold the mean alone
    spreads = {"committee": member_spreads(predictions)} if committee else {}
    spreads["last_layer"] = [s for features in potential.last_features(structures) for s in last.spreads(*features)]
    active = "committee" if potential.last_layer is None else "last_layer"
    raw = np.concatenate([s.forces for s in spreads[active]])
    calibrated = np.concatenate([p.force_uncertainty for p in predictions])
    return {
        "estimator": active,
        "source": source,
        **{name: measure_quality(compare(structures, predictions, own)) for name, own in spreads.items()},
        "shift": {"raw_force_spread": describe_shift(raw), "force_uncertainty": describe_shift(calibrated)},
    }
