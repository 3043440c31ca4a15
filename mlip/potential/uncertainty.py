"""Calibrated uncertainty from raw spreads, whoever makes them.

A committee's raw spread is the standard deviation of its members, the last layer's is that of
its posterior (:mod:`mlip.potential.ace.last_layer`). Both pass through the same conformal
calibration, per element, on held-out data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

LEVEL = 0.95
"""Share of errors that 1.96 calibrated standard deviations are to cover."""
QUANTILE = 1.959964
MIN_COMPONENTS = 60
"""Force components below which an element's own scale is not trusted."""
LEAST_SCALE = 0.1
"""A scale below it would have errors a tenth of the spread: that is chance, or symmetry."""
NO_FORCE_SPREAD, NO_ENERGY_SPREAD = 1e-6, 1e-6
"""eV/Å and eV below which a spread is zero by symmetry or by construction, and says nothing of others."""
PRIOR_ENERGIES = 5.0
"""Weight, in structures, of the force scale in the energy scale."""
SHIFT_QUANTILES = (50, 95, 99)
"""Percentiles of the validation spread that are kept as a reference."""
SMALL_SAMPLE_INFLATION = 1.5
"""Factor on scales that rest on training data because there is no validation data."""


@dataclass(frozen=True)
class Calibration:
    """Factors from raw spread to standard deviation, and how well they did.

    Attributes:
        force_scale: factor on the force spread, per element.
        force_floor: eV/Å, added to the force spread in quadrature: four members agree by
            accident now and then. Raw spreads are in eV/Å and eV.
        energy_scale: factor on the energy spread.
        n: force components that the fit rests on.
        coverage: share of those within the 95 % interval, per component.
        spearman: rank correlation of per-atom uncertainty and error.
        source: ``validation``, ``training`` (inflated) or ``none``.
    """

    force_scale: dict[str, float] = field(default_factory=dict)
    force_floor: float = 0.0
    energy_scale: float = 1.0
    n: int = 0
    coverage: float | None = None
    spearman: float | None = None
    source: str = "none"

    def scale_forces(self, symbols: Sequence[str], spread: np.ndarray) -> np.ndarray:
        """Calibrated standard deviation per component, [n_atoms, 3], from raw spreads [n_atoms].

        The three components of an atom share one value: it is independent of the frame of
        reference, and steadier than three estimates from a handful of members.
        """
        scale = np.array([self.force_scale.get(s, 1.0) for s in symbols])
        return np.repeat((scale * np.sqrt(spread**2 + self.force_floor**2))[:, None], 3, axis=1)

    def scale_energy(self, spread: float) -> float:
        """Calibrated standard deviation (eV) of the energy from its raw spread (eV)."""
        return float(self.energy_scale * spread)

    def to_json(self) -> dict[str, Any]:
        """As a JSON-serialisable dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Inverse of :meth:`to_json`."""
        return cls(**dict(values))


@dataclass(frozen=True)
class Doubt:
    """Expected errors of one structure that no spread tells; they join the calibrated spreads in squares.

    ``forces`` [n_atoms] (eV/Å, per component) and ``energy`` (eV).
    """

    forces: np.ndarray
    energy: float


@dataclass(frozen=True)
class Spread:
    """Raw spreads of one structure: ``forces`` [n_atoms] (eV/Å, per component) and ``energy`` (eV).

    ``doubt``: what comes beside them where pairs are nearer than any in the training data, and members agree by
    construction (:mod:`mlip.potential.continuation`).
    """

    forces: np.ndarray
    energy: float
    doubt: Doubt | None = None

    @classmethod
    def of_members(cls, energies: np.ndarray, forces: np.ndarray) -> Spread:
        """That of a committee's ``energies`` [n_members] (eV) and ``forces`` [n_members, n_atoms, 3] (eV/Å)."""
        return cls(force_spread(forces), energy_spread(energies))


@dataclass(frozen=True)
class Residuals:
    """Errors and raw spreads of predictions, pooled over structures.

    ``symbols`` [n_atoms], ``force_errors`` [n_atoms, 3] (eV/Å), ``force_spread`` [n_atoms]
    (eV/Å), ``energy_errors`` and ``energy_spread`` [n_structures] (eV), ``structures`` [n_atoms]:
    index of the structure.
    """

    symbols: np.ndarray
    force_errors: np.ndarray
    force_spread: np.ndarray
    energy_errors: np.ndarray
    energy_spread: np.ndarray
    structures: np.ndarray

    def take(self, chosen: np.ndarray) -> Residuals:
        """Those of the structures where ``chosen`` [n_structures] is true."""
        atoms = chosen[self.structures]
        return Residuals(
            self.symbols[atoms],
            self.force_errors[atoms],
            self.force_spread[atoms],
            self.energy_errors[chosen],
            self.energy_spread[chosen],
            (np.cumsum(chosen) - 1)[self.structures[atoms]],
        )


def pool_residuals(
    symbols: Sequence[Sequence[str]],
    force_errors: Sequence[np.ndarray],
    energy_errors: Sequence[float],
    spreads: Sequence[Spread],
) -> Residuals:
    """Pool errors (``force_errors`` [n_atoms, 3]) and raw spreads, one entry per structure."""
    return Residuals(
        np.concatenate([np.asarray(s, dtype=str) for s in symbols]),
        np.concatenate(force_errors),
        np.concatenate([s.forces for s in spreads]),
        np.array(energy_errors, dtype=float),
        np.array([s.energy for s in spreads]),
        np.repeat(np.arange(len(symbols)), [len(s) for s in symbols]),
    )


def fit_calibration(residuals: Residuals, *, source: str = "validation") -> Calibration:
    """Scales such that 95 % of the force components lie within 1.96 standard deviations.

    The force scale is the finite-sample conformal quantile of |error| / spread (Angelopoulos
    and Bates, arXiv:2107.07511, section 1) over 1.96; elements with few atoms take the
    scale of all. The energy scale is the RMS of error / spread, shrunk to the force scale,
    for there are few energies. ``source="training"`` inflates all scales. Atoms without a spread (no force
    by symmetry) count for none of this; where all are such, scales are 1 and the source is ``none``.
    """
    inflation = 1.0 if source == "validation" else SMALL_SAMPLE_INFLATION
    told = residuals.force_spread > NO_FORCE_SPREAD
    if not told.any():
        return Calibration()
    floor = 0.1 * float(np.median(residuals.force_spread[told])) + 1e-6
    spread = np.sqrt(residuals.force_spread**2 + floor**2)
    ratios = np.abs(residuals.force_errors) / spread[:, None]
    pooled = _conformal_scale(ratios[told]) * inflation
    scales = {}
    for symbol in sorted(set(residuals.symbols.tolist())):
        element_ratios = ratios[told & (residuals.symbols == symbol)]
        scales[symbol] = (
            _conformal_scale(element_ratios) * inflation if element_ratios.size >= MIN_COMPONENTS else pooled
        )
    std = spread * np.array([scales[s] for s in residuals.symbols.tolist()])
    known = residuals.energy_spread > NO_ENERGY_SPREAD
    energy = residuals.energy_errors[known] / residuals.energy_spread[known]
    # A median-based cap keeps one structure with an accidental agreement from setting the scale.
    energy = np.clip(np.abs(energy), None, 5.0 * max(float(np.median(np.abs(energy))), 0.5)) if energy.size else energy
    energy_scale = math.sqrt((np.sum(energy**2) + PRIOR_ENERGIES * pooled**2) / (energy.size + PRIOR_ENERGIES))
    return Calibration(
        force_scale=scales,
        force_floor=floor,
        energy_scale=energy_scale,
        n=int(ratios[told].size),
        coverage=coverage(residuals.force_errors[told], std[told]),
        spearman=rank_correlation(std[told], np.linalg.norm(residuals.force_errors[told], axis=1)),
        source=source,
    )


def coverage(errors: np.ndarray, std: np.ndarray) -> float:
    """Share of error components [n_atoms, 3] within 1.96 times ``std`` [n_atoms]."""
    return float(np.mean(np.abs(errors) <= QUANTILE * std[:, None]))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation; None when it is undefined (fewer than 3 values, or constants)."""
    if first.size < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def force_spread(members: np.ndarray) -> np.ndarray:
    """Spread per atom [n_atoms] of [n_members, n_atoms, 3]: RMS over the components; NaN for one member."""
    if len(members) < 2:
        return np.full(members.shape[1], np.nan)
    return np.sqrt(np.mean(np.var(members, axis=0, ddof=1), axis=-1))


def energy_spread(members: np.ndarray) -> float:
    """Spread of the members' energies [n_members]; NaN for one member."""
    return float(np.std(members, ddof=1)) if len(members) > 1 else float("nan")


def measure_quality(residuals: Residuals) -> dict[str, Any]:
    """How well spreads announce errors, on structures that the scales were not fitted to.

    Two-fold: each half of the structures is judged with the calibration of the other half.
    Returns ``coverage`` of the force components, ``energy_coverage``, ``spearman`` (rank
    correlation of uncertainty and force error per atom), ``sharpness`` (mean calibrated standard
    deviation over the RMS error: the smaller at equal coverage, the better), ``n_atoms``, and
    under ``elements`` the same of each element.
    """
    n = len(residuals.energy_errors)
    half = np.arange(n) % 2 == 0
    folds = [(half, ~half), (~half, half)] if n > 1 else [(half, half)]
    std, inside = np.zeros(len(residuals.symbols)), np.zeros(n, dtype=bool)
    for fitted, judged in folds:
        calibration, rest = fit_calibration(residuals.take(fitted)), residuals.take(judged)
        std[judged[residuals.structures]] = calibration.scale_forces(rest.symbols.tolist(), rest.force_spread)[:, 0]
        inside[judged] = np.abs(rest.energy_errors) <= QUANTILE * calibration.energy_scale * rest.energy_spread
    groups = {s: residuals.symbols == s for s in sorted(set(residuals.symbols.tolist()))}
    return {
        **_quality(residuals.force_errors, std),
        "energy_coverage": float(inside.mean()),
        "elements": {s: _quality(residuals.force_errors[chosen], std[chosen]) for s, chosen in groups.items()},
    }


def _quality(errors: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    rms = float(np.sqrt(np.mean(errors**2)))
    return {
        "coverage": coverage(errors, std),
        "spearman": rank_correlation(std, np.linalg.norm(errors, axis=1)),
        "sharpness": float(std.mean()) / max(rms, 1e-12),
        "n_atoms": len(errors),
    }


def describe_shift(spread: np.ndarray) -> dict[str, float]:
    """Quantiles of validation spreads: what is normal, for comparison with an exploration."""
    return {f"{q}": float(np.quantile(spread, q / 100)) for q in SHIFT_QUANTILES}


def measure_shift(reference: Mapping[str, float], spread: np.ndarray) -> dict[str, float]:
    """Share of ``spread`` above each quantile of ``reference`` (:func:`describe_shift`).

    Data like the validation data give 0.5, 0.05 and 0.01; more means a shift of distribution.
    """
    return {name: float(np.mean(np.asarray(spread) > value)) for name, value in reference.items()}


def _conformal_scale(ratios: np.ndarray) -> float:
    """Factor on spreads with which 1.96 of them cover the finite-sample quantile of ``ratios``."""
    rank = min(math.ceil(LEVEL * (ratios.size + 1)), ratios.size)
    return max(float(np.sort(ratios, axis=None)[rank - 1]) / QUANTILE, LEAST_SCALE)
