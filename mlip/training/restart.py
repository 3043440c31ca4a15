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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.ace.size import Size
from mlip.potential.atomic_basis import AtomicBasis
from mlip.potential.files import WEIGHTS, load_potential
from mlip.potential.interface import Potential

P = TypeVar("P", bound=Potential)


@dataclass(frozen=True)
class Previous:
    """An earlier potential that training can continue from; ``sha256`` is that of its weights."""

    potential: ACEPotential
    sha256: str

    def merge_basis(self, basis: AtomicBasis) -> AtomicBasis:
        """``basis`` with the earlier shortest distances, of which radial functions are made: weights mean the same."""
        earlier = self.potential.basis
        return replace(basis, shortest=dict(sorted((basis.shortest | earlier.shortest).items())), margin=earlier.margin)

    @torch.no_grad()
    def fill(self, network: CommitteeNetwork, isolated: dict[str, float]) -> None:
        """Copy weights and statistics into ``network``; a change of the isolated atoms' energies is made up for."""
        network.load_state_dict(self.potential.state)
        change = [self.potential.isolated_energies[s] - isolated[s] for s in self.potential.species]
        network.shift.add_(torch.tensor(change, dtype=network.shift.dtype, device=network.shift.device))


def load_previous(folder: Path | None, basis: AtomicBasis, size: Size) -> Previous | None:
    """The potential in ``folder``; None, with a warning, when its elements or its architecture are others."""
    if folder is None:
        return None
    found = load_fitting(folder, ACEPotential, basis.species, lambda potential: _difference(potential, basis, size))
    return Previous(*found) if found is not None else None


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


def _difference(potential: ACEPotential, basis: AtomicBasis, size: Size) -> str:
    """What ``potential`` was made for that is different now, so that its weights do not fit; empty when they do."""
    names = [name for name in ("cutoff", "n_radial", "l_max") if getattr(potential.basis, name) != getattr(basis, name)]
    names += [name for name in vars(size) if getattr(potential.size, name) != getattr(size, name)]
    if names:
        return f"it differs in {', '.join(dict.fromkeys(names))}"
    believed = {pair: potential.basis.margin * distance for pair, distance in potential.basis.shortest.items()}
    nearer = [
        f"{pair} come as near as {distance:.3g} Å, of which it was told down to {believed[pair]:.3g} Å"
        for pair, distance in basis.shortest.items()
        if distance < believed.get(pair, 0.0)
    ]
    # Radial functions begin at the shortest distance: laid out anew, weights would mean something else.
    return "; ".join(nearer)
