"""The perturbed copies of the starting structures with which iteration 0 begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from mlip.config.structures import Prepare, StartingStructure
from mlip.io.extxyz import write_structures
from mlip.seeds import derive_rng
from mlip.structures.geometry import min_distance_ratio, scale_volume
from mlip.structures.starting import StructureError, load_starting_structure, name_source

SHARES = {"volume_scan": 0.2, "strain": 0.3, "rattle": 0.35, "vacancy": 0.15, "swap": 0.15}
"""Relative share of each kind of perturbation in iteration 0, among the kinds that a structure allows.

``swap`` exchanges unlike atoms, so that the order of an alloy varies; it needs a periodic structure
of two elements or more, because in a molecule it would make another molecule.
"""

POOL_FACTOR = 4
"""Random candidates drawn for each structure kept, so that the kept ones can be diverse."""


def prepare_structures(
    sources: Sequence[StartingStructure],
    settings: Prepare,
    *,
    seed: int,
    min_ratio: float,
    out: Path,
    ensembles: Sequence[str] = (),
) -> None:
    """Write iteration 0's candidates: diverse, seeded perturbations of the starting structures.

    Args:
        sources: Starting structures; ``settings.n_structures`` is shared evenly among them.
        settings: Kinds and sizes of the perturbations.
        seed: Seed of the configuration.
        min_ratio: Shortest allowed distance over the sum of covalent radii.
        out: Extended XYZ file written.
        ensembles: Ensembles of the walkers that will start from these structures.

    Raises:
        StructureError: when a starting structure is unusable or they are more than ``n_structures``.
    """
    if settings.n_structures < len(sources):
        raise StructureError(
            f"prepare.n_structures ({settings.n_structures}) must be at least the number of structures ({len(sources)})"
        )
    chosen: list[Atoms] = []
    for index, source in enumerate(sources):
        quota = settings.n_structures // len(sources) + (index < settings.n_structures % len(sources))
        start = load_starting_structure(source)
        _check_explorable(start, name_source(source), ensembles)
        chosen += perturb_structure(start, settings, quota, seed=seed, index=index, min_ratio=min_ratio)
    for number, atoms in enumerate(chosen):
        atoms.info["structure_id"] = f"iter_00-{atoms.info['origin']}-{number:03d}"
        atoms.info.update(iteration=0, reason="initial")
    write_structures(out, chosen)


def _check_explorable(start: Atoms, name: str, ensembles: Sequence[str]) -> None:
    """Refuse, before any label is paid for, what no walker could start from."""
    if len(start) == 1:
        raise StructureError(
            f"{name}: a one-atom periodic cell has no forces to learn from; use repeat: [2, 2, 2]"
            if start.pbc.any()
            else f"{name}: a single atom has no forces to learn from; give a molecule, cluster or crystal"
        )
    npt = [ensemble for ensemble in ensembles if ensemble != "nvt"]
    if npt and not start.pbc.all():
        raise StructureError(
            f"{name}: `{npt[0]}` walkers need a structure that is periodic in three directions; "
            "use `ensemble: nvt` in explore.walkers"
        )


def perturb_structure(
    start: Atoms, settings: Prepare, n_structures: int, *, seed: int, index: int, min_ratio: float
) -> list[Atoms]:
    """``n_structures`` structures: ``start`` as it is (origin ``start``), then perturbations of it.

    Within each kind of perturbation the kept ones are those farthest from one another in a
    structural fingerprint (farthest-point sampling), which removes duplicates too.
    """
    kinds: dict[str, Callable[[Atoms, Prepare, np.random.Generator], Atoms]] = {"strain": _strain, "rattle": _rattle}
    if start.pbc.all():
        kinds = {"volume_scan": _scale, **kinds}
    else:
        kinds.pop("strain")
    if settings.vacancies and len(start) > 1:
        kinds["vacancy"] = _vacancy
    if start.pbc.any() and len(set(start.numbers)) > 1:
        kinds["swap"] = _swap
    first = start.copy()
    first.info = {"origin": "start"}
    chosen = [first]
    total_share = sum(SHARES[kind] for kind in kinds)
    for position, (kind, perturb) in enumerate(kinds.items()):
        share = sum(SHARES[k] for k in list(kinds)[: position + 1]) / total_share
        wanted = max(0, round(share * n_structures) - len(chosen))
        rng = derive_rng(seed, "prepare_structures", index, kind)
        pool = [perturb(start, settings, rng) for _ in range(POOL_FACTOR * wanted)]
        pool = [atoms for atoms in pool if min_distance_ratio(atoms) >= min_ratio]
        for atoms in _farthest(pool, chosen, wanted):
            atoms.info = {"origin": kind}
            chosen.append(atoms)
    return chosen[:n_structures]


def _scale(start: Atoms, settings: Prepare, rng: np.random.Generator) -> Atoms:
    return scale_volume(start, rng.uniform(*settings.volume_range))


def _strain(start: Atoms, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """A random symmetric strain with a small rattle, so that internal relaxation is seen too."""
    strain = rng.uniform(-settings.max_strain, settings.max_strain, (3, 3))
    atoms = start.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    return _displace(atoms, min(settings.rattle), rng)


def _rattle(start: Atoms, settings: Prepare, rng: np.random.Generator) -> Atoms:
    atoms = scale_volume(start, rng.uniform(*settings.volume_range) / 2) if start.pbc.all() else start.copy()
    return _displace(atoms, float(rng.choice(settings.rattle)), rng)


def _vacancy(start: Atoms, settings: Prepare, rng: np.random.Generator) -> Atoms:
    atoms = start.copy()
    del atoms[int(rng.integers(len(atoms)))]
    return _displace(atoms, float(rng.choice(settings.rattle[:2])), rng)


def _swap(start: Atoms, settings: Prepare, rng: np.random.Generator) -> Atoms:
    """One to ``1 + n_atoms // 8`` random pairs of unlike atoms exchanged, with a small rattle."""
    atoms = start.copy()
    for _ in range(int(rng.integers(1, 2 + len(atoms) // 8))):
        one = int(rng.integers(len(atoms)))
        other = int(rng.choice(np.flatnonzero(atoms.numbers != atoms.numbers[one])))
        # Moving the atoms takes their magnetic moments and charges along.
        atoms.positions[[one, other]] = atoms.positions[[other, one]]
    return _displace(atoms, min(settings.rattle), rng)


def _displace(atoms: Atoms, stdev: float, rng: np.random.Generator) -> Atoms:
    atoms.positions += rng.normal(0.0, stdev, atoms.positions.shape)
    return atoms


def fingerprint(atoms: Atoms, cutoff: float = 6.0, width: float = 0.25) -> np.ndarray:
    """Radial fingerprint ``[2 * n_bins + 1]``: smeared counts of pair distances per atom, plus the density.

    Counts of all pairs, then of the unlike ones, so that the order of an alloy shows. Cheap and
    invariant; it only has to tell perturbed copies of one structure apart.
    """
    from vesin import ase_neighbor_list

    centres = np.arange(1.0, cutoff, width)
    i, j, distances = ase_neighbor_list("ijd", atoms, cutoff)
    density = len(atoms) / atoms.get_volume() if atoms.pbc.all() else 0.0
    smeared = np.exp(-0.5 * ((distances[:, None] - centres) / width) ** 2) / distances[:, None] ** 2
    unlike = smeared[atoms.numbers[i] != atoms.numbers[j]]
    return np.concatenate([smeared.sum(axis=0), unlike.sum(axis=0), [density * len(atoms)]]) / len(atoms)


def _farthest(pool: Sequence[Atoms], chosen: Sequence[Atoms], n: int) -> list[Atoms]:
    """Up to ``n`` of ``pool``, each the farthest from all picked before and from ``chosen``."""
    if not pool:
        return []
    features = np.array([fingerprint(atoms) for atoms in pool])
    known = np.array([fingerprint(atoms) for atoms in chosen])
    distance = np.linalg.norm(features[:, None] - known[None], axis=2).min(axis=1)
    picked: list[Atoms] = []
    while len(picked) < n and distance.max() > 1e-6:
        best = int(distance.argmax())
        picked.append(pool[best])
        distance = np.minimum(distance, np.linalg.norm(features - features[best], axis=1))
    return picked
