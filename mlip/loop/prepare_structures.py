"""The perturbed copies of the starting structures with which iteration 0 begins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from mlip.config.structures import Prepare, StartingStructure
from mlip.config.walkers import Demand
from mlip.io.electrons import electronic_state
from mlip.io.extxyz import write_structures
from mlip.seeds import derive_rng
from mlip.structures.allowed import allow_kinds, find_unmet_kinds
from mlip.structures.builders import (
    add_interstitial,
    cut_cluster,
    cut_surface,
    disorder,
    make_dimer,
    place_randomly,
    push_pair,
    take_phase,
)
from mlip.structures.geometry import min_distance_ratio
from mlip.structures.kinds import dissect
from mlip.structures.perturbations import (
    Original,
    displace_mode,
    keeps_molecules,
    rattle,
    remove_atom,
    scale,
    strain,
    swap,
)
from mlip.structures.starting import StructureError, load_starting_structure, name_source
from mlip.structures.walkability import check_walkable

_log = logging.getLogger(__name__)

POOL_FACTOR = 4
"""Random candidates drawn for each structure kept, so that the kept ones can be diverse."""


def prepare_structures(
    sources: Sequence[StartingStructure],
    settings: Prepare,
    *,
    seed: int,
    min_ratio: float,
    out: Path,
    demands: Sequence[Demand] = (),
    compressed: Sequence[int] = (),
) -> None:
    """Write iteration 0's candidates: diverse, seeded perturbations of the starting structures.

    Args:
        sources: Starting structures; ``settings.n_structures`` is shared evenly among them.
        settings: Kinds and sizes of the perturbations.
        seed: Seed of the configuration.
        min_ratio: Shortest allowed distance over the sum of covalent radii.
        out: Extended XYZ file written.
        demands: What the walkers that will start from these structures ask of them.
        compressed: Numbers of those whose equation of state is asked for.

    Raises:
        StructureError: when a starting structure is unusable, they are more than ``n_structures``, or none allows any
            kind that has a weight.
    """
    if 0 < settings.n_structures < len(sources):
        raise StructureError(
            f"prepare.n_structures ({settings.n_structures}) must be at least the number of structures ({len(sources)})"
        )
    chosen: list[Atoms] = []
    phases = _load_phases(sources, settings)
    if settings.n_structures:
        _check_kinds(sources, settings)
    for index, source in enumerate(sources):
        quota = settings.n_structures // len(sources) + (index < settings.n_structures % len(sources))
        start = load_starting_structure(source)
        explored = [demand for demand in demands if demand.source_number == index]
        _check_explorable(start, name_source(source), explored)
        if index in compressed:
            check_compressible(start, name_source(source))
        others = phases if index == 0 else ()
        if quota:  # none where existing data are enough to begin with
            chosen += perturb_structure(
                start, settings, quota, seed=seed, index=index, min_ratio=min_ratio, phases=others
            )
    for number, atoms in enumerate(chosen):
        atoms.info["structure_id"] = f"iter_00-{atoms.info['origin']}-{number:03d}"
        atoms.info.update(iteration=0, reason="initial")
    write_structures(out, chosen)


def _check_kinds(sources: Sequence[StartingStructure], settings: Prepare) -> None:
    """Say which kinds are asked for in vain, and refuse to go on where that is all of them."""
    originals = [Original.of(load_starting_structure(source)) for source in sources]
    unmet = find_unmet_kinds(originals, settings)
    for sentence in unmet:
        _log.warning(sentence)
    if not any(allow_kinds(original, settings, has_phases=bool(settings.phases)) for original in originals):
        wanted = unmet or ["prepare.kinds: none with a weight is possible"]
        raise StructureError(f"no starting structure allows any of the kinds wanted: {'; '.join(wanted)}")


def _check_explorable(start: Atoms, name: str, demands: Sequence[Demand]) -> None:
    """Refuse, before any label is paid for, what no walker could start from."""
    if len(start) == 1:
        raise StructureError(
            f"{name}: a one-atom periodic cell has no forces to learn from; use repeat: [2, 2, 2]"
            if start.pbc.any()
            else f"{name}: a single atom has no forces to learn from; give a molecule, cluster or crystal"
        )
    anatomy = dissect(start)
    for demand in demands:
        check_walkable(start, anatomy, demand, name)


def check_compressible(start: Atoms, name: str) -> None:
    """Refuse, before any label is paid for, an equation of state of what has no volume."""
    kind = dissect(start).kind
    if kind != "bulk":
        raise StructureError(
            f"{name}: a {kind} has no volume to make an equation of state of; set assess: {{eos_volumes: []}}, or"
            " name bulk ones in assess.eos_structures"
        )


def _load_phases(sources: Sequence[StartingStructure], settings: Prepare) -> list[Atoms]:
    """The other phases of the first structure, which must have its composition and be bulk."""
    phases = []
    for source in settings.phases:
        phase, start = load_starting_structure(source), load_starting_structure(sources[0])
        wanted, composition = (atoms.symbols.formula.reduce()[0] for atoms in (start, phase))
        if composition.format("hill") != wanted.format("hill"):
            raise StructureError(f"prepare.phases: {name_source(source)} is {composition}, not {wanted}; leave it out")
        if dissect(phase).kind != "bulk":
            raise StructureError(f"prepare.phases: {name_source(source)} is no bulk; make it a starting structure")
        phases.append(phase)
    return phases


def perturb_structure(
    start: Atoms,
    settings: Prepare,
    n_structures: int,
    *,
    seed: int,
    index: int,
    min_ratio: float,
    phases: Sequence[Atoms] = (),
) -> list[Atoms]:
    """``n_structures`` structures: ``start`` as it is (origin ``start``), then structures of the kinds it allows.

    Within each kind the kept ones are those farthest from one another in a structural fingerprint
    (farthest-point sampling), which removes duplicates too. ``info`` of each says its kind, ``origin``, and the
    number ``index`` of its starting structure, ``source``: energies compare only among those of one source.

    Args:
        start: Starting structure; its fixed atoms stay where they are.
        settings: Kinds, their weights and sizes.
        n_structures: How many are wanted; fewer come back where the guards leave fewer.
        seed: Seed of the configuration.
        index: Number of the starting structure.
        min_ratio: Shortest allowed distance over the sum of covalent radii.
        phases: Other phases of the same composition.
    """
    original = Original.of(start)
    makers = _makers(original, settings, min_ratio, phases)
    first, state = start.copy(), electronic_state(start)
    first.info = state | {"origin": "start", "source": index}
    chosen = [first]
    weights = {kind: getattr(settings.kinds, kind) for kind in makers}
    total = sum(weights.values())
    for position, (kind, make) in enumerate(makers.items()):
        share = sum(weights[k] for k in list(makers)[: position + 1]) / total
        wanted = max(0, round(share * n_structures) - len(chosen))
        rng = derive_rng(seed, "prepare_structures", index, kind)
        pool = [make(rng) for _ in range(POOL_FACTOR * wanted)]
        sane = [atoms for atoms in pool if atoms is not None and _is_sane(atoms, kind, original, min_ratio)]
        for atoms in _farthest(sane, chosen, wanted):
            atoms.info = state | {"origin": kind, "source": index}
            chosen.append(atoms)
    return chosen[:n_structures]


Maker = Callable[[np.random.Generator], Atoms | None]


def _makers(original: Original, settings: Prepare, min_ratio: float, phases: Sequence[Atoms]) -> dict[str, Maker]:
    """What makes each kind that has a weight and that ``original`` allows, in an order that never changes."""
    makers: dict[str, Perturbation] = {
        "volume_scan": scale,
        "strain": strain,
        "rattle": rattle,
        "vacancy": remove_atom,
        "swap": swap,
        "interstitial": add_interstitial,
        "surface": cut_surface,
        "cluster": cut_cluster,
        "close_pair": partial(push_pair, min_ratio=min_ratio),
        "dimer": partial(make_dimer, min_ratio=min_ratio),
        "random": place_randomly,
        "melt": disorder,
        "mode": displace_mode,
        "phase": partial(take_phase, phases=phases),
    }
    allowed = allow_kinds(original, settings, has_phases=len(phases) > 0)
    return {name: partial(make, original, settings) for name, make in makers.items() if name in allowed}


Perturbation = Callable[[Original, Prepare, np.random.Generator], Atoms | None]

NEW_BODIES = ("cluster", "dimer", "phase")
"""Kinds whose structures do not consist of the molecules that their starting structure has."""


def _is_sane(atoms: Atoms, kind: str, original: Original, min_ratio: float) -> bool:
    """Whether no atoms are too near and all molecules of the starting structure are there."""
    if min_distance_ratio(atoms) < min_ratio:
        return False
    molecules = original.anatomy.molecules
    if kind == "vacancy" or not molecules or kind in NEW_BODIES:
        return kind != "vacancy" or not molecules or len(dissect(atoms).molecules) == len(molecules)
    return keeps_molecules(atoms, molecules)


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
