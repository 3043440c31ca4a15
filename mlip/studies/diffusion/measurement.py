"""What blocks of dynamics say of diffusion, species by species."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms, units

from mlip.potential import Potential, Prediction
from mlip.studies.diffusion.dynamics import Block, DynamicsFailed
from mlip.studies.diffusion.finite_size import MPA_S, Correction, correct_size
from mlip.studies.diffusion.propagation import correlation_time
from mlip.studies.diffusion.settings import Settings
from mlip.studies.diffusion.transport import (
    Curves,
    Diffusion,
    Estimate,
    average_autocorrelation,
    estimate_diffusion,
    estimate_viscosity,
    remove_drift,
    shear_series,
    square_displacement,
)


@dataclass(frozen=True)
class Species:
    """The atoms of one element: ``symbol``, ``indices`` [n], ``mass`` in u."""

    symbol: str
    indices: np.ndarray
    mass: float


def list_species(atoms: Atoms) -> list[Species]:
    """One entry per element, sorted."""
    symbols, masses = np.array(atoms.get_chemical_symbols()), atoms.get_masses()
    indices_of = [(s, np.flatnonzero(symbols == s)) for s in sorted(set(symbols))]
    return [Species(s, indices, float(masses[indices].mean())) for s, indices in indices_of]


@dataclass
class Transport:
    """Correlation functions and averages gathered from blocks.

    Attributes:
        atoms: the simulated system.
        species: its elements.
        interval: fs between samples.
        vacf, msd: per species, a row per block.
        shear: autocorrelation of the shear stress, a row per block; empty without stresses.
        temperatures: K, of each block.
        drifts: of the total energy, eV/atom, of each block.
        squared_forces: per species, mean square of a force component in each block, (eV/Å)².
        force_times: per species, correlation time of the force itself in each block, fs.
        frames: structures kept, evenly over the blocks.
        consecutive: successive structures of the first block, for the error's correlation time.
        failure: why dynamics ended early, None when it did not.
    """

    atoms: Atoms
    species: Sequence[Species]
    interval: float
    vacf: list[list[np.ndarray]]
    msd: list[list[np.ndarray]]
    squared_forces: list[list[float]]
    force_times: list[list[float]]
    shear: list[np.ndarray] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)
    frames: list[Atoms] = field(default_factory=list)
    consecutive: list[Atoms] = field(default_factory=list)
    failure: str | None = None

    @property
    def temperature(self) -> float:
        """Mean over the blocks, K."""
        return float(np.mean(self.temperatures))

    def curves(self, k: int) -> Curves:
        """Correlation functions of species ``k``."""
        return Curves(self.interval, np.array(self.vacf[k]), np.array(self.msd[k]))

    def diffusion(self, k: int, window: float | None = None) -> Diffusion:
        """Both estimates for species ``k``."""
        return estimate_diffusion(self.curves(k), window)

    def viscosity(self) -> tuple[Estimate, bool]:
        """Viscosity in mPa·s from the stress, and whether the stress had decayed."""
        kt = units.kB * self.temperature
        estimate, _, decayed = estimate_viscosity(
            np.array(self.shear), self.interval, volume=self.atoms.get_volume(), kt=kt
        )
        return Estimate(estimate.blocks / MPA_S), decayed


def gather(atoms: Atoms, blocks: Iterable[Block], settings: Settings) -> Transport:
    """Reduce ``blocks`` of ``atoms`` to what is kept of them.

    Blocks are reduced one by one as they come: only one is held. Dynamics that comes apart ends the
    list, and ``failure`` says so.
    """
    species = list_species(atoms)
    n = range(len(species))
    transport = Transport(
        atoms, species, settings.timestep * settings.sample_every,
        [[] for _ in n], [[] for _ in n], [[] for _ in n], [[] for _ in n],
    )  # fmt: skip
    masses = atoms.get_masses()
    for number, block in enumerate(_until_failure(blocks, transport)):
        n_lags = (len(block.positions) + 1) // 2  # up to half the block
        positions, velocities = remove_drift(block.positions, masses), remove_drift(block.velocities, masses)
        for k, kind in enumerate(species):
            forces = block.forces[:, kind.indices]
            transport.vacf[k].append(average_autocorrelation(velocities[:, kind.indices], n_lags))
            transport.msd[k].append(square_displacement(positions[:, kind.indices], n_lags))
            transport.squared_forces[k].append(float((forces**2).mean()))
            transport.force_times[k].append(correlation_time(forces, transport.interval) if forces.any() else math.nan)
        if block.stresses is not None:
            transport.shear.append(average_autocorrelation(shear_series(block.stresses), n_lags))
        transport.temperatures.append(block.temperature)
        transport.drifts.append(block.drift)
        _keep_frames(transport, block, number, settings)
    return transport


def _until_failure(blocks: Iterable[Block], transport: Transport) -> Iterator[Block]:
    try:
        yield from blocks
    except DynamicsFailed as error:
        transport.failure = str(error)


def _keep_frames(transport: Transport, block: Block, number: int, settings: Settings) -> None:
    n_samples, before = len(block.positions), len(transport.frames)
    wanted = round(settings.n_frames * (number + 1) / settings.n_blocks) - before
    for k in np.unique(np.linspace(0, n_samples - 1, wanted + 1).round().astype(int)[1:]) if wanted > 0 else ():
        frame = _at(transport.atoms, block.positions[k])
        frame.info = {
            "structure_id": f"diffusion-{number:03d}-{k:05d}",
            "block": number,
            "time_fs": k * transport.interval,
        }
        transport.frames.append(frame)
    if number == 0:
        transport.consecutive = [_at(transport.atoms, x) for x in block.positions[: settings.n_error_samples]]


def _at(atoms: Atoms, positions: np.ndarray) -> Atoms:
    moved = atoms.copy()
    moved.positions = positions
    return moved


@dataclass(frozen=True)
class ErrorTime:
    """Correlation time of a species' force error: ``value`` fs, and how it was measured."""

    value: float
    source: str


@dataclass(frozen=True)
class ErrorStatistics:
    """What a trajectory says of the force error, per species.

    Attributes:
        times: correlation times.
        uncertainty: RMS of the calibrated uncertainty over the frames of all blocks, [n_species], eV/Å per
            component; None without one.
        calibration: calibrated uncertainty over the members' raw spread, [n_species]; None without a committee.
    """

    times: Sequence[ErrorTime]
    uncertainty: np.ndarray | None = None
    calibration: np.ndarray | None = None


def measure_errors(transport: Transport, potential: Potential | None) -> ErrorStatistics:
    """Correlation time and size of the force error along the trajectory.

    The time is that of the deviations of a committee's members from their mean on successive samples of the
    first block. Without a committee the force itself stands in: an error is a function of the same surroundings and
    does not outlast them by much.
    """
    forces = [ErrorTime(float(np.nanmean(times)), "the force itself") for times in transport.force_times]
    if potential is None or not transport.consecutive:
        return ErrorStatistics(forces)
    predictions = potential.predict(transport.consecutive)
    rms = _rms_std(potential.predict(transport.frames), transport.species)
    members = np.array([p.forces_members for p in predictions])  # [samples, members, atoms, 3]
    if members.shape[1] < 2:
        return ErrorStatistics(forces, rms)
    deviations = members - members.mean(1, keepdims=True)
    times, raw = [], []
    for kind in transport.species:
        of_species = deviations[:, :, kind.indices]
        raw.append(math.sqrt((of_species**2).sum(1).mean() / (members.shape[1] - 1)))
        time = correlation_time(of_species.reshape(len(members), -1, 3), transport.interval)
        times.append(ErrorTime(time, "deviations of the committee's members"))
    return ErrorStatistics(times, rms, _rms_std(predictions, transport.species) / np.array(raw))


def _rms_std(predictions: Sequence[Prediction], species: Sequence[Species]) -> np.ndarray:
    """RMS of the calibrated uncertainty of a force component, [n_species], eV/Å."""
    std = np.array([p.forces_std for p in predictions])
    return np.array([math.sqrt((std[:, kind.indices] ** 2).mean()) for kind in species])


def size_correction(transport: Transport, settings: Settings) -> Correction:
    """Finite-size correction of every species' diffusion coefficient, as ``settings.viscosity`` asks."""
    kt = units.kB * transport.temperature
    if settings.viscosity is None:
        return Correction(None, 0.0, None, 0.0, "none: no viscosity was given (studies.diffusion.viscosity)")
    if settings.viscosity == "stress":
        viscosity, decayed = transport.viscosity()
        source = "stress autocorrelation of the same runs" + ("" if decayed else ", which had not decayed")
        return correct_size(transport.atoms, kt, viscosity.value, viscosity.error, source)
    return correct_size(transport.atoms, kt, settings.viscosity, 0.0, "given in the configuration")


@dataclass(frozen=True)
class ModelError:
    """Spread of a diffusion coefficient over the members of a committee, Å²/fs.

    Attributes:
        value: standard deviation, the statistical part taken off; zero where it is not resolved.
        noise: statistical part, below which no model error can be told from none.
    """

    value: float
    noise: float

    @property
    def bound(self) -> float:
        """What may be claimed: the larger of the two."""
        return max(self.value, self.noise)


def compare_members(members: Sequence[Estimate], calibration: float = 1.0) -> ModelError:
    """The spread of ``members`` without their statistical errors.

    The variance of the members' values is that of their true values plus the square of the statistical
    error of each.

    Args:
        members: one estimate each, at least two.
        calibration: calibrated over raw force uncertainty, for D changes in proportion to the forces' error.
    """
    total = float(np.var([m.value for m in members], ddof=1))
    noise = float(np.mean([m.error**2 for m in members]))
    return ModelError(calibration * math.sqrt(max(0.0, total - noise)), math.sqrt(noise))
