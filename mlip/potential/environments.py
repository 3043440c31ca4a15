"""Atomic environments as padded dense arrays, ready for batched matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor

from mlip.neighbors import Pairs, find_pairs
from mlip.potential.basis import radial_basis, spherical_harmonics
from mlip.potential.interface import UnknownSpeciesError
from mlip.potential.zbl import inner_radii, outer_radii, repulsion


@dataclass(frozen=True)
class Frame:
    """What the geometry depends on: elements, basis sizes and the shortest distances of the data.

    Attributes:
        species: chemical symbols, sorted.
        cutoff: Å.
        n_radial: radial functions per neighbour species.
        l_max: largest angular momentum.
        shortest: shortest distance (Å) of the training data, per species pair "A-B".
    """

    species: tuple[str, ...]
    cutoff: float
    n_radial: int
    l_max: int
    shortest: dict[str, float]

    def indices(self, atoms: Atoms) -> np.ndarray:
        """Index of each atom's element in ``species``, [n_atoms].

        Raises:
            UnknownSpeciesError: for an element that is not in ``species``.
        """
        table = {symbol: k for k, symbol in enumerate(self.species)}
        symbols = atoms.get_chemical_symbols()
        unknown = sorted(set(symbols) - set(table))
        if unknown:
            raise UnknownSpeciesError(
                f"element(s) {', '.join(unknown)} in {atoms.get_chemical_formula()} are unknown to this potential, "
                f"which knows {', '.join(self.species)}; add labelled structures with them and train again"
            )
        return np.array([table[s] for s in symbols], dtype=np.int64)


@dataclass(frozen=True)
class Environments:
    """Neighbourhoods of N atoms in M slots each; slots of one neighbour species are contiguous.

    Empty slots hold zeros and point at the atom itself.

    Attributes:
        radial, radial_slope: B_n(r) and its derivative, [N, M, n_radial].
        angular: Y_lm, [N, M, LM]; angular_slope: its gradient, [N, M, 3, LM].
        direction: unit vectors, [N, M, 3]; distance: [N, M], Å.
        neighbors: row of each neighbour, [N, M].
        species: element index, [N]; structure: index of the structure, [N].
        pair_energy: repulsion, half of each pair, [N], eV; pair_slope: its derivative, [N, M].
        slots: first slot of each neighbour species, and M.
        groups: first row of each species, and N; rows are sorted by species (``take`` sorts).
        atoms: index of each row's atom in the order given, [N].
    """

    radial: Tensor
    radial_slope: Tensor
    angular: Tensor
    angular_slope: Tensor
    direction: Tensor
    distance: Tensor
    neighbors: Tensor
    species: Tensor
    structure: Tensor
    pair_energy: Tensor
    pair_slope: Tensor
    slots: tuple[int, ...]
    groups: tuple[int, ...]
    atoms: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The array attributes by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Environments:
        """Copy on ``device`` with floating-point arrays in ``dtype``."""

        def move(t: Tensor) -> Tensor:
            return t.to(device=device, dtype=dtype if t.is_floating_point() else t.dtype)

        moved: dict[str, Any] = {name: move(t) for name, t in self.tensors().items()}
        return replace(self, **moved)

    def take(self, rows: Tensor, n_species: int) -> Environments:
        """The environments ``rows`` (whole structures), sorted by species, with neighbours renumbered."""
        rows = rows[torch.argsort(self.species[rows], stable=True)]
        renumbered = torch.full((len(self.species),), -1, dtype=torch.int64, device=rows.device)
        renumbered[rows] = torch.arange(len(rows), device=rows.device)
        taken: dict[str, Any] = {name: t[rows] for name, t in self.tensors().items()}
        taken["neighbors"] = renumbered[taken["neighbors"]]
        counts = torch.bincount(taken["species"], minlength=n_species).tolist()
        return replace(self, **taken, groups=_offsets(counts))

    def renumber_structures(self, position: Tensor) -> Environments:
        """With ``structure`` k replaced by ``position[k]``."""
        return replace(self, structure=position[self.structure])


def build_environments(structures: Sequence[Atoms], frame: Frame, pairs: Sequence[Pairs] | None = None) -> Environments:
    """Environments of all atoms of ``structures`` in float64 on the CPU, sorted by species."""
    pairs = pairs if pairs is not None else [find_pairs(atoms, frame.cutoff) for atoms in structures]
    sizes = [len(atoms) for atoms in structures]
    starts = np.cumsum([0, *sizes[:-1]])
    species = np.concatenate([frame.indices(atoms) for atoms in structures])
    center = np.concatenate([p.centers + s for p, s in zip(pairs, starts, strict=True)])
    neighbor = np.concatenate([p.neighbors + s for p, s in zip(pairs, starts, strict=True)])
    vectors = np.concatenate([p.vectors for p in pairs]).reshape(-1, 3)
    distances = np.concatenate([p.distances for p in pairs])
    slot, slots = _assign_slots(center, species[neighbor], len(species), len(frame.species))
    geometry = _pair_geometry(vectors, distances, species[center], species[neighbor], frame)

    n_rows, n_slots = len(species), slots[-1]
    where = torch.from_numpy(center * n_slots + slot)

    def scatter(values: Tensor) -> Tensor:
        out = values.new_zeros((n_rows * n_slots, *values.shape[1:])).index_copy_(0, where, values)
        return out.view(n_rows, n_slots, *values.shape[1:])

    dense = {name: scatter(values) for name, values in geometry.items()}
    neighbors = torch.arange(n_rows)[:, None].repeat(1, n_slots)
    neighbors.view(-1)[where] = torch.from_numpy(neighbor)
    environments = Environments(
        pair_energy=dense.pop("pair_share").sum(1),
        **dense,
        neighbors=neighbors,
        species=torch.from_numpy(species),
        structure=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        slots=slots,
        groups=(0, n_rows),
        atoms=torch.arange(n_rows),
    )
    return environments if len(frame.species) == 1 else environments.take(torch.arange(n_rows), len(frame.species))


def _assign_slots(
    center: np.ndarray, neighbor_species: np.ndarray, n_rows: int, n_species: int
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Slot [n_pairs] of each pair in its centre's row, and the first slot of each neighbour species."""
    key = center * n_species + neighbor_species
    order = np.argsort(key, kind="stable")
    counts = np.bincount(key, minlength=n_rows * n_species)
    position = np.empty(len(key), dtype=np.int64)
    position[order] = np.arange(len(key)) - np.repeat(np.cumsum(counts) - counts, counts)
    widest = counts.reshape(n_rows, n_species).max(0)
    widest[0] = max(widest[0], 1)  # lone atoms, too, keep an (empty) slot: no array has size zero
    slots = _offsets(widest.tolist())
    return position + np.array(slots)[neighbor_species], slots


def _pair_geometry(
    vectors: np.ndarray, distances: np.ndarray, first: np.ndarray, second: np.ndarray, frame: Frame
) -> dict[str, Tensor]:
    """Basis functions, their derivatives and the repulsion of pairs, each [n_pairs, ...]."""
    r = torch.from_numpy(distances)
    direction = torch.from_numpy(vectors) / r[:, None]
    inner = torch.from_numpy(inner_radii(frame.species, frame.shortest)[first, second])
    outer = torch.from_numpy(outer_radii(frame.species, frame.shortest)[first, second])
    charge = np.array([float(atomic_numbers[s]) for s in frame.species])
    radial, radial_slope = radial_basis(r, inner, frame.cutoff, frame.n_radial)
    angular, angular_slope = spherical_harmonics(direction, frame.l_max)
    energy, slope = repulsion(r, torch.from_numpy(charge[first]), torch.from_numpy(charge[second]), outer)
    return {
        "radial": radial,
        "radial_slope": radial_slope,
        "angular": angular,
        "angular_slope": angular_slope / r[:, None, None],
        "direction": direction,
        "distance": r,
        "pair_share": 0.5 * energy,
        "pair_slope": 0.5 * slope,
    }


def _offsets(counts: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(n) for n in np.cumsum([0, *counts]))
