"""How large a network is, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Size:
    """Hyperparameters of the network."""

    n_members: int
    n_species: int
    n_radial: int
    l_max: int
    n_channels: int
    body_order: int
    hidden: tuple[int, ...]
    n_layers: int = 1
    compression: Literal["ratio", "root"] = "ratio"

    @property
    def n_density(self) -> int:
        """Radial functions of all neighbour species."""
        return self.n_species * self.n_radial

    @property
    def powers(self) -> range:
        """Powers nu of the invariants that need the quadrature."""
        return range(3, self.body_order)

    @property
    def n_pairs(self) -> int:
        """Squared invariants of one channel, one for each l."""
        return self.l_max + 1 if self.body_order > 2 else 0

    @property
    def n_invariants(self) -> int:
        """Invariants of one atom and layer."""
        return self.n_channels * (1 + self.n_pairs + len(self.powers))

    @property
    def n_features(self) -> int:
        """Features of one atom, of all layers."""
        return self.n_layers * self.n_invariants

    @property
    def n_last(self) -> int:
        """Weights per species and member in which an atomic energy is linear."""
        return (self.hidden[-1] if self.hidden else self.n_features) + self.n_features
