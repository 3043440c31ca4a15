"""Diffusion and viscosity from correlation functions of independent blocks.

Lengths in Å, times in fs, diffusion coefficients in Å²/fs (0.1 cm²/s). Averages are per Cartesian
component: a velocity autocorrelation function starts at kT/m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mlip.statistics import autocorrelation

CM2_PER_S = 0.1
"""cm²/s in one Å²/fs."""

FLAT = 0.02
"""Relative change of a running integral that counts as none."""

EINSTEIN_SPAN = 5.0
"""End of the fit to the mean square displacement over its beginning."""

AGREEMENT = 3.0
"""Errors by which the two estimates may differ."""


class DiffusionError(ValueError):
    """Trajectories that allow no estimate of a coefficient."""


@dataclass(frozen=True)
class Estimate:
    """A mean over independent blocks: ``blocks`` [n_blocks], all in one unit."""

    blocks: np.ndarray

    @property
    def value(self) -> float:
        """Mean."""
        return float(np.mean(self.blocks))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(np.std(self.blocks, ddof=1) / math.sqrt(len(self.blocks)))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's t interval of the mean."""
        margin = float(stats.t.ppf(0.5 + confidence / 2, len(self.blocks) - 1)) * self.error
        return self.value - margin, self.value + margin


@dataclass(frozen=True)
class Curves:
    """Correlation functions of one kind of atoms in each block.

    Attributes:
        interval: time between samples, fs.
        vacf: velocity autocorrelation per component, [n_blocks, n_lags], Å²/fs².
        msd: mean square displacement in three dimensions, [n_blocks, n_lags], Å².
    """

    interval: float
    vacf: np.ndarray
    msd: np.ndarray

    @property
    def lags(self) -> np.ndarray:
        """Times of the lags, [n_lags], fs."""
        return np.arange(self.vacf.shape[1]) * self.interval

    @property
    def integral(self) -> np.ndarray:
        """Running integral of the velocity autocorrelation, [n_blocks, n_lags], Å²/fs."""
        return running_integral(self.vacf, self.interval)


@dataclass(frozen=True)
class Diffusion:
    """Both estimates of a diffusion coefficient, Å²/fs.

    Attributes:
        green_kubo: mean of the running integral over ``plateau``.
        einstein: a sixth of the slope of the mean square displacement over ``fit``.
        plateau: ends of the lags averaged, fs.
        fit: ends of the lags fitted, fs.
        decayed: whether the velocities have lost their correlation before the plateau, so that there is
            one; an estimate without that is not to be trusted.
    """

    green_kubo: Estimate
    einstein: Estimate
    plateau: tuple[float, float]
    fit: tuple[float, float]
    decayed: bool

    @property
    def discrepancy(self) -> float:
        """Difference of the two estimates over the error that they would have if they were independent."""
        error = math.hypot(self.green_kubo.error, self.einstein.error)
        difference = abs(self.green_kubo.value - self.einstein.value)
        return difference / error if error > 0 else (0.0 if difference == 0 else math.inf)

    @property
    def agree(self) -> bool:
        """Whether the two estimates agree within ``AGREEMENT`` errors."""
        return self.discrepancy <= AGREEMENT


def remove_drift(values: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """``values`` [n_samples, n_atoms, 3] (positions or velocities) relative to the centre of mass.

    For n independent walkers this lowers the diffusion coefficient by the factor 1 - 1/n, the
    share of the centre of mass; dynamics at zero total momentum has it anyway.
    """
    centre = np.einsum("sax,a->sx", values, masses) / masses.sum()
    return values - centre[:, None]


def average_autocorrelation(series: np.ndarray, n_lags: int) -> np.ndarray:
    """:func:`mlip.statistics.autocorrelation` of ``series`` [n_samples, …] averaged over the other axes, [n_lags].

    Raises:
        DiffusionError: for more lags than samples.
    """
    n = len(series)
    if not 0 < n_lags <= n:
        raise DiffusionError(f"{n_lags} lags were asked of {n} samples; run longer or sample more often")
    flat = series.reshape(n, -1)
    total = np.zeros(n_lags)
    # 64 columns at a time: the padded transform of all atoms at once would need several times the trajectory's memory.
    for part in np.array_split(flat, max(1, flat.shape[1] // 64), axis=1):
        total += autocorrelation(part, n_lags).sum(1)
    return total / flat.shape[1]


def square_displacement(positions: np.ndarray, n_lags: int) -> np.ndarray:
    """Mean square displacement of unwrapped ``positions`` [n_samples, n_atoms, 3], [n_lags], Å².

    Averaged over origins and atoms; (a - b)² = a² + b² - 2ab with the products from
    :func:`average_autocorrelation` (V. Calandrini et al., Collection SFN 12, 201 (2011)).
    """
    n = len(positions)
    # Displacements from the start, so that large coordinates do not cancel.
    moved = positions - positions[:1]
    products = 3 * average_autocorrelation(moved, n_lags)
    squares = (moved**2).sum(2).mean(1)
    # Sums of a² over the origins 0 … n - t - 1 and of b² over t … n - 1, from one cumulative sum.
    total = np.concatenate([[0.0], np.cumsum(squares)])
    lags = np.arange(n_lags)
    both = (total[n - lags] + total[n] - total[lags]) / (n - lags)
    return np.maximum(both - 2 * products, 0.0)  # round-off may leave the first lags below zero


def running_integral(values: np.ndarray, interval: float) -> np.ndarray:
    """Integral of ``values`` [..., n_lags] from zero to each lag by the trapezium rule."""
    steps = (values[..., 1:] + values[..., :-1]) * interval / 2
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(steps, axis=-1)], axis=-1)


def find_plateau(integral: np.ndarray, interval: float) -> float | None:
    """Time from which running integrals ``integral`` [n_blocks, n_lags] are flat, fs; None if they never are.

    The first lag t such that the blocks' mean changes, from t to any lag up to 2t, by less than ``FLAT``
    of itself or than twice the standard error of that change: what is cut off is below the noise.
    """
    n_blocks, n_lags = integral.shape
    for start in range(2, (n_lags - 1) // 2 + 1):
        changes = integral[:, start + 1 : 2 * start + 1] - integral[:, start : start + 1]
        # Of the change itself: both ends of it share most of the noise of their block.
        noise = 2 * changes.std(0, ddof=1) / math.sqrt(n_blocks)
        if (np.abs(changes.mean(0)) <= np.maximum(FLAT * abs(integral[:, start].mean()), noise)).all():
            return start * interval
    return None


def estimate_diffusion(curves: Curves, window: float | None = None) -> Diffusion:
    """Green–Kubo and Einstein estimates with errors from the scatter of the blocks.

    With t the time at which the integral has become flat, the integral is averaged from t to 2t,
    and the displacement is fitted from t to 5t (or the last lag). The spans differ so that the
    two agree only if both have reached their limit.

    Args:
        curves: correlation functions of at least two blocks.
        window: t in fs instead of the one found by :func:`find_plateau`.

    Raises:
        DiffusionError: for a single block or a window that the lags do not hold twice.
    """
    n_blocks, n_lags = curves.vacf.shape
    if n_blocks < 2:
        raise DiffusionError("errors need at least two independent blocks, got one")
    flat_from = find_plateau(curves.integral, curves.interval) if window is None else window
    # Without a plateau the latest window there is; `decayed` then says that the value is not to be trusted.
    start = (n_lags - 1) // 2 if flat_from is None else max(1, round(flat_from / curves.interval))
    if 2 * start > n_lags - 1:
        raise DiffusionError(
            f"the window of {start * curves.interval:g} fs does not fit twice into {n_lags - 1} lags of "
            f"{curves.interval:g} fs; make the blocks longer"
        )
    last = min(round(EINSTEIN_SPAN * start), n_lags - 1)
    lags = curves.lags
    slopes = np.polyfit(lags[start : last + 1], curves.msd[:, start : last + 1].T, 1)[0]
    return Diffusion(
        green_kubo=Estimate(curves.integral[:, start : 2 * start + 1].mean(1)),
        einstein=Estimate(slopes / 6),
        plateau=(float(lags[start]), float(lags[2 * start])),
        fit=(float(lags[start]), float(lags[last])),
        decayed=flat_from is not None,
    )


def shear_series(stresses: np.ndarray) -> np.ndarray:
    """Five independent shear components, [n_samples, 5], of Voigt ``stresses`` [n_samples, 6]."""
    xx, yy, zz, yz, xz, xy = stresses.T
    return np.stack([yz, xz, xy, (xx - yy) / 2, (yy - zz) / 2], axis=1)


def estimate_viscosity(
    blocks: np.ndarray, interval: float, *, volume: float, kt: float
) -> tuple[Estimate, tuple[float, float], bool]:
    """Shear viscosity in eV·fs/Å³ by Green–Kubo, the lags averaged (fs), and whether the stress had decayed.

    Args:
        blocks: autocorrelation of the shear stress in each block, [n_blocks, n_lags], (eV/Å³)².
        interval: time between lags, fs.
        volume: Å³.
        kt: temperature, eV.
    """
    integral = running_integral(blocks, interval) * volume / kt
    flat_from = find_plateau(integral, interval)
    last = (blocks.shape[1] - 1) // 2
    start = last if flat_from is None else round(flat_from / interval)
    return (
        Estimate(integral[:, start : 2 * start + 1].mean(1)),
        (start * interval, 2 * start * interval),
        flat_from is not None,
    )
