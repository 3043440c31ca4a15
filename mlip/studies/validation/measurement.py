"""What a validation measures, with a potential or any other ASE calculator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.dynamics.nve import run_nve
from mlip.properties.compression import Compression, compress_everything, shortest_distances
from mlip.properties.elastic.cubic import elastic_cubic
from mlip.properties.eos import fit_eos
from mlip.properties.equilibrium import at_equilibrium
from mlip.properties.symmetry import PropertyError, lattice_constant
from mlip.seeds import derive_rng
from mlip.structures.geometry import make_supercell
from mlip.structures.labelled import has_label, labelled_energy
from mlip.studies.interface import Subject
from mlip.studies.validation.settings import Settings

CONSTANTS = {"c11": "C11", "c12": "C12", "c44_clamped": "C44 clamped", "c44_relaxed": "C44 relaxed"}
"""Fields of :class:`mlip.properties.elastic.cubic.CubicElasticity` and what they are called."""
SKIPPED = "skipped_"
"""Begins the attributes that say why something could not be measured."""
N_KEPT = 500
"""Samples of the dynamics that are kept."""
N_OFFERED = 32
"""Structures that the acquisition chooses from."""


def measure_everything(subject: Subject, settings: Settings) -> tuple[xr.Dataset, list[Atoms]]:
    """The data of ``property.nc``, and strained structures for the acquisition."""
    subject.progress({"part": "equation of state"})
    energies = [_energy(atoms, subject.calculator) for atoms in subject.references]
    parts = [tabulate_scan(subject.references, energies)]
    crystal = find_crystal(subject, energies)
    subject.progress({"part": "elastic constants"})
    parts.append(tabulate_elasticity(crystal, subject.calculator, settings.strain, settings.fmax))
    subject.progress({"part": "compression"})
    curves = compress_everything(crystal, subject.calculator, shortest_distances(subject.training))
    parts.append(tabulate_compression(curves))
    parts.append(measure_dynamics(crystal, subject, settings))
    data = xr.merge(parts, join="exact", compat="no_conflicts", combine_attrs="no_conflicts")
    return data, offer_structures(crystal, settings, subject.seed)


def _energy(atoms: Atoms, calculator: Any) -> float:
    alone = atoms.copy()
    alone.calc = calculator
    return float(alone.get_potential_energy())


def tabulate_scan(references: Sequence[Atoms], energies: Sequence[float]) -> xr.Dataset:
    """Energy over volume, and what its fit gives: lattice constant (Å) and bulk modulus (GPa), where it has a minimum.

    Args:
        references: a crystal at several volumes; may be empty.
        energies: eV, of each.
    """
    if not references:
        return xr.Dataset(attrs={f"{SKIPPED}equation of state": "the starting structure is not periodic"})
    n, volumes = len(references[0]), [atoms.get_volume() for atoms in references]
    data = xr.Dataset(
        {"energy": ("volume", np.array(energies) / n, {"units": "eV/atom"})},
        coords={"volume": ("volume", np.array(volumes) / n, {"units": "Å³/atom"})},
    )
    try:
        fitted = fit_eos(volumes, energies)
        values = lattice_constant(references[0], fitted.v0), fitted.b0
    except PropertyError as error:
        data.attrs[f"{SKIPPED}equilibrium"], values = str(error), (np.nan, np.nan)
    data["lattice_constant"] = ((), values[0], {"units": "Å"})
    data["bulk_modulus"] = ((), values[1], {"units": "GPa"})
    return data


def find_crystal(subject: Subject, energies: Sequence[float]) -> Atoms:
    """The crystal at the calculator's own equilibrium; at the labels' where it has none, else as it started."""
    labelled = [labelled_energy(atoms) for atoms in subject.references if has_label(atoms, "energy")]
    for known in (energies, labelled):
        try:
            if len(known):
                return at_equilibrium(subject.references, known)
        except PropertyError:
            continue
    return subject.structures[0]


def tabulate_elasticity(crystal: Atoms, calculator: Any, strain: float, fmax: float) -> xr.Dataset:
    """Elastic constants of a cubic crystal (GPa); for others, and without stress, the reason why there are none."""
    try:
        elasticity = elastic_cubic(crystal, calculator, strain=strain, fmax=fmax)
        values: list[float | None] = [getattr(elasticity, name) for name in CONSTANTS]
    except (PropertyError, NotImplementedError) as error:
        reason = str(error) if isinstance(error, PropertyError) else "the calculator gives no stress"
        return xr.Dataset(attrs={f"{SKIPPED}elastic constants": reason})
    known = [np.nan if value is None else value for value in values]
    return xr.Dataset(
        {"constants": ("constant", known, {"units": "GPa"})}, coords={"constant": list(CONSTANTS.values())}
    )


def tabulate_compression(curves: Sequence[Compression]) -> xr.Dataset:
    """Curves of decreasing distance, the shorter ones padded with NaN, each with its deepest hole and weakest push.

    A hole is infinite, and a push minus infinity, where the energy is not finite; a curve without pushes has NaN.
    """
    names = [f"{curve.name}, {curve.distances[0]:.2f} to {curve.distances[-1]:.2f} Å" for curve in curves]
    longest = max(len(curve.distances) for curve in curves)

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values.astype(float), (0, longest - len(values)), constant_values=np.nan)

    pushes = [np.nan if curve.weakest_push is None else curve.weakest_push for curve in curves]
    grid = ("curve", "point")
    return xr.Dataset(
        {
            "distance": (grid, np.array([padded(curve.distances) for curve in curves]), {"units": "Å"}),
            "compression_energy": (grid, np.array([padded(curve.energies) for curve in curves]), {"units": "eV"}),
            "hole": ("curve", [curve.hole for curve in curves], {"units": "eV"}),
            "weakest_push": ("curve", pushes),
            "push_unit": ("curve", [curve.push_unit for curve in curves]),
        },
        coords={"curve": names},
    )


def measure_dynamics(crystal: Atoms, subject: Subject, settings: Settings) -> xr.Dataset:
    """A run at constant energy: total energy and temperature over time, drift (eV/atom), mean and fluctuation.

    NaN stands for what a run that ended early does not have; ``failure`` says why it did.
    """
    run = run_nve(
        make_supercell(crystal, settings.n_atoms),
        subject.calculator,
        temperature=settings.temperature,
        duration=settings.duration,
        timestep=settings.timestep,
        equilibration=settings.equilibration,
        rng=derive_rng(subject.seed, "validate_potential"),
        progress=lambda state: subject.progress({"part": "dynamics"} | state),
    )
    kept = slice(None, None, max(1, len(run.times) // N_KEPT))
    lasted = float(run.times[-1]) if len(run.times) else 0.0
    # A run may be a few steps shorter than asked for, which is no failure.
    missing = settings.duration - lasted if run.failure else 0.0
    mean = np.nan if run.failure else float(run.temperatures.mean())
    numbers: Mapping[str, tuple[float | None, str]] = {
        "missing_time": (missing, "fs"),
        "drift": (run.drift, "eV/atom"),
        "mean_temperature": (mean, "K"),
        "fluctuation_ratio": (run.fluctuation_ratio, "1"),
    }
    data = xr.Dataset(
        {
            "total_energy": ("time", ((run.energies - run.energies[:1]) / run.n_atoms)[kept], {"units": "eV/atom"}),
            "kinetic_temperature": ("time", run.temperatures[kept], {"units": "K"}),
        },
        coords={"time": ("time", run.times[kept], {"units": "fs"})},
        attrs={"n_atoms": run.n_atoms, "failure": run.failure or ""},
    )
    for name, (value, unit) in numbers.items():
        data[name] = ((), np.nan if value is None else value, {"units": unit})
    return data


def offer_structures(crystal: Atoms, settings: Settings, seed: int) -> list[Atoms]:
    """Copies of the crystal, each with a random strain (where it is periodic) and displaced atoms."""
    rng = derive_rng(seed, "validation", "offer")
    structures = []
    for _ in range(N_OFFERED):
        atoms = crystal.copy()
        if atoms.pbc.all():
            change = rng.uniform(-settings.acquire_strain, settings.acquire_strain, (3, 3))
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (change + change.T)), scale_atoms=True)
        atoms.positions += rng.normal(0.0, settings.rattle, (len(atoms), 3))
        structures.append(atoms)
    return structures
