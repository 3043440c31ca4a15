"""Training of an ACE committee from the weights of the previous iteration: see :mod:`mlip.training.restart`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.ace.size import Size
from mlip.potential.atomic_basis import AtomicBasis
from mlip.training.restart import load_fitting


@dataclass(frozen=True)
class Previous:
    """An earlier potential that training can continue from; ``sha256`` is that of its weights."""

    potential: ACEPotential
    sha256: str

    def merge_basis(self, basis: AtomicBasis) -> AtomicBasis:
        """``basis`` with the earlier distances and repulsion, of which targets are made: weights mean the same.

        What is new are the nearest distances, from which on a continuation is doubted.
        """
        earlier, going_on = self.potential.basis, self.potential.basis.continuation
        if going_on is not None:
            names = sorted(basis.shortest | going_on.nearest)
            known = (basis.shortest, going_on.nearest)
            nearest = {name: min(distances[name] for distances in known if name in distances) for name in names}
            going_on = replace(going_on, nearest=nearest)
        shortest = dict(sorted((basis.shortest | earlier.shortest).items()))
        return replace(basis, shortest=shortest, margin=earlier.margin, continuation=going_on)

    @torch.no_grad()
    def fill(self, network: CommitteeNetwork, zero: dict[str, float], isolated: dict[str, float]) -> None:
        """Copy weights and statistics into ``network``, whose energies count from ``isolated`` in place of ``zero``."""
        network.load_state_dict(self.potential.state)
        change = [zero[s] - isolated[s] for s in self.potential.species]
        network.shift.add_(torch.tensor(change, dtype=network.shift.dtype, device=network.shift.device))


def load_previous(folder: Path | None, basis: AtomicBasis, size: Size) -> Previous | None:
    """The potential in ``folder``; None, with a warning, when its elements or its architecture are others."""
    if folder is None:
        return None
    previous = load_fitting(folder, ACEPotential, basis.species, lambda potential: _difference(potential, basis, size))
    return Previous(*previous) if previous is not None else None


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
