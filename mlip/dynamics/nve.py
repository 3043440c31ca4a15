"""How a potential behaves where its errors would be seen last: in long dynamics and at short distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from mlip.dynamics.guarded import DynamicsError, advance
from mlip.jobs.progress import Progress


@dataclass(frozen=True)
class Dynamics:
    """A run at constant energy.

    ``times`` [n] fs, ``energies`` [n] eV (total), ``temperatures`` [n] K; ``failure`` says why
    the run ended early, None when it did not.
    """

    n_atoms: int
    times: np.ndarray
    energies: np.ndarray
    temperatures: np.ndarray
    failure: str | None

    @property
    def drift(self) -> float | None:
        """Change of the total energy over the run by a linear fit, eV/atom; None if it ended early."""
        if self.failure is not None or len(self.times) < 3:
            return None
        slope = np.polyfit(self.times - self.times.mean(), self.energies - self.energies.mean(), 1)[0]
        return float(slope * (self.times[-1] - self.times[0])) / self.n_atoms

    @property
    def fluctuation_ratio(self) -> float | None:
        """Fluctuation of the temperature over that of as many harmonic atoms at constant energy.

        There the kinetic energy of f degrees of freedom has the relative variance 1/f, half of the
        canonical 2/f (J. L. Lebowitz, J. K. Percus, L. Verlet, Phys. Rev. 153, 250 (1967), with the
        heat capacity of a harmonic crystal).
        """
        if self.failure is not None or len(self.times) < 3:
            return None
        return float(np.std(self.temperatures) / np.mean(self.temperatures) * math.sqrt(3 * self.n_atoms))


def run_nve(
    atoms: Atoms,
    calculator: Any,
    *,
    temperature: float,
    duration: float,
    timestep: float,
    equilibration: float,
    rng: np.random.Generator,
    sample_every: int = 10,
    progress: Progress | None = None,
) -> Dynamics:
    """Velocity Verlet at constant energy, from a state that Langevin dynamics has equilibrated.

    Args:
        atoms: start, at rest; left as it is.
        calculator: ASE calculator.
        temperature: K, of the equilibration.
        duration: length at constant energy, fs.
        timestep: fs.
        equilibration: length of the Langevin dynamics before it, fs.
        rng: source of velocities and noise.
        sample_every: steps between samples.
        progress: called about a hundred times with ``{"step", "n_steps", "time_fs"}``.
    """
    atoms = atoms.copy()
    atoms.calc = calculator
    # Equipartition: half of the kinetic energy of a crystal at rest flows into its potential energy.
    thermalize_momenta(atoms, temperature_K=2 * temperature, rng=rng)
    Stationary(atoms)
    thermostat = LangevinBAOAB(atoms, timestep * units.fs, temperature_K=temperature, T_tau=100 * units.fs, rng=rng)
    samples: list[tuple[float, float, float]] = []
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    n_samples = max(2, round(duration / timestep / sample_every))
    failure = None
    try:
        advance(thermostat, round(equilibration / timestep), temperature)
        for index in range(n_samples + 1):
            time = index * sample_every * timestep
            samples.append((time, atoms.get_total_energy(), atoms.get_temperature()))
            if progress and index % max(1, n_samples // 100) == 0:
                progress({"step": index * sample_every, "n_steps": n_samples * sample_every, "time_fs": time})
            if index < n_samples:
                advance(dynamics, sample_every, temperature)
    except DynamicsError as error:
        failure = str(error)
    times, energies, temperatures = np.array(samples, float).reshape(-1, 3).T
    return Dynamics(len(atoms), times, energies, temperatures, failure)
