"""The consistency of labels, asked of structures alone: before anything is trained or paid for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mlip.config.train import Train
from mlip.seeds import derive_rng
from mlip.training.consistency import check_consistency
from mlip.training.data import check_structures, find_atomic_basis, fit_isolated_energies, prepare_pairs, resolve_cutoff
from mlip.training.densities import build_dataset

MOST_ATOMS = 20_000
"""Atoms, all together, of the structures that are judged: their neighbours take about 60 KB each."""


def check_labels(structures: Sequence[Atoms], settings: Train, seed: int = 0) -> list[str]:
    """What a training on ``structures`` alone would say about their labels, as warnings; of many, a sample is judged.

    Args:
        structures: with energies (eV) and forces (eV/Å), and stresses (eV/Å³) where there are any.
        settings: section ``train``; the cutoff and what an inconsistency does (``consistency``) are used.
        seed: of the sample.

    Raises:
        TrainingDataError: for labels of a wrong unit or sign, of mixed settings, or absent ones.
    """
    if settings.consistency == "off" or not structures:
        return []
    check_structures(structures, "data")
    structures = _sample(structures, seed)
    settings = resolve_cutoff(structures, settings, None)
    pairs = prepare_pairs(structures, settings.radius)
    basis = find_atomic_basis(structures, pairs, settings)
    isolated = fit_isolated_energies(structures, basis, None)
    data = build_dataset(structures, pairs, basis, isolated, "cpu")
    return check_consistency(structures, data, len(basis.species), settings.consistency)


def _sample(structures: Sequence[Atoms], seed: int) -> Sequence[Atoms]:
    """``structures``, or as many drawn from them as have ``MOST_ATOMS``, in their order."""
    if sum(map(len, structures)) <= MOST_ATOMS:
        return structures
    order = derive_rng(seed, "check_labels").permutation(len(structures))
    reached = np.cumsum([len(structures[k]) for k in order])
    return [structures[k] for k in sorted(order[: max(1, int(np.searchsorted(reached, MOST_ATOMS)))].tolist())]
