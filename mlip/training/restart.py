"""Training from the weights of the previous iteration.

The network's buffers (feature statistics, energy scale) stay those of the earlier data: a weight
means the same as before. The end of the schedule is run again, at the lower learning rate that
belongs there. tests/benchmarks/measure_restart.py holds this against training from scratch; when
20 structures join 180 of silicon (mlearn, 3 seeds, 300 steps), 30 % of the steps gave 46.5 meV/Å on
validation data where all of them from scratch gave 47.6, and on test data 78.4 for 79.7, at a coverage
of 0.960 for 0.963 and a rank correlation of uncertainty and error of 0.834 for 0.829: the committee
keeps its diversity, for each structure stays the one that the same member hardly knows.

Geometry is not kept on disk: for 200 of those structures it takes 1.4 CPU-s, 3 % of the 1500 steps of
a full training and 10 % of a short one, and a file of some 200 MB would have to be written and read.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from ase import Atoms

from mlip.potential.files import WEIGHTS, load_potential
from mlip.potential.interface import Potential
from mlip.statistics import deviation, fit_absolute
from mlip.structures.labelled import labelled_energy

NOT_FOLLOWED = "training does not go on from"
"""How the warning begins that an earlier potential does not fit."""
MOST_COMPARED = 32
"""Structures whose labels are held against an earlier potential."""
MOVED, UNEXPLAINED = 0.1, 0.2
"""eV/atom by which, and share of it but for which, labels differ from an earlier potential when their zero moved."""

P = TypeVar("P", bound=Potential)


def load_fitting(
    folder: Path, backend: type[P], species: Sequence[str], difference: Callable[[P], str]
) -> tuple[P, str] | None:
    """The potential in ``folder`` and the SHA-256 of its weights; None, with a warning, when training needs another.

    Args:
        folder: of the earlier potential.
        backend: that it has to have.
        species: that it has to know, no more and no less.
        difference: why its weights do not fit nonetheless; empty when they do.
    """
    try:
        potential = load_potential(folder)
    except ValueError as error:
        reason = str(error)
    else:
        if not isinstance(potential, backend):
            reason = "its backend is another"
        elif potential.species != tuple(species):
            reason = f"it knows {', '.join(potential.species)}, the data hold {', '.join(species)}"
        elif not (reason := difference(potential)):
            return potential, hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()
    warnings.warn(f"{NOT_FOLLOWED} {folder}: {reason}", stacklevel=3)
    return None


def move_zero(potential: Potential, known: dict[str, float], structures: Sequence[Atoms]) -> dict[str, float]:
    """Energies ``known`` of isolated atoms (eV) in ``potential``, moved as far as the labels of ``structures`` have.

    Another functional, pseudopotential or code counts energies from elsewhere. What the potential leaves of the
    labels is then a sum over atoms, by far more than its errors; a warning tells by how much. Else nothing is moved.
    """
    some = structures[:: 1 + (len(structures) - 1) // MOST_COMPARED]
    counts = np.array([[list(atoms.symbols).count(s) for s in potential.species] for atoms in some], dtype=float)
    predictions = potential.predict(some, uncertainty=False)
    rest = np.array([labelled_energy(a) - p.energy for a, p in zip(some, predictions, strict=True)])
    moved = fit_absolute(counts, rest)
    sizes = counts.sum(1)
    typical, left = float(np.median(np.abs(counts @ moved) / sizes)), deviation((rest - counts @ moved) / sizes)
    if typical < MOVED or left > UNEXPLAINED * typical:
        return dict(known)
    told = ", ".join(f"{s} {change:+.4g}" for s, change in zip(potential.species, moved, strict=True))
    warnings.warn(
        f"the labels' zero of energy is not that of the potential that training goes on from (eV an atom: {told}); "
        "its isolated atoms' energies are moved by as much",
        stacklevel=3,
    )
    return {s: known[s] + float(change) for s, change in zip(potential.species, moved, strict=True)}
