"""Means of correlated series with honest errors: equilibration, blocking, correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

FEWEST_BLOCKS = 4
"""Blocks below which a level of the blocking says nothing."""
FEWEST_AT_PLATEAU = 16
"""Blocks below which a plateau is not believed: with so few nearly every test passes."""
SIGNIFICANCE = 0.01
"""Chance of going on to larger blocks although these are independent already."""
N_STARTS = 60
"""Starting points tried for the production part of a series."""
RELATIVE_PRECISION = 1e-12
"""Of residuals of totals in double precision."""
N_REWEIGHTED = 50
"""Rounds of reweighting in a fit of least absolute deviations."""


def fit_absolute(
    design: np.ndarray, values: np.ndarray, *, residuals: np.ndarray | None = None, floor: float | None = None
) -> np.ndarray:
    """Coefficients [F] of least absolute deviations of ``values`` [n] from ``design`` [n, F].

    By iteratively reweighted least squares (E. J. Schlossmacher, J. Am. Stat. Assoc. 68, 857 (1973)): each round
    weights a value by its inverse residual. A few values far off, or a group of shifted ones, do not bend the fit.

    Args:
        design: [n, F].
        values: [n].
        residuals: to begin with, [n]; those of ordinary least squares if None.
        floor: smaller residuals count as this; a thousandth of the values' or residuals' deviation if None,
            and less where that is more than the residuals themselves, as with the totals of all-electron codes: if
            all residuals counted the same, the fit would be that of least squares.
    """
    derived = floor is None
    if residuals is None:
        residuals = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    if floor is None:
        floor = 1e-3 * max(deviation(values), deviation(residuals), 1e-9)
    for _ in range(N_REWEIGHTED):
        weights = 1.0 / np.sqrt(np.maximum(np.abs(residuals), floor))
        coefficients: np.ndarray = np.linalg.lstsq(design * weights[:, None], values * weights, rcond=None)[0]
        residuals = values - design @ coefficients
    spread = deviation(residuals)
    if derived and floor > spread:
        # Values that are all zero leave nothing to divide by.
        smallest = max(1e-3 * spread, RELATIVE_PRECISION * float(np.abs(values).max()), 1e-12)
        return fit_absolute(design, values, residuals=residuals, floor=smallest)
    return coefficients


def deviation(values: np.ndarray) -> float:
    """Standard deviation of a normal distribution with the median absolute deviation of ``values``."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def cut_in_two(values: np.ndarray) -> np.ndarray:
    """The upper [n] of two groups of ``values`` [n] with the least variance within.

    N. Otsu, IEEE Trans. Syst. Man Cybern. 9, 62 (1979).
    """
    order = np.argsort(values)
    ordered = values[order] - values.mean()
    below, n = np.cumsum(ordered)[:-1], len(values)
    counts = np.arange(1, n)
    between = below**2 / counts + below**2 / (n - counts)  # the sum of those above is minus the sum of those below
    upper = np.zeros(n, dtype=bool)
    upper[order[int(np.argmax(between)) + 1 :]] = True
    return upper


class SeriesError(ValueError):
    """A series that has no reliable mean; the message says why."""


@dataclass(frozen=True)
class BlockedMean:
    """Mean of a correlated series.

    Attributes:
        mean: of the series.
        error: standard error of the mean, at the plateau.
        naive_error: what it would be if the values were independent.
        block_size: values in a block at the plateau.
        converged: whether blocks of that size pass as independent; else ``error`` is the largest found, a lower bound.
        sizes, errors, errors_of_errors: of every level, [n_levels].
    """

    mean: float
    error: float
    naive_error: float
    block_size: int
    converged: bool
    sizes: np.ndarray
    errors: np.ndarray
    errors_of_errors: np.ndarray

    @property
    def inefficiency(self) -> float:
        """Values of the series that are worth one independent value."""
        return (self.error / self.naive_error) ** 2 if self.naive_error > 0 else 1.0


@dataclass(frozen=True)
class Equilibration:
    """Where the production part of a series begins.

    Attributes:
        start: first index of it.
        inefficiency: its statistical inefficiency g.
        n_effective: its length over g.
        settled: whether it begins in the first half; else the series is too short to tell.
    """

    start: int
    inefficiency: float
    n_effective: float
    settled: bool


def block_average(series: np.ndarray) -> BlockedMean:
    """Mean and standard error of ``series`` [n] by blocking pairs until they are independent.

    H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989): averaging neighbours leaves
    the mean and its variance unchanged, while the estimate of that variance rises to a plateau.
    The plateau is found as by M. Jonsson, Phys. Rev. E 98, 043304 (2018): n_k (γ_k / σ_k²)²,
    with γ_k the covariance of neighbouring blocks, is χ² distributed once blocks are
    independent. Taken is the level after the first whose sum over all later ones passes, for at
    the first itself the test no longer sees correlations that still count for some 10 %.

    Raises:
        SeriesError: for fewer than 8 values or values that are not finite.
    """
    values = _checked(series, 2 * FEWEST_BLOCKS)
    mean = float(values.mean())
    variances, tests, counts, sizes = [], [], [], []
    level, size = values - mean, 1
    while len(level) >= FEWEST_BLOCKS:
        n, variance = len(level), float(np.mean(level**2))
        # Of each value with the next one: Jonsson's γ, zero once blocks are independent.
        covariance = float(np.sum(level[:-1] * level[1:])) / n
        variances.append(variance / (n - 1))
        tests.append(n * (covariance / variance) ** 2 if variance > 0 else 0.0)
        counts.append(n)
        sizes.append(size)
        # An odd value out is the first one, where a rest of the equilibration would be.
        level = 0.5 * (level[n % 2 :: 2] + level[n % 2 + 1 :: 2])
        size *= 2
    errors = np.sqrt(variances)
    # The sum of the tests of a level and of all coarser ones, and what independent blocks would reach by chance.
    left = np.cumsum(tests[::-1])[::-1]
    limits = chi2.ppf(1 - SIGNIFICANCE, np.arange(len(tests), 0, -1))
    passing = np.flatnonzero(left < limits)
    converged = len(passing) > 0 and counts[passing[0]] >= FEWEST_AT_PLATEAU
    # Without a plateau the largest error is the most cautious estimate.
    chosen = min(int(passing[0]) + 1, len(counts) - 1) if converged else int(np.argmax(errors))
    return BlockedMean(
        mean=mean,
        error=float(errors[chosen]),
        naive_error=float(errors[0]),
        block_size=sizes[chosen],
        converged=converged,
        sizes=np.array(sizes),
        errors=errors,
        errors_of_errors=errors / np.sqrt(2 * (np.array(counts) - 1)),
    )


def statistical_inefficiency(series: np.ndarray) -> float:
    """g = 1 + 2 Σ (1 - t/n) C(t), the normalised autocorrelation C summed up to its first zero; at least 1.

    W. Janke, in Quantum Simulations of Complex Many-Body Systems (2002), eq. 26 on; the cut at the
    first zero is that of J. D. Chodera et al., J. Chem. Theory Comput. 3, 26 (2007).

    Raises:
        SeriesError: for fewer than 4 values or values that are not finite.
    """
    values = _checked(series, 4)
    n = len(values)
    correlation = autocorrelation(values - values.mean())
    if correlation[0] <= 0:
        return 1.0
    correlation = correlation / correlation[0]
    below = np.flatnonzero(correlation <= 0)
    end = int(below[0]) if len(below) else n
    lags = np.arange(1, end)
    return max(1.0, float(1 + 2 * np.sum((1 - lags / n) * correlation[1:end])))


def autocorrelation(values: np.ndarray, n_lags: int | None = None) -> np.ndarray:
    """Σ_i values_i values_(i+t) / (n - t) for t = 0 … n_lags - 1, [n_lags, …] over the first axis of length n.

    The mean is not subtracted. By the Wiener–Khinchin theorem; without ``n_lags``, all n.
    """
    n = len(values)
    n_lags = n if n_lags is None else n_lags
    # Padded with as many zeros, so that the end does not correlate with the beginning; a power of two is fastest.
    size = 2 ** math.ceil(math.log2(2 * n))
    transform = np.fft.rfft(values, size, axis=0)
    product = np.fft.irfft(np.abs(transform) ** 2, size, axis=0)[:n_lags]
    return product / (n - np.arange(n_lags)).reshape(-1, *[1] * (values.ndim - 1))


def detect_equilibration(series: np.ndarray) -> Equilibration:
    """The start that leaves most effectively independent values: it maximises (n - start) / g(start).

    J. D. Chodera, J. Chem. Theory Comput. 12, 1799 (2016).

    Raises:
        SeriesError: for fewer than 8 values or values that are not finite.
    """
    values = _checked(series, 8)
    n = len(values)
    starts = np.unique(np.linspace(0, n - 8, N_STARTS).astype(int))
    candidates = [(int(start), statistical_inefficiency(values[start:])) for start in starts]
    start, inefficiency = max(candidates, key=lambda pair: (n - pair[0]) / pair[1])
    return Equilibration(start, inefficiency, (n - start) / inefficiency, start <= n // 2)


def _checked(series: np.ndarray, fewest: int) -> np.ndarray:
    values = np.asarray(series, dtype=float)
    if values.ndim != 1 or len(values) < fewest:
        raise SeriesError(f"need a series of at least {fewest} values, got shape {values.shape}; run for longer")
    if not np.isfinite(values).all():
        raise SeriesError(f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} values are not finite")
    return values
