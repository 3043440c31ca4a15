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

from mlip.potential.files import WEIGHTS, load_potential
from mlip.potential.interface import Potential

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
    warnings.warn(f"training does not go on from {folder}: {reason}", stacklevel=3)
    return None
