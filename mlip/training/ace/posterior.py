"""Uncertainty from the last layer: its posterior on the training data, calibrated on held-out structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.last_layer import REGULARIZATIONS, LastLayer, factorise, likelihood
from mlip.potential.uncertainty import Spread
from mlip.training.calibration import HeldOut

MAX_COMPARISON_ATOMS = 4000
"""Training atoms, roughly, that the last layer of a committee is compared with."""
NORMAL_MEDIAN = 0.6745
"""Median of |x| for a standard normal x."""


def fit_last_layer(potential: ACEPotential, train: Sequence[Atoms], held: HeldOut) -> LastLayer:
    """Posterior of the last layer on ``train``; regularisation and units by maximum likelihood on held-out errors.

    The energy's unit is the median of |error| / spread over that of a normal distribution: one
    structure far off must not set it.
    """
    gram = _gram(potential, train).to(potential.device)
    candidates = [factorise(gram, regularization) for regularization in REGULARIZATIONS]
    spreads: list[list[Spread]] = [[] for _ in candidates]
    for features in potential.last_features(held.structures):
        for last, raw in zip(candidates, spreads, strict=True):
            raw.extend(last.spreads(*features))
    fits = []
    for last, raw in zip(candidates, spreads, strict=True):
        residuals = held.residuals(raw)
        unit, misfit = likelihood(residuals.force_errors, residuals.force_spread)
        ratio = np.abs(residuals.energy_errors) / np.maximum(residuals.energy_spread, 1e-12)
        energy_unit = max(float(np.median(ratio)) / NORMAL_MEDIAN, 1e-12)
        fits.append((misfit, replace(last, force_unit=unit, energy_unit=energy_unit)))
    return min(fits, key=lambda fit: fit[0])[1]


def _gram(potential: ACEPotential, structures: Sequence[Atoms]) -> Tensor:
    """Phi^T Phi of every species and member [S, P, D, D] over the atoms of ``structures``."""
    width = potential.size.n_last
    gram = torch.zeros(len(potential.species), potential.n_members, width, width, dtype=torch.float64)
    for _, pairs, evaluation in potential.last_features(structures):
        for s in range(len(potential.species)):
            if evaluation.last is not None:
                phi = evaluation.last[:, pairs.species == s]
                gram[s] += torch.bmm(phi.mT, phi).cpu()
    return gram


def compare_last_layer(potential: ACEPotential, train: Sequence[Atoms], held: HeldOut) -> list[Spread]:
    """Raw spreads by the last layer of a committee, which are reported beside its own.

    It is fitted to a part of the data: that tells as much, and training is meant to be quick.
    """
    stride = 1 + sum(map(len, train)) // MAX_COMPARISON_ATOMS
    last = fit_last_layer(potential, train[::stride], held.thin(stride)).to(potential.device)
    return [s for features in potential.last_features(held.structures) for s in last.spreads(*features)]
