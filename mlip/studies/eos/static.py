"""The static equation of state: Birch–Murnaghan and Vinet fits with confidence intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from ase import Atoms, units
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as student

from mlip.potential import Potential
from mlip.properties.eos import birch_murnaghan, fit_eos
from mlip.properties.symmetry import PropertyError

PARAMETERS = ("E0", "V0", "B0", "B0_prime")
CONFIDENCE = 0.95


def vinet(volume: np.ndarray, e0: float, v0: float, b0: float, b0_prime: float) -> np.ndarray:
    """Energy; P. Vinet et al., J. Phys. C 19, L467 (1986), integrated over the volume."""
    x, eta = np.cbrt(volume / v0), 1.5 * (b0_prime - 1)
    return e0 + 9 * v0 * b0 / eta**2 * (1 - (1 - eta * (1 - x)) * np.exp(eta * (1 - x)))


FITS: dict[str, Callable[..., np.ndarray]] = {"birch_murnaghan": birch_murnaghan, "vinet": vinet}


def fit_static(volumes: np.ndarray, energies: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (:data:`PARAMETERS`: eV, Å³, GPa, 1) and half widths of their 95 % intervals, both [4].

    The intervals are those of least squares with the residuals' own variance and n - 4 degrees of
    freedom; they tell how well the form fits, and know nothing of errors that all points share.

    Args:
        volumes: [n] Å³, at least five different ones with the minimum among them.
        energies: [n] eV.
        form: ``birch_murnaghan`` or ``vinet``.

    Raises:
        PropertyError: for unusable points, or where a fit fails.
    """
    start = fit_eos(volumes, energies)  # also refuses scans without a minimum
    guess = [0.0, start.v0, start.b0 * units.GPa, start.b0_prime if start.b0_prime > 1.5 else 4.0]
    shifted = np.asarray(energies) - start.e0
    scale = np.ptp(shifted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # no covariance: the intervals are infinite then
            values, covariance = curve_fit(
                lambda v, e0, v0, b0, bp: FITS[form](v, e0, v0, b0, bp) / scale, volumes, shifted / scale, guess
            )
    except RuntimeError as error:
        raise PropertyError(f"the {form} fit did not converge: {error}; scan volumes nearer to the minimum") from None
    wide = student.ppf(0.5 + CONFIDENCE / 2, max(len(volumes) - 4, 1))
    factors = np.array([1, 1, 1 / units.GPa, 1])
    return (values + np.array([start.e0, 0, 0, 0])) * factors, wide * np.sqrt(np.diag(covariance)) * factors


def static_table(volumes: Sequence[float], energies: Sequence[float], members: np.ndarray | None = None) -> xr.Dataset:
    """Energies per atom over volumes per atom, both fits, their intervals and the committee's spread.

    Args:
        volumes: [n] Å³/atom.
        energies: [n] eV/atom.
        members: [n, n_members] eV/atom, or None.
    """
    order = np.argsort(volumes)
    v, e = np.asarray(volumes, float)[order], np.asarray(energies, float)[order]
    shape = (len(FITS), len(PARAMETERS))
    values, widths, spreads = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for k, form in enumerate(FITS):
        try:
            values[k], widths[k] = fit_static(v, e, form)
            if members is not None and members.shape[1] > 1:
                of_members = [fit_static(v, column, form)[0] for column in np.asarray(members)[order].T]
                spreads[k] = np.std(of_members, axis=0, ddof=1)
        except PropertyError:
            continue
    about = {"units": "eV, Å³, GPa, 1 (of one atom)", "confidence": CONFIDENCE}
    fit = ("fit", "parameter")
    return xr.Dataset(
        {
            "static_energy": ("volume", e, {"units": "eV/atom"}),
            "static_value": (fit, values, about),
            "static_interval": (fit, widths, about | {"long_name": "half width of the confidence interval"}),
            "static_model_std": (fit, spreads, about),
        },
        coords={
            "volume": ("volume", v, {"units": "Å³/atom"}),
            "fit": list(FITS),
            "parameter": list(PARAMETERS),
        },
    )


def measure_static(references: Sequence[Atoms], calculator: object, potential: Potential | None) -> xr.Dataset:
    """The static curve of the structures in ``references``; an empty data set where there are none."""
    if not references:
        return xr.Dataset()
    n = np.array([len(atoms) for atoms in references])
    volumes = np.array([atoms.get_volume() for atoms in references]) / n
    if potential is not None:
        members = np.array([p.energy_members for p in potential.predict(references)]) / n[:, None]
        return static_table(volumes, members.mean(1), _calibrated(members, potential.calibration.energy_scale))
    energies = []
    for atoms in references:
        copy = atoms.copy()
        copy.calc = calculator
        energies.append(copy.get_potential_energy() / len(copy))
    return static_table(volumes, energies)


def _calibrated(members: np.ndarray, scale: float) -> np.ndarray:
    """Members [n, n_members] with their spread about the mean at the calibrated scale."""
    mean = members.mean(1, keepdims=True)
    return mean + scale * (members - mean)
