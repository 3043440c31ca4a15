"""Atomic environments as padded dense arrays, ready for batched matrix products."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor

from mlip.potential.ace.basis import radial_basis, spherical_harmonics
from mlip.potential.atomic_basis import AtomicBasis
from mlip.potential.continuation import Index, RepulsionTables
from mlip.potential.zbl import inner_radii, outer_radii, pair_name, repulsion, switched_zbl
from mlip.structures.neighbors import Pairs, find_pairs

SHARED = ("radial", "radial_slope", "angular", "angular_slope")
"""Arrays of Environments that a batch may have in common with its data set."""


@dataclass(frozen=True)
class Environments:
    """Neighbourhoods of N atoms in M slots each; slots of one neighbour species are contiguous.

    Empty slots hold zeros and point at the atom itself.

    Attributes:
        radial, radial_slope: B_n(r) and its derivative, [N, n_radial, M].
        angular: Y_lm, [N, LM, M]; angular_slope: gradient of r^l Y_lm at r = 1, [N, 3, LM, M].
        direction: unit vectors, [N, 3, M]; distance: [N, M], Å.
        neighbors: row of each neighbour, [N, M].
        species: element index, [N]; structure: index of the structure, [N].
        pair_energy: repulsion, half of each pair, [N], eV; pair_slope: its derivative, [N, M].
        slots: first slot of each neighbour species, and M.
        groups: first row of each species, and N; rows are sorted by species (``take`` sorts).
        atoms: index of each row's atom in the order given, [N].
        where: place of each pair in the flattened [N, M], [E] in the order of rows; None after ``take``.
        shared: where ``radial``, ``radial_slope``, ``angular`` and ``angular_slope`` are those of a larger set, the row
            of each atom in them, [N].
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
    where: Tensor | None = None
    shared: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The array attributes by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def edge_arrays(self) -> tuple[Tensor, ...]:
        """What derivatives along edges are made of, in the order in which kernels take it."""
        return self.radial, self.radial_slope, self.angular, self.angular_slope, self.direction, self.distance

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Environments:
        """Copy on ``device`` with floating-point arrays in ``dtype``."""

        def move(t: Tensor) -> Tensor:
            return t.to(device=device, dtype=dtype if t.is_floating_point() else t.dtype)

        moved: dict[str, Any] = {name: move(t) for name, t in self.tensors().items()}
        return replace(self, **moved)

    def take(self, rows: Tensor, n_species: int, *, share: bool = False) -> Environments:
        """The environments ``rows`` (whole structures), sorted by species, with neighbours renumbered.

        With ``share`` the basis functions are not copied; only kernels can read those.
        """
        rows = rows[torch.argsort(self.species[rows], stable=True)] if n_species > 1 else rows
        kept = (*SHARED, "where", "shared") if share else ("where", "shared")
        renumbered = torch.full((len(self.species),), -1, dtype=torch.int64, device=rows.device)
        renumbered[rows] = torch.arange(len(rows), device=rows.device)
        taken: dict[str, Any] = {
            name: t.index_select(0, rows) for name, t in self.tensors().items() if name not in kept
        }
        taken |= {"where": None, "shared": rows if share else None}
        taken["neighbors"] = renumbered.index_select(0, taken["neighbors"].view(-1)).view_as(taken["neighbors"])
        counts = torch.bincount(taken["species"], minlength=n_species).tolist()
        return replace(self, **taken, groups=_offsets(counts))

    def renumber_structures(self, position: Tensor) -> Environments:
        """With ``structure`` k replaced by ``position[k]``."""
        return replace(self, structure=position[self.structure])


def build_environments(
    structures: Sequence[Atoms], basis: AtomicBasis, pairs: Sequence[Pairs] | None = None
) -> Environments:
    """Environments of all atoms of ``structures`` in float64 on the CPU, sorted by species."""
    pairs = pairs if pairs is not None else [find_pairs(atoms, basis.cutoff) for atoms in structures]
    sizes = [len(atoms) for atoms in structures]
    starts = np.cumsum([0, *sizes[:-1]])
    species = np.concatenate([basis.indices(atoms) for atoms in structures])
    return arrange_environments(
        torch.from_numpy(species),
        torch.from_numpy(np.concatenate([p.centers + s for p, s in zip(pairs, starts, strict=True)])),
        torch.from_numpy(np.concatenate([p.neighbors + s for p, s in zip(pairs, starts, strict=True)])),
        torch.from_numpy(np.concatenate([p.vectors for p in pairs]).reshape(-1, 3)),
        PairTables.of(basis),
        torch.float64,
        torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
    )


@dataclass(frozen=True)
class PairTables:
    """What depends on a pair of species: radii of clamp and repulsion [S, S] (Å), charges [S].

    With ``terms``, those are the repulsion; without, in potentials of earlier versions, ZBL that fades until ``outer``.
    """

    basis: AtomicBasis
    inner: Tensor
    outer: Tensor
    charge: Tensor
    terms: RepulsionTables | None = None

    @classmethod
    def of(cls, basis: AtomicBasis, device: str | torch.device = "cpu") -> PairTables:
        """Tables of ``basis``'s species in float64."""
        going_on = basis.continuation
        inner = inner_radii(basis.species, basis.shortest, basis.margin)
        if going_on is not None:
            inner = np.array([[going_on.inner[pair_name(a, b)] for b in basis.species] for a in basis.species])
        outer = outer_radii(basis.species, basis.shortest, basis.margin)
        charge = [float(atomic_numbers[s]) for s in basis.species]
        return cls(
            basis,
            torch.tensor(inner, dtype=torch.float64, device=device),
            torch.tensor(outer, dtype=torch.float64, device=device),
            torch.tensor(charge, dtype=torch.float64, device=device),
            None if going_on is None else RepulsionTables.of(going_on, basis.species, device),
        )

    def repel(self, r: Tensor, first: Index, second: Index, *, traced: bool) -> tuple[Tensor, Tensor]:
        """Repulsion (eV) and its slope (eV/Å) of pairs at ``r`` [...] (Å), whose species are ``first`` and ``second``.

        With ``traced`` nothing is decided on the host; else pairs out of reach are skipped.
        """
        if self.terms is not None:
            return (self.terms.evaluate if traced else self.terms.evaluate_near)(r, first, second)
        zbl = switched_zbl if traced else repulsion
        return zbl(r, self.charge[first], self.charge[second], self.outer[first, second])


@dataclass(frozen=True)
class Slots:
    """Which slot of which row holds which pair: what does not change while the same pairs are neighbours.

    Attributes as in :class:`Environments`; ``where`` [E] in the order in which the pairs were given, ``others`` [M]
    the element of each slot's neighbours, None where there is one element.
    """

    neighbors: Tensor
    species: Tensor
    structure: Tensor
    atoms: Tensor
    where: Tensor
    others: Tensor | None
    slots: tuple[int, ...]
    groups: tuple[int, ...]

    def pad(self, values: Tensor, empty: Tensor) -> Tensor:
        """[N, M, ...] from values [E, ...] of the pairs, with ``empty`` [...] in the other slots."""
        padded = empty.expand(self.neighbors.numel(), *empty.shape).clone()
        padded[self.where] = values
        return padded.view(*self.neighbors.shape, *empty.shape)

    def fill(self, vectors: Tensor, tables: PairTables, dtype: torch.dtype, *, traced: bool = False) -> Environments:
        """Environments in ``dtype`` from vectors [N, M, 3], Å; those of empty slots are longer than the cutoff.

        With ``traced`` nothing is decided on the host.
        """
        return Environments(
            **_edge_geometry(vectors, self.species, self.others, tables, dtype, traced),
            neighbors=self.neighbors,
            species=self.species,
            structure=self.structure,
            slots=self.slots,
            groups=self.groups,
            atoms=self.atoms,
            where=self.where,
        )


def arrange_environments(
    species: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    vectors: Tensor,
    tables: PairTables,
    dtype: torch.dtype,
    structure: Tensor | None = None,
    neighbor_species: Tensor | None = None,
) -> Environments:
    """Environments of ``species`` [N] from pairs ``centers``, ``neighbors`` [E], sorted by centre, ``vectors`` [E, 3].

    Species are indices into the basis's. ``neighbor_species`` [E] is given where neighbours are
    not among the N atoms; ``neighbors`` of the result then means nothing. Everything stays on the
    device of ``vectors`` (Å); distances are formed in its precision, what follows in ``dtype``.
    """
    slots = arrange_slots(species, centers, neighbors, len(tables.basis.species), structure, neighbor_species)
    return slots.fill(slots.pad(vectors, far_away(tables.basis, vectors)), tables, dtype)


def far_away(basis: AtomicBasis, like: Tensor) -> Tensor:
    """The vector [3] of empty slots, where every basis function and its slope vanish."""
    vector = like.new_zeros(3)
    vector[:1].fill_(2.0 * basis.cutoff)  # on CUDA, an item assigned would be copied from the host
    return vector


def arrange_slots(
    species: Tensor,
    centers: Tensor,
    neighbors: Tensor,
    n_species: int,
    structure: Tensor | None = None,
    neighbor_species: Tensor | None = None,
    *,
    multiple: int = 1,
    at_least: Sequence[int] | None = None,
) -> Slots:
    """Slots for the pairs of :func:`arrange_environments`.

    Of each neighbour species there are a multiple of ``multiple``, and ``at_least`` those.
    """
    n_rows = len(species)
    others = None if n_species == 1 else species[neighbors] if neighbor_species is None else neighbor_species
    structure = torch.zeros_like(species) if structure is None else structure
    atoms = rank = torch.arange(n_rows, device=species.device)
    order = None
    if others is not None:
        # Rows sorted by species, pairs by row and by the neighbour's species: a pair of species is one block.
        atoms = torch.argsort(species, stable=True)
        rank = torch.empty_like(atoms).index_copy_(0, atoms, rank)
        order = torch.argsort(rank[centers] * n_species + others, stable=True)
        species, structure, others = species[atoms], structure[atoms], others[order]
        centers = rank[centers][order]
    slot, slots = _assign_slots(centers, others, n_rows, n_species, multiple, at_least or [1])
    where = centers * slots[-1] + slot
    # Back to the order in which the caller has the pairs.
    where = where if order is None else torch.empty_like(where).index_copy_(0, order, where)
    partners = torch.arange(n_rows, device=species.device)[:, None].repeat(1, slots[-1])
    if neighbor_species is None:
        partners.view(-1)[where] = rank[neighbors]
    counts = [n_rows] if others is None else torch.bincount(species, minlength=n_species).tolist()
    return Slots(
        neighbors=partners,
        species=species,
        structure=structure,
        atoms=atoms,
        where=where,
        others=None if others is None else _slot_species(slots, species.device),
        slots=slots,
        groups=_offsets(counts),
    )


def _slot_species(slots: tuple[int, ...], device: torch.device) -> Tensor:
    widths = torch.tensor([b - a for a, b in itertools.pairwise(slots)], device=device)
    return torch.repeat_interleave(torch.arange(len(widths), device=device), widths)


def _assign_slots(
    centers: Tensor,
    neighbor_species: Tensor | None,
    n_rows: int,
    n_species: int,
    multiple: int,
    at_least: Sequence[int],
) -> tuple[Tensor, tuple[int, ...]]:
    """Slot [E] of each pair in its centre's row, and the first slot of each neighbour species; pairs are sorted."""
    key = centers if neighbor_species is None else centers * n_species + neighbor_species
    counts = torch.bincount(key, minlength=n_rows * n_species)
    # The number of a pair among those of its row and species: its place in the list less that of the first one.
    first = torch.cumsum(counts, 0) - counts
    position = torch.arange(len(key), device=key.device) - first[key]
    widest = counts.view(n_rows, n_species).amax(0).tolist()
    # Lone atoms, too, keep an (empty) slot: no array has size zero.
    widest = [max(width, least) for width, least in itertools.zip_longest(widest, at_least, fillvalue=0)]
    slots = _offsets([-(-width // multiple) * multiple for width in widest])  # rounded up
    if neighbor_species is not None:
        position = position + torch.tensor(slots, device=key.device)[neighbor_species]
    return position, slots


def _edge_geometry(
    vectors: Tensor,
    species: Tensor,
    others: Tensor | None,
    tables: PairTables,
    dtype: torch.dtype,
    traced: bool,
) -> dict[str, Tensor]:
    """Basis functions, their derivatives and the repulsion of the edges ``vectors`` [N, M, 3]."""
    basis = tables.basis
    first: Index
    second: Index
    exact = torch.sqrt((vectors * vectors).sum(-1))
    if others is not None:
        inner, first, second = tables.inner[species][:, others], species[:, None], others
    else:
        inner, first, second = tables.inner[0, 0], 0, 0
    energy, slope = tables.repel(exact, first, second, traced=traced)
    direction = (vectors / exact[..., None]).to(dtype).permute(0, 2, 1).contiguous()
    r = exact.to(dtype)
    radial, radial_slope = radial_basis(r, inner.to(dtype), basis.cutoff, basis.n_radial)
    angular, angular_slope = spherical_harmonics(direction, basis.l_max)
    return {
        "radial": radial,
        "radial_slope": radial_slope,
        "angular": angular,
        "angular_slope": angular_slope,
        "direction": direction,
        "distance": r,
        "pair_energy": 0.5 * energy.sum(1),
        "pair_slope": 0.5 * slope,
    }


def _offsets(counts: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(n) for n in np.cumsum([0, *counts]))
