"""Calibrated uncertainty from the spread of a committee."""

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
PRIOR_ENERGIES = 5.0
"""Weight, in structures, of the force scale in the energy scale."""
SMALL_SAMPLE_INFLATION = 1.5
"""Factor on scales that rest on training data because there is no validation data."""


@dataclass(frozen=True)
class Calibration:
    """Factors from committee spread to standard deviation, and how well they did.

    Attributes:
        force_scale: factor on the force spread, per element.
        force_floor: eV/Å, added to the force spread in quadrature: four members agree by
            accident now and then.
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

    def force_std(self, symbols: Sequence[str], forces_members: np.ndarray) -> np.ndarray:
        """Calibrated standard deviation per component, [n_atoms, 3], from [n_members, n_atoms, 3].

        The three components of an atom share one value: it is independent of the frame of
        reference, and steadier than three estimates from a handful of members.
        """
        spread = np.sqrt(_spread(forces_members) ** 2 + self.force_floor**2)
        scale = np.array([self.force_scale.get(s, 1.0) for s in symbols])
        return np.repeat((scale * spread)[:, None], 3, axis=1)

    def energy_std(self, energy_members: np.ndarray) -> float:
        """Calibrated standard deviation (eV) of the energy, from [n_members]."""
        return float(self.energy_scale * np.std(energy_members, ddof=1))

    def to_json(self) -> dict[str, Any]:
        """As a JSON-serialisable dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Inverse of :meth:`to_json`."""
        return cls(**dict(values))


@dataclass(frozen=True)
class Residuals:
    """Errors and raw spreads of predictions, pooled over structures.

    ``symbols`` [n_atoms], ``force_errors`` [n_atoms, 3] (eV/Å), ``force_spread`` [n_atoms]
    (eV/Å), ``energy_errors`` and ``energy_spread`` [n_structures] (eV).
    """

    symbols: np.ndarray
    force_errors: np.ndarray
    force_spread: np.ndarray
    energy_errors: np.ndarray
    energy_spread: np.ndarray


def collect_residuals(
    symbols: Sequence[Sequence[str]],
    forces: Sequence[np.ndarray],
    energies: Sequence[float],
    forces_members: Sequence[np.ndarray],
    energy_members: Sequence[np.ndarray],
) -> Residuals:
    """Pool labels (``forces`` [n_atoms, 3], ``energies``) and member predictions, one entry per structure."""
    return Residuals(
        np.concatenate([np.asarray(s, dtype=str) for s in symbols]),
        np.concatenate([m.mean(0) - f for m, f in zip(forces_members, forces, strict=True)]),
        np.concatenate([_spread(m) for m in forces_members]),
        np.array([m.mean() - e for m, e in zip(energy_members, energies, strict=True)]),
        np.array([np.std(m, ddof=1) for m in energy_members]),
    )


def fit_calibration(residuals: Residuals, *, source: str = "validation") -> Calibration:
    """Scales such that 95 % of the force components lie within 1.96 standard deviations.

    The force scale is the finite-sample conformal quantile of |error| / spread (Angelopoulos
    and Bates, arXiv:2107.07511, section 1) over 1.96; elements with few atoms take the
    scale of all. The energy scale is the RMS of error / spread, shrunk to the force scale,
    for there are few energies. ``source="training"`` inflates all scales.
    """
    inflation = 1.0 if source == "validation" else SMALL_SAMPLE_INFLATION
    floor = 0.1 * float(np.median(residuals.force_spread)) + 1e-6
    spread = np.sqrt(residuals.force_spread**2 + floor**2)
    ratios = np.abs(residuals.force_errors) / spread[:, None]
    pooled = _conformal_quantile(ratios.ravel()) / QUANTILE * inflation
    scales = {}
    for symbol in sorted(set(residuals.symbols.tolist())):
        own = ratios[residuals.symbols == symbol].ravel()
        scales[symbol] = _conformal_quantile(own) / QUANTILE * inflation if own.size >= MIN_COMPONENTS else pooled
    std = spread * np.array([scales[s] for s in residuals.symbols.tolist()])
    energy = residuals.energy_errors / np.maximum(residuals.energy_spread, 1e-9)
    # A median-based cap keeps one structure with an accidental agreement from setting the scale.
    energy = np.clip(np.abs(energy), None, 5.0 * max(float(np.median(np.abs(energy))), 0.5))
    energy_scale = math.sqrt((np.sum(energy**2) + PRIOR_ENERGIES * pooled**2) / (energy.size + PRIOR_ENERGIES))
    return Calibration(
        force_scale=scales,
        force_floor=floor,
        energy_scale=energy_scale,
        n=int(ratios.size),
        coverage=coverage(residuals.force_errors, std),
        spearman=rank_correlation(std, np.linalg.norm(residuals.force_errors, axis=1)),
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


def _spread(members: np.ndarray) -> np.ndarray:
    """Spread per atom [n_atoms] of [n_members, n_atoms, 3]: root mean square over the components."""
    return np.sqrt(np.mean(np.var(members, axis=0, ddof=1), axis=-1))


def _conformal_quantile(ratios: np.ndarray) -> float:
    rank = min(math.ceil(LEVEL * (ratios.size + 1)), ratios.size)
    return max(float(np.sort(ratios)[rank - 1]), 1e-3)
