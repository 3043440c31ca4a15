"""Can a potential be trusted? Its properties against the labeller's own, and its stability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.dynamics.nve import Dynamics, run_nve
from mlip.io.files import write_atomic, write_json
from mlip.jobs.progress import Progress
from mlip.potential import Potential, load_potential
from mlip.potential.calculator import MLIPCalculator
from mlip.properties.compression import Compression, compress_everything, shortest_distances
from mlip.properties.elastic.cubic import elastic_cubic
from mlip.properties.eos import EquationOfState, fit_eos
from mlip.properties.equilibrium import at_equilibrium
from mlip.properties.symmetry import PropertyError, lattice_constant
from mlip.seeds import derive_rng
from mlip.structures.geometry import make_supercell
from mlip.structures.labelled import labelled_energy
from mlip.studies.validation.figures import draw_validation

LATTICE_LIMIT, BULK_LIMIT, C44_LIMIT = 0.3, 5.0, 15.0  # %
DRIFT_LIMIT = 1.0  # meV/atom over the run
HOLE_LIMIT = 1e-3  # eV
FLUCTUATION_LIMIT = 50.0  # % of the harmonic crystal's
TEMPERATURE_SIGMAS = 4.0  # standard deviations that a canonical start may lie off its mean
POTENTIAL_FMAX = 1e-4  # eV/Å; a potential has no noise that would ask for more
N_SHOWN = 500  # samples of the dynamics kept for the figure


@dataclass(frozen=True)
class NVESettings:
    """Length (fs), time step (fs), temperature (K) and least number of atoms of the NVE run."""

    duration: float = 50_000.0
    timestep: float = 1.0
    temperature: float = 600.0
    equilibration: float = 2_000.0
    n_atoms: int = 64


@dataclass(frozen=True)
class Check:
    """One line of the verdict.

    ``potential`` and ``reference`` are in ``unit``, ``error`` and ``limit`` in ``error_unit``.
    A value that could not be computed is None and does not pass; ``passed`` is None for values
    that are only reported.
    """

    quantity: str
    unit: str
    potential: float | None
    reference: float | None
    error: float | None
    limit: float | None
    error_unit: str
    passed: bool | None


def validate_potential(
    potential: Path,
    structure: Atoms,
    references: Sequence[Atoms],
    training: Sequence[Atoms],
    elasticity: Mapping[str, Any],
    *,
    out: Path,
    nve: NVESettings | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> bool:
    """Write ``validation.json``, ``validation.md`` and ``validation.png`` into ``out``.

    Args:
        potential: folder of the potential.
        structure: starting structure; simulated and compressed where there is no equation of state.
        references: labelled equation of state; empty for systems that are not periodic.
        training: structures that the potential was trained on, for their shortest distances.
        elasticity: what ``mlip.studies.validation.reference.label_elasticity`` wrote.
        out: folder written.
        nve: the run at constant energy; 50 ps at 600 K if None.
        seed: seed of the configuration.
        device: torch device.
        progress: called with ``{"part": ...}`` and, in dynamics, its step.

    Returns:
        Whether every check passed.
    """
    nve = nve or NVESettings()
    tell = progress or (lambda _: None)
    committee = load_potential(potential, device=device)
    calculator = MLIPCalculator(committee)
    tell({"part": "equation of state"})
    checks, crystal, eos = _check_eos(committee, references)
    crystal = structure if crystal is None else crystal
    skipped = {} if references else {"equation of state": "the starting structure is not periodic"}
    tell({"part": "elastic constants"})
    if elasticity["skipped"] is None:
        checks += _check_elasticity(crystal, calculator, elasticity)
    else:
        skipped["elastic constants"] = elasticity["skipped"]
    tell({"part": "compression"})
    curves = compress_everything(crystal, calculator, shortest_distances(training))
    dynamics = _run_dynamics(crystal, calculator, nve, seed, tell)
    checks += _check_dynamics(dynamics, nve) + [check for curve in curves for check in _check_compression(curve)]
    passed = all(check.passed is not False for check in checks)
    result: dict[str, Any] = {
        "passed": passed,
        "checks": [asdict(check) for check in checks],
        "skipped": skipped,
        "nve": asdict(nve) | {"n_atoms": dynamics.n_atoms, "failure": dynamics.failure},
        "reference_elasticity": dict(elasticity),
        "curves": {"eos": eos, "compression": [_curve(c) for c in curves], "nve": _thinned(dynamics)},
    }
    out.mkdir(parents=True, exist_ok=True)
    draw_validation(result["curves"], out / "validation.png")
    write_atomic(out / "validation.md", format_table(checks, skipped))
    write_json(out / "validation.json", result)
    return passed


def format_table(checks: Sequence[Check], skipped: Mapping[str, str]) -> str:
    """The checks as a Markdown table, with the verdict above and what was left out below."""
    failed = sum(check.passed is False for check in checks)
    lines = [
        "**passed**" if not failed else f"**failed**: {failed} of {sum(c.passed is not None for c in checks)} checks",
        "",
        "| quantity | potential | reference | error | limit | passed |",
        "|---|---|---|---|---|---|",
    ]
    verdicts = {True: "yes", False: "**no**", None: ""}
    for check in checks:
        cells = [
            check.quantity,
            _number(check.potential, check.unit),
            _number(check.reference, check.unit),
            _number(check.error, check.error_unit),
            _number(check.limit, check.error_unit),
            verdicts[check.passed],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"Not checked: {name}: {reason}." for name, reason in skipped.items())]
    return "\n".join(lines).rstrip() + "\n"


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.4g} {unit}".rstrip()


def compare(quantity: str, unit: str, potential: float | None, reference: float, limit: float | None) -> Check:
    """Check of a relative error in per cent; without a limit it is only reported."""
    error = None if potential is None else abs(potential - reference) / abs(reference) * 100
    passed = None if limit is None else error is not None and error <= limit
    return Check(quantity, unit, potential, reference, error, limit, "%", passed)


def bound(quantity: str, unit: str, value: float | None, error: float | None, limit: float) -> Check:
    """Check of an absolute ``error``, which a perfect potential would not have."""
    value, error = (None if x is None or not math.isfinite(x) else x for x in (value, error))
    return Check(quantity, unit, value, None, error, limit, unit, error is not None and error <= limit)


def _check_eos(
    potential: Potential, references: Sequence[Atoms]
) -> tuple[list[Check], Atoms | None, dict[str, Any] | None]:
    """Checks, the crystal at the potential's equilibrium where it has one, and both curves."""
    if not references:
        return [], None, None
    volumes = np.array([atoms.get_volume() for atoms in references])
    labelled = np.array([labelled_energy(atoms) for atoms in references])
    predicted = np.array([p.energy for p in potential.predict(references)])
    true = fit_eos(volumes, labelled)
    fitted: EquationOfState | None
    try:
        fitted, crystal = fit_eos(volumes, predicted), at_equilibrium(references, predicted)
    except PropertyError:
        fitted, crystal = None, at_equilibrium(references, labelled)
    a0 = None if fitted is None else lattice_constant(references[0], fitted.v0)
    checks = [
        compare("lattice constant", "Å", a0, lattice_constant(references[0], true.v0), LATTICE_LIMIT),
        compare("bulk modulus", "GPa", None if fitted is None else fitted.b0, true.b0, BULK_LIMIT),
    ]
    n = len(references[0])
    grid = np.linspace(volumes.min(), volumes.max(), 60)
    curves = {
        "volumes": (volumes / n).tolist(),
        "reference": ((labelled - true.e0) / n).tolist(),
        "potential": ((predicted - (predicted.min() if fitted is None else fitted.e0)) / n).tolist(),
        "fit_volumes": (grid / n).tolist(),
        "fit_reference": ((true.energy(grid) - true.e0) / n).tolist(),
        "fit_potential": None if fitted is None else ((fitted.energy(grid) - fitted.e0) / n).tolist(),
    }
    return checks, crystal, curves


def _check_elasticity(crystal: Atoms, calculator: MLIPCalculator, reference: Mapping[str, Any]) -> list[Check]:
    try:
        own = asdict(elastic_cubic(crystal, calculator, strain=reference["strain"], fmax=POTENTIAL_FMAX))
    except PropertyError:
        own = dict.fromkeys(reference)  # atoms that do not relax are a fault of the potential
    limits = {"c11": None, "c12": None, "c44_clamped": C44_LIMIT, "c44_relaxed": C44_LIMIT}
    names = {"c11": "C11", "c12": "C12", "c44_clamped": "C44 clamped", "c44_relaxed": "C44 relaxed"}
    return [compare(names[key], "GPa", own[key], reference[key], limit) for key, limit in limits.items()]


def _run_dynamics(crystal: Atoms, calculator: MLIPCalculator, nve: NVESettings, seed: int, tell: Progress) -> Dynamics:
    return run_nve(
        make_supercell(crystal, nve.n_atoms),
        calculator,
        temperature=nve.temperature,
        duration=nve.duration,
        timestep=nve.timestep,
        equilibration=nve.equilibration,
        rng=derive_rng(seed, "validate_potential"),
        progress=lambda state: tell({"part": "dynamics"} | state),
    )


def _check_dynamics(run: Dynamics, nve: NVESettings) -> list[Check]:
    name = f"NVE, {run.n_atoms} atoms"
    duration = nve.duration / 1000
    lasted = float(run.times[-1]) / 1000 if len(run.times) else 0.0
    mean = None if run.failure else float(run.temperatures.mean())
    ratio = run.fluctuation_ratio
    # The kinetic temperature of an NVE run follows the energy of its start, for which a canonical
    # ensemble of harmonic atoms has the relative standard deviation 1/sqrt(3 n_atoms).
    spread = TEMPERATURE_SIGMAS * 100 / math.sqrt(3 * run.n_atoms)
    drift = None if run.drift is None else run.drift * 1000
    size = None if drift is None else abs(drift)
    survived = Check(f"{name}: stable for", "ps", lasted, duration, duration - lasted, 0.0, "ps", run.failure is None)
    return [
        survived,
        bound(f"{name}: energy drift in {duration:g} ps", "meV/atom", drift, size, DRIFT_LIMIT),
        compare(f"{name}: mean temperature", "K", mean, nve.temperature, spread),
        compare(f"{name}: temperature fluctuation over a harmonic crystal's", "", ratio, 1.0, FLUCTUATION_LIMIT),
    ]


def _check_compression(curve: Compression) -> list[Check]:
    where = f"{curve.name}, {curve.distances[0]:.2f} to {curve.distances[-1]:.2f} Å"
    checks = [bound(f"{where}: deepest hole", "eV", curve.hole, curve.hole, HOLE_LIMIT)]
    push = curve.weakest_push
    if push is not None:
        checks.append(bound(f"{where}: weakest push apart", curve.push_unit, push, max(0.0, -push), 0.0))
    return checks


def _curve(curve: Compression) -> dict[str, Any]:
    def finite(values: np.ndarray) -> list[float | None]:
        return [float(x) if np.isfinite(x) else None for x in values]

    return {
        "name": curve.name,
        "distances": curve.distances.tolist(),
        "energies": finite(curve.energies),
        "pushes": finite(curve.pushes),
        "push_unit": curve.push_unit,
    }


def _thinned(run: Dynamics) -> dict[str, Any]:
    every = max(1, len(run.times) // N_SHOWN)
    kept = slice(None, None, every)
    return {
        "times_fs": run.times[kept].tolist(),
        "energy_per_atom": ((run.energies - run.energies[:1]) / run.n_atoms)[kept].tolist(),
        "temperatures": run.temperatures[kept].tolist(),
    }
