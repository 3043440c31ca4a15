"""Labelled structures, checked and turned into cached geometry and targets."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.config.train import Train
from mlip.io.files import read_json
from mlip.potential.atomic_basis import AtomicBasis
from mlip.potential.files import DESCRIPTION
from mlip.potential.zbl import pair_name
from mlip.statistics import fit_absolute
from mlip.structures.geometry import is_lone
from mlip.structures.labelled import has_label, labelled_energy, labelled_forces, labelled_stress
from mlip.structures.neighbors import Pairs, find_pairs

NOMINAL_COHESION = 3.0
"""Cohesive energy (eV/atom) assumed when no energies of isolated atoms are known."""


NEIGHBOUR_DISTANCES, CUTOFF_RANGE = 2.1, (5.0, 7.0)
"""Of `cutoff: auto`: nearest-neighbour distances, and the least and the largest radius (Å)."""


class TrainingDataError(ValueError):
    """Structures that no potential can be trained on; the message says which and why."""


def check_structures(structures: Sequence[Atoms], name: str, known: set[str] | None = None) -> None:
    """Refuse structures without finite energies and forces, or with elements not in ``known``.

    Raises:
        TrainingDataError: naming the structure.
    """
    for index, atoms in enumerate(structures):
        label = f"{name}[{index}] ({atoms.info.get('structure_id', atoms.get_chemical_formula())})"
        for key, values in (("energy", labelled_energy), ("forces", labelled_forces)):
            if not has_label(atoms, key):
                raise TrainingDataError(
                    f"{label} has no {key}; every structure needs a label (a SinglePointCalculator)"
                    + _similar(atoms, key)
                )
            if not np.isfinite(values(atoms)).all():
                raise TrainingDataError(f"{label}: {key} is NaN or infinite; remove the structure or label it again")
        if len(atoms) == 0:
            raise TrainingDataError(f"{label} has no atoms; remove the structure")
        for key in ("charge", "spin"):
            if not isinstance(atoms.info.get(key, 0) or 0, int | float | np.number):
                raise TrainingDataError(
                    f"{label}: {key}={atoms.info[key]} is not a number; write it as one or remove it"
                )
        unknown = sorted(set(atoms.get_chemical_symbols()) - known) if known is not None else []
        if unknown:
            raise TrainingDataError(
                f"{label} holds {', '.join(unknown)}, which no training structure does; "
                "add training structures with it or leave this structure out"
            )


def _similar(atoms: Atoms, key: str) -> str:
    """Names of what may be meant by ``key``, for a message."""
    stem = key.removesuffix("s")
    names = [name for name in [*atoms.info, *atoms.arrays] if stem in name.lower() and "weight" not in name.lower()]
    return f"; did you mean {', '.join(map(repr, names))}? Call it {key!r}" if names else ""


def find_atomic_basis(structures: Sequence[Atoms], pairs: Sequence[Pairs], settings: Train) -> AtomicBasis:
    """Elements and shortest distances of the training data, with the sizes of ``settings``."""
    species = tuple(sorted({s for atoms in structures for s in atoms.get_chemical_symbols()}))
    shortest: dict[str, float] = {}
    for atoms, listed in zip(structures, pairs, strict=True):
        symbols = np.array(atoms.get_chemical_symbols())
        first, second = symbols[listed.centers], symbols[listed.neighbors]
        for a, b in {pair for pair in zip(first.tolist(), second.tolist(), strict=True) if pair[0] <= pair[1]}:
            distance = float(listed.distances[(first == a) & (second == b)].min())
            shortest[pair_name(a, b)] = min(distance, shortest.get(pair_name(a, b), np.inf))
    return AtomicBasis(species, settings.radius, settings.n_radial, settings.l_max, dict(sorted(shortest.items())))


def resolve_cutoff(structures: Sequence[Atoms], settings: Train, previous: Path | None) -> Train:
    """``settings`` with a number for ``cutoff``: that of ``previous`` where training continues from it."""
    if settings.cutoff != "auto":
        return settings
    if previous is not None and settings.restart == "previous" and (Path(previous) / DESCRIPTION).is_file():
        with contextlib.suppress(ValueError, KeyError):
            earlier = read_json(Path(previous) / DESCRIPTION)["cutoff"]
            return settings.model_copy(update={"cutoff": float(earlier)})
    return settings.model_copy(update={"cutoff": find_cutoff(structures)})


def find_cutoff(structures: Sequence[Atoms]) -> float:
    """NEIGHBOUR_DISTANCES times the median distance of nearest neighbours (Å), within CUTOFF_RANGE, to 0.1 Å.

    Silicon gets 5.0 Å and lithium 6.1 Å: on held-out data forces of silicon were as good at 5.0 as at 5.5,
    those of lithium 30 % better at 6 than at 5.
    """
    nearest = []
    for atoms, pairs in zip(structures, prepare_pairs(structures, CUTOFF_RANGE[0]), strict=True):
        shortest = np.full(len(atoms), np.inf)
        np.minimum.at(shortest, pairs.centers, pairs.distances)
        nearest.append(shortest[np.isfinite(shortest)])
    distances = np.concatenate(nearest) if nearest else np.zeros(0)
    wanted = NEIGHBOUR_DISTANCES * float(np.median(distances)) if distances.size else 0.0
    return round(min(max(wanted, CUTOFF_RANGE[0]), CUTOFF_RANGE[1]), 1)


def composition(structures: Sequence[Atoms], basis: AtomicBasis) -> np.ndarray:
    """Atoms of each species, [n_structures, n_species]."""
    return np.array(
        [np.bincount(basis.indices(atoms), minlength=len(basis.species)) for atoms in structures], dtype=float
    )


def fit_isolated_energies(
    structures: Sequence[Atoms], basis: AtomicBasis, given: dict[str, float] | None
) -> dict[str, float]:
    """Energies of isolated atoms: those ``given``, else labels of lone atoms, else a fit over compositions.

    The fit (least absolute deviations) cannot tell atoms from bonds; ``NOMINAL_COHESION`` is added so that the
    potential at least does not believe that matter evaporates for free.

    Raises:
        TrainingDataError: when ``given`` lacks an element or is not finite.
    """
    if given is not None:
        missing = [s for s in basis.species if not np.isfinite(given.get(s, np.nan))]
        if missing:
            raise TrainingDataError(
                f"no energy of an isolated atom for {', '.join(missing)}; give all elements or none"
            )
        return {s: float(given[s]) for s in basis.species}
    lone = {atoms.symbols[0]: labelled_energy(atoms) for atoms in structures if is_lone(atoms, basis.cutoff)}
    counts, unknown = composition(structures, basis), [s not in lone for s in basis.species]
    measured = counts @ np.array([lone.get(s, 0.0) for s in basis.species])
    energies = np.array([labelled_energy(atoms) for atoms in structures]) - measured
    bound = counts[:, unknown].any(1)
    fitted = np.zeros(len(basis.species))
    if any(unknown):
        fitted[unknown] = fit_absolute(counts[bound][:, unknown], energies[bound]) + NOMINAL_COHESION
    return {s: lone.get(s, float(energy)) for s, energy in zip(basis.species, fitted, strict=True)}


def read_virials(structures: Sequence[Atoms]) -> tuple[Tensor, Tensor]:
    """dE/dstrain [n, 3, 3] (eV), and 1.0 where a stress label exists, else 0.0, [n]."""
    virials, known = torch.zeros(len(structures), 3, 3, dtype=torch.float64), torch.zeros(len(structures))
    for k, atoms in enumerate(structures):
        if atoms.pbc.all() and "stress" in atoms.calc.results:
            stress = labelled_stress(atoms, voigt=False)
            if np.isfinite(stress).all():
                virials[k], known[k] = torch.from_numpy(stress * atoms.get_volume()), 1.0
    return virials, known


def fingerprint(structures: Sequence[Atoms]) -> str:
    """SHA-256 of geometry and labels: a checkpoint continues only on the data it began with."""
    digest = hashlib.sha256()
    for atoms in structures:
        stress = atoms.calc.results.get("stress", np.zeros(0))
        for values in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, labelled_forces(atoms), stress):
            digest.update(np.ascontiguousarray(values).tobytes())
        digest.update(repr(float(labelled_energy(atoms))).encode())
    return digest.hexdigest()


def prepare_pairs(structures: Sequence[Atoms], cutoff: float) -> list[Pairs]:
    """Neighbour pairs of every structure within ``cutoff`` (Å).

    Raises:
        TrainingDataError: naming a structure whose geometry is none.
    """
    pairs = []
    for index, atoms in enumerate(structures):
        try:
            pairs.append(find_pairs(atoms, cutoff))
        except ValueError as error:
            name = atoms.info.get("structure_id", atoms.get_chemical_formula())
            raise TrainingDataError(f"structure {index} ({name}): {error}; remove it") from error
    return pairs
