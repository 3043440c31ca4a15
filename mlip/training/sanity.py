"""Labels that are wrong by themselves, whatever a model says: magnitudes, placeholders, lone atoms, twins, duplicates.

Without a model; :mod:`mlip.training.consistency` asks these first and then compares labels with one another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list

from mlip.structures.labelled import has_label, labelled_energy, labelled_forces, labelled_stress
from mlip.training.densities import Dataset

GROSS_ENERGY, GROSS_FORCE, GROSS_VIRIAL = 30.0, 1000.0, 100.0
"""eV/atom from the others', eV/Å, and stress times volume in eV/atom: no structure that a potential is for. Matter
at 1 TPa has a virial of some 50 eV/atom; a few kbar, read as eV/Å³, have more than 100."""
DUPLICATE_ENERGY, DUPLICATE_FORCE = 0.02, 0.2
"""Differences (eV/atom, eV/Å) of labels of one geometry that two calculations of one kind never have."""
MIN_PLACEHOLDERS = 5
"""Structures from which a label that no calculation gives is one that was filled in."""
NO_LABEL = 1e-10
"""eV, eV/Å and eV/Å³: what computes does not come this near to zero, or to another structure."""
PULLED, ACTING = 0.01, 0.05
"""Mean of the unit vectors to bonded neighbours from which no symmetry holds an atom in place; and eV/Å."""
REMEDY = "If the data are right nonetheless, set train.consistency to warn"


def check_magnitudes(structures: Sequence[Atoms], data: Dataset, name: str) -> list[str]:
    """Errors about labels that no structure near equilibrium or far from it has."""
    energies = (data.energies / data.sizes).double().cpu().numpy()
    far = np.abs(energies - np.median(energies))
    forces = np.array([float(np.abs(labelled_forces(atoms)).max()) for atoms in structures])
    errors = [
        f"{_name(structures, k, name)} has an energy {far[k]:.4g} eV/atom from the others'"
        for k in np.nonzero(far > GROSS_ENERGY)[0].tolist()
    ]
    errors += [
        f"{_name(structures, k, name)} has a force of {forces[k]:.4g} eV/Å"
        for k in np.nonzero(forces > GROSS_FORCE)[0].tolist()
    ]
    virials = (data.virials.abs().amax((1, 2)) / data.sizes).double().cpu().numpy()
    errors += [
        f"{_name(structures, k, name)} has a stress of {np.abs(labelled_stress(structures[k])).max():.4g} eV/Å³,"
        " as with stresses in GPa, kbar or bar: then convert it to eV/Å³"
        for k in np.nonzero(virials > GROSS_VIRIAL)[0].tolist()
    ]
    return [f"{text}; label it again or remove it" for text in errors[:5]]


def check_placeholders(structures: Sequence[Atoms], name: str) -> list[str]:
    """Errors about labels that were filled in: zero forces or stresses where there are some, one energy for all."""
    forces = np.array([float(np.abs(labelled_forces(atoms)).max()) for atoms in structures])
    idle = [k for k in np.nonzero(forces < NO_LABEL)[0].tolist() if _is_pulled(structures[k])]
    slack = [
        k
        for k in np.nonzero(forces > ACTING)[0].tolist()
        if has_label(structures[k], "stress") and np.abs(labelled_stress(structures[k])).max() < NO_LABEL
    ]
    found = [(idle, "forces of exactly zero though nothing holds their atoms"), (slack, "a stress of exactly zero")]
    found += [(same, "exactly the same energy and different forces") for same in _same_energies(structures, forces)]
    return [
        f"{len(members)} structures ({_name(structures, members[0], name)}, …) have {what}, as with labels that were"
        " filled in; leave out those that were not computed, or label the structures again"
        for members, what in found
        if len(members) >= MIN_PLACEHOLDERS
    ]


def _is_pulled(atoms: Atoms) -> bool:
    """Whether the bonded neighbours of some atom are not around it evenly: its force is not zero by symmetry."""
    reach = np.array(natural_cutoffs(atoms, mult=1.25))
    first, second, distance, vector = neighbor_list("ijdD", atoms, reach)
    # Weights end with the bonds: which of several equal neighbours a rounded cutoff takes must not matter.
    weight = 1.0 - distance / (reach[first] + reach[second])
    pull = np.zeros((len(atoms), 3))
    np.add.at(pull, first, vector * (weight / distance)[:, None])
    total = np.bincount(first, weight, minlength=len(atoms))
    return bool((np.linalg.norm(pull, axis=1) > PULLED * total).any())


def _same_energies(structures: Sequence[Atoms], forces: np.ndarray) -> list[list[int]]:
    """Groups of one formula with one energy, of each largest force [n] (eV/Å) one structure: mirror images agree."""
    groups: dict[tuple[str, float], dict[float, int]] = {}
    for k, atoms in enumerate(structures):
        key = (atoms.get_chemical_formula(), labelled_energy(atoms))
        groups.setdefault(key, {}).setdefault(round(float(forces[k]), 3), k)
    return [list(members.values()) for members in groups.values()]


def check_neighbours(structures: Sequence[Atoms], data: Dataset) -> list[str]:
    """A warning about elements of which training knows nothing but lone atoms."""
    species = sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
    bound = data.environments.species[data.density[:, 0].any(1)].unique().tolist()
    lone = [symbol for index, symbol in enumerate(species) if index not in bound]
    if not lone:
        return []
    return [f"{', '.join(lone)}: lone atoms only: what it does among others is a guess; add structures with neighbours"]


def check_twins(train: Sequence[Atoms], valid: Sequence[Atoms]) -> list[str]:
    """Warnings about validation structures that are training structures, too."""
    known = {_geometry(atoms): k for k, atoms in enumerate(train)}
    twins = [(k, known[key]) for k, atoms in enumerate(valid) if (key := _geometry(atoms)) in known]
    if not twins:
        return []
    k, first = twins[0]
    count = f"{len(twins)} of {len(valid)} validation structures are training structures"
    example = f"{_name(valid, k, 'valid')} is train[{first}]"
    return [f"{count} ({example}): errors and uncertainties look better than they are; leave them out of one of both"]


def check_duplicates(structures: Sequence[Atoms], name: str = "train") -> tuple[list[str], list[str]]:
    """Errors and warnings about structures of one geometry with different labels."""
    errors, warnings, seen = [], [], dict[str, int]()
    for k, atoms in enumerate(structures):
        first = seen.setdefault(_geometry(atoms), k)
        if first == k:
            continue
        energy = abs(labelled_energy(atoms) - labelled_energy(structures[first])) / len(atoms)
        force = float(np.abs(labelled_forces(atoms) - labelled_forces(structures[first])).max())
        text = (
            f"{_name(structures, first, name)} and {_name(structures, k, name)} are one geometry with two labels, "
            f"{1e3 * energy:.3g} meV/atom and up to {1e3 * force:.3g} meV/Å apart"
        )
        if energy > DUPLICATE_ENERGY or force > DUPLICATE_FORCE:
            errors.append(f"{text}; keep the one of your settings")
        elif energy > 0.1 * DUPLICATE_ENERGY or force > 0.1 * DUPLICATE_FORCE:
            warnings.append(text)
    return errors[:3], warnings[:5]


def _geometry(atoms: Atoms) -> str:
    """Digest of everything that decides a label, positions to 1e-4 Å."""
    digest = hashlib.sha256(np.ascontiguousarray(atoms.numbers).tobytes() + atoms.pbc.tobytes())
    for name in ("initial_magmoms", "initial_charges"):
        if name in atoms.arrays:
            digest.update(name.encode() + np.asarray(atoms.arrays[name], dtype=float).round(3).tobytes())
    for key in ("charge", "spin"):
        digest.update(f"{key}={atoms.info.get(key)}".encode())
    for values in (atoms.positions, atoms.cell.array):
        digest.update((np.round(values / 1e-4) + 0.0).tobytes())
    return digest.hexdigest()


def _name(structures: Sequence[Atoms], index: int, name: str) -> str:
    """How a message names a structure: its place in the data, and its id or formula."""
    atoms = structures[index]
    return f"{name}[{index}] ({atoms.info.get('structure_id', atoms.get_chemical_formula())})"
