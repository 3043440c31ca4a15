"""The basis functions in which a potential sees the neighbours of an atom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from mlip.potential.continuation import Continuation
from mlip.potential.interface import check_species


@dataclass(frozen=True)
class AtomicBasis:
    """Parameters of the one-particle basis: elements, cutoff, numbers of functions and where they begin.

    The basis functions are R_n(r) Y_lm(direction) for each neighbour species (R. Drautz, Phys. Rev. B 99,
    014104 (2019)); "frame" is their key in ``potential.json``.

    Attributes:
        species: chemical symbols, sorted.
        cutoff: Å.
        n_radial: radial functions per neighbour species.
        l_max: largest angular momentum.
        shortest: shortest distance (Å) of the training data, per species pair "A-B".
        margin: share of it down to which the network is believed; nearer, the repulsion takes over. Hotter
            MD goes a little nearer than the data: in acetylacetone at 600 K, O-H bonds shrink to 0.96 of the
            shortest at 300 K.
        continuation: the repulsion; None for potentials of earlier versions, which have a switched ZBL.
    """

    species: tuple[str, ...]
    cutoff: float
    n_radial: int
    l_max: int
    shortest: dict[str, float]
    margin: float = 0.92
    continuation: Continuation | None = None

    def indices(self, atoms: Atoms) -> np.ndarray:
        """Index of each atom's element in ``species``, [n_atoms].

        Raises:
            UnknownSpeciesError: for an element that is not in ``species``.
        """
        table = np.full(len(chemical_symbols), -1)
        table[[atomic_numbers[s] for s in self.species]] = np.arange(len(self.species))
        indices = table[atoms.numbers]
        if (indices < 0).any():
            check_species(atoms, self.species)
        return indices
