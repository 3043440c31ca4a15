"""From the error of forces to the error of a diffusion coefficient, and back.

Model: an atom moves like a Langevin particle of friction γ, m dv = -mγ v dt + thermal noise, whose
diffusion coefficient is D = kT/(mγ); the error of the forces is a further random force of
standard deviation σ per component. A random force adds to D in proportion to its power at zero
frequency, 2σ²τ, as the thermal noise does with its 2mγkT, so that

    ΔD/D = σ² τ / (mγkT) = σ² τ D / (kT)²,    τ = ∫ ρ(t) dt from 0 to ∞,

with the error's normalised autocorrelation ρ. Errors drawn afresh at each step Δt have τ = Δt/2,
which is the textbook's ΔD/D = σ²Δt/(2mγkT). Forces of a potential are smooth functions of the
positions: their errors last for as long as the surroundings of an atom do, and τ is to be
measured. The model is of second order: it knows errors that are independent of the motion. An error
that goes along with the force, a well too deep by a constant factor, say, changes D in first order and
by far more. That part is not propagated but measured, by dynamics with the members of a committee.

Masses in u, forces in eV/Å, times in fs, temperatures in K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import units
from scipy.signal import lfilter

from mlip.studies.diffusion.transport import DiffusionError, average_autocorrelation

MASS = 1 / units.fs**2
"""eV·fs²/Å² in one u."""


@dataclass(frozen=True)
class Langevin:
    """A Langevin particle: ``mass`` (u), ``temperature`` (K), ``friction`` (1/fs), ``timestep`` (fs)."""

    mass: float
    temperature: float
    friction: float
    timestep: float

    @classmethod
    def of_diffusion(cls, mass: float, temperature: float, diffusion: float, timestep: float) -> Langevin:
        """The particle that diffuses with ``diffusion`` (Å²/fs).

        Raises:
            DiffusionError: when nothing diffuses.
        """
        if not diffusion > 0:
            raise DiffusionError(
                f"a diffusion coefficient of {diffusion:.3g} Å²/fs has no friction; is the system a solid, or too "
                "short a run?"
            )
        return cls(mass, temperature, units.kB * temperature / (mass * MASS * diffusion), timestep)

    @property
    def kt(self) -> float:
        """kT in eV."""
        return float(units.kB * self.temperature)

    @property
    def diffusion(self) -> float:
        """kT/(mγ), Å²/fs."""
        return self.kt / (self.mass * MASS * self.friction)

    def relative_error(self, sigma: float, correlation_time: float | None = None) -> float:
        """ΔD/D by random force errors of ``sigma`` per component.

        Args:
            sigma: standard deviation, eV/Å.
            correlation_time: τ in fs; None for errors that are new at each step (τ = Δt/2).
        """
        tau = self.timestep / 2 if correlation_time is None else correlation_time
        return sigma**2 * tau / (self.mass * MASS * self.friction * self.kt)

    def force_error(self, relative_error: float, correlation_time: float | None = None) -> float:
        """Inverse of :meth:`relative_error`: the σ in eV/Å that gives ``relative_error``."""
        return math.sqrt(relative_error / self.relative_error(1.0, correlation_time))

    def relative_error_discrete(self, sigma: float, persistence: float = 0.0) -> float:
        """ΔD/D in discrete time, exactly.

        The velocity is v' = a v + noise + (Δt/m) ε with a = exp(-γΔt) and ε' = c ε + …, an
        autoregressive error. At zero frequency the power of ε is σ²(1+c)/(1-c), that of the thermal
        noise (kT/m)(1-a²), and both are filtered alike. For c = 0 it is also the change of <v²>.

        Args:
            sigma: standard deviation of ε, eV/Å.
            persistence: c, exp(-Δt/τ) for errors of the correlation time τ.

        Raises:
            DiffusionError: unless 0 <= c < 1.
        """
        if not 0 <= persistence < 1:
            raise DiffusionError(f"the persistence of an error must lie in [0, 1), got {persistence}")
        kick = (sigma * self.timestep / (self.mass * MASS)) ** 2 * (1 + persistence) / (1 - persistence)
        decay = math.exp(-self.friction * self.timestep)
        return kick / (self.kt / (self.mass * MASS) * (1 - decay**2))

    def simulate(
        self, n_particles: int, n_steps: int, rng: np.random.Generator, *, sigma: float = 0.0, persistence: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Velocities in Å/fs, [n_steps, n_particles] of one component, by thermal noise and by the error alone.

        The equation is linear: the sum of the two is the particle's velocity. Thermal noise starts
        in equilibrium, the error's part at rest; leave out the first few 1/γ.
        """
        decay = math.exp(-self.friction * self.timestep)
        spread = math.sqrt(self.kt / (self.mass * MASS))
        noise = rng.normal(0, spread * math.sqrt(1 - decay**2), (n_steps, n_particles))
        noise[0] = rng.normal(0, spread, n_particles)
        thermal = lfilter([1.0], [1.0, -decay], noise, axis=0)
        errors = rng.normal(0, sigma * math.sqrt(1 - persistence**2), (n_steps, n_particles))
        errors[0] = rng.normal(0, sigma, n_particles)
        errors = lfilter([1.0], [1.0, -persistence], errors, axis=0)
        kicks = np.roll(errors, 1, axis=0) * self.timestep / (self.mass * MASS)
        kicks[0] = 0.0
        return thermal, lfilter([1.0], [1.0, -decay], kicks, axis=0)


def correlation_time(errors: np.ndarray, interval: float) -> float:
    """Integrated correlation time of force ``errors`` [n_samples, n_atoms, 3] along a trajectory, fs.

    The trapezium rule up to the first zero of the autocorrelation. Forces of bound atoms have a
    negative part behind it (for the force itself the whole integral is zero), which would only make
    errors look more harmless than they may be. No less than half an interval comes out: errors that
    vary faster are not resolved.

    Args:
        errors: successive samples; differences to reference forces, or of a member to the mean.
        interval: time between them, fs.

    Raises:
        DiffusionError: when there are fewer than four samples, or all errors are zero.
    """
    if len(errors) < 4:
        raise DiffusionError(f"a correlation time needs at least 4 successive samples, got {len(errors)}")
    products = average_autocorrelation(errors, len(errors) // 2)
    if not products[0] > 0:
        raise DiffusionError("all force errors are zero: they have no correlation time")
    normalised = products / products[0]
    negative = np.flatnonzero(normalised <= 0)
    end = int(negative[0]) if len(negative) else len(normalised)
    return float(interval * (normalised[:end].sum() - 0.5))


@dataclass(frozen=True)
class Allowance:
    """The force RMSE per component, eV/Å, that a relative error of D allows.

    Attributes:
        textbook: for errors new at each step.
        correlated: for errors of the measured correlation time.
        force_rms: RMS force itself, the RMSE of a potential without forces.
        target: what to aim at: ``correlated``, but at most ``max_ratio`` of the RMS force.
        correlation_time: fs.
    """

    textbook: float
    correlated: float
    force_rms: float
    target: float
    correlation_time: float

    @property
    def textbook_is_empty(self) -> bool:
        """Whether a potential that predicts no forces at all would pass the textbook's number."""
        return self.textbook >= self.force_rms


def allow_force_error(
    particle: Langevin, relative_error: float, *, correlation_time: float, force_rms: float, max_ratio: float
) -> Allowance:
    """What force RMSE is needed for ``relative_error`` in the diffusion coefficient of ``particle``?"""
    correlated = particle.force_error(relative_error, correlation_time)
    return Allowance(
        textbook=particle.force_error(relative_error),
        correlated=correlated,
        force_rms=force_rms,
        target=min(correlated, max_ratio * force_rms),
        correlation_time=correlation_time,
    )
