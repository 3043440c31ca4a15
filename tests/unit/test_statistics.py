"""Errors of correlated means against series whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from mlip.statistics import (
    SeriesError,
    autocorrelation,
    block_average,
    detect_equilibration,
    fit_absolute,
    statistical_inefficiency,
)


def ar1(phi: float, n: int, seed: int) -> np.ndarray:
    """x_t = phi x_(t-1) + noise, unit variance, stationary from the start."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n) * np.sqrt(1 - phi**2)
    noise[0] = rng.normal()
    return lfilter([1.0], [1.0, -phi], noise)


def exact_error(phi: float, n: int) -> float:
    """Standard error of the mean of n values of a unit-variance AR(1) series, for large n."""
    return np.sqrt((1 + phi) / (1 - phi) / n)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.97])
def test_blocking_finds_the_error_of_ar1(phi: float) -> None:
    n = 1 << 14
    found = [block_average(ar1(phi, n, seed)) for seed in range(24)]
    assert all(result.converged for result in found)
    ratio = np.array([result.error for result in found]) / exact_error(phi, n)
    assert abs(ratio.mean() - 1) < 0.1
    assert ratio.min() > 0.6


def test_naive_error_of_a_correlated_series_is_rejected() -> None:
    phi, n = 0.9, 1 << 13
    result = block_average(ar1(phi, n, 3))
    assert result.naive_error < 0.3 * exact_error(phi, n)
    assert result.error > 3 * result.naive_error
    assert result.block_size > 4
    assert result.inefficiency == pytest.approx(19, rel=0.5)


def test_error_bars_cover_the_true_mean_as_often_as_they_claim() -> None:
    results = [block_average(ar1(0.95, 4000, seed)) for seed in range(400)]
    blocked = np.mean([abs(r.mean) < 2 * r.error for r in results])
    naive = np.mean([abs(r.mean) < 2 * r.naive_error for r in results])
    assert blocked > 0.88
    assert naive < 0.4


def test_a_series_shorter_than_its_memory_is_not_called_converged() -> None:
    drifting = np.linspace(0, 1, 256) + 0.01 * ar1(0.0, 256, 0)
    result = block_average(drifting)
    assert not result.converged
    assert result.error > 3 * result.naive_error


def test_odd_lengths_and_constants() -> None:
    assert block_average(ar1(0.3, 1001, 1)).mean == pytest.approx(ar1(0.3, 1001, 1).mean())
    constant = block_average(np.full(50, 2.5))
    assert (constant.mean, constant.error, constant.inefficiency) == (2.5, 0.0, 1.0)


@pytest.mark.parametrize("phi", [0.0, 0.8, 0.95])
def test_statistical_inefficiency_of_ar1(phi: float) -> None:
    found = [statistical_inefficiency(ar1(phi, 20_000, seed)) for seed in range(10)]
    assert np.mean(found) == pytest.approx((1 + phi) / (1 - phi), rel=0.12)


def test_autocorrelation_is_the_direct_sum() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    direct = [(values[: 40 - t] * values[t:]).mean(0) for t in range(40)]
    np.testing.assert_allclose(autocorrelation(values), direct, atol=1e-12)


def test_equilibration_is_detected_and_not_imagined() -> None:
    stationary = [detect_equilibration(ar1(0.8, 3000, seed)) for seed in range(8)]
    assert np.median([found.start for found in stationary]) < 600
    relaxing = ar1(0.8, 3000, 5) + 20 * np.exp(-np.arange(3000) / 150)
    found = detect_equilibration(relaxing)
    assert 300 < found.start < 1200
    assert found.settled
    assert abs(relaxing[found.start :].mean()) < 0.3 < abs(relaxing.mean())
    assert not detect_equilibration(np.concatenate([np.linspace(9, 0, 900), ar1(0.5, 100, 1)])).settled


@pytest.mark.parametrize("series", [np.zeros(3), np.zeros((4, 4)), np.array([1.0] * 9 + [np.nan])])
def test_unusable_series_are_refused(series: np.ndarray) -> None:
    with pytest.raises(SeriesError):
        block_average(series)


@pytest.mark.parametrize("total", [-5.4, -45054.1])
def test_one_outlier_bends_no_fit_whatever_the_size_of_totals(total):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 33, 60).astype(float)[:, None]
    energies = counts[:, 0] * (total + rng.normal(0, 0.02, 60))
    energies[7] += 500.0
    assert fit_absolute(counts, energies)[0] == pytest.approx(total, abs=0.02)


def test_absolute_fit_of_nothing_is_nothing() -> None:
    """Two sets of labels that agree to the last bit differ by no constant."""
    assert fit_absolute(np.array([[4.0], [8.0], [4.0]]), np.zeros(3)) == pytest.approx(0.0, abs=1e-12)
