"""Many systems in one step that decides nothing on the host, so that CUDA can record it once and repeat it.

Evaluating a few thousand atoms takes some three hundred operations. A GPU runs most of them faster than the
host can ask for the next one; a recorded step (a CUDA graph) is asked for at once. It needs the same shapes and
addresses each time: pairs lie in slots, a multiple of :data:`MULTIPLE` per neighbour species, so that a new list
of pairs seldom needs new shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mlip.potential.committee import ACEPotential
from mlip.potential.edges import sum_forces
from mlip.potential.environments import Slots, arrange_slots, far_away
from mlip.potential.zbl import switched_zbl

MULTIPLE = 8
"""Slots per neighbour species come in multiples of it."""
WARM_UP = 3
"""Steps before the recording: libraries set themselves up in them."""

Evaluated = tuple[Tensor, Tensor, Tensor]
"""Energies [n_systems] (eV), forces [N, 3] (eV/Å), dE/dstrain [n_systems, 3, 3] (eV); float64."""


@dataclass(frozen=True)
class Batch:
    """Pairs of several systems in slots: ``shifts`` [N, M, 3] counts cells, ``filled`` [N, M] tells which hold one."""

    slots: Slots
    shifts: Tensor
    filled: Tensor
    n_systems: int

    @classmethod
    def arrange(
        cls,
        potential: ACEPotential,
        species: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        shifts: Tensor,
        system: Tensor,
        n_systems: int,
        earlier: Batch | None = None,
    ) -> Batch:
        """From pairs ``centers``, ``neighbors`` [E], sorted by centre, and ``shifts`` [E, 3].

        ``species`` and ``system`` are [N]. There are no fewer slots than in ``earlier``: what was recorded for that
        then serves this batch as well.
        """
        widths = None if earlier is None else [b - a for a, b in itertools.pairwise(earlier.slots.slots)]
        n_species = len(potential.species)
        slots = arrange_slots(species, centers, neighbors, n_species, system, multiple=MULTIPLE, at_least=widths)
        filled = slots.pad(shifts.new_ones(len(centers)), shifts.new_zeros(())).bool()
        return cls(slots, slots.pad(shifts, shifts.new_zeros(3)), filled, n_systems)

    def evaluate(self, potential: ACEPotential, positions: Tensor, cells: Tensor) -> Evaluated:
        """Energies, forces and strain derivatives of the committee's mean.

        Args:
            potential: on the device of the batch.
            positions: [N, 3], Å, in the order of the species given.
            cells: rows are lattice vectors, [n_systems, 3, 3], Å.
        """
        slots, dtype = self.slots, potential.dtype
        own = positions[slots.atoms]
        offsets = torch.bmm(self.shifts, cells[slots.structure])
        vectors = (own[slots.neighbors] - own[:, None] + offsets).double()
        vectors = torch.where(self.filled[..., None], vectors, far_away(potential.frame, vectors))
        env = slots.fill(vectors, potential.tables, dtype, switched_zbl)
        energies, edges, _ = potential.evaluate_environments(env)
        strain = torch.bmm(edges[:, 0].double(), vectors)
        strain = strain.new_zeros(self.n_systems, 3, 3).index_add(0, slots.structure, strain)
        mean = energies.mean(0)
        return (
            mean.new_zeros(self.n_systems).index_add(0, slots.structure, mean),
            torch.zeros_like(vectors[:, 0]).index_copy(0, slots.atoms, sum_forces(env, edges)[:, 0].double()),
            0.5 * (strain + strain.mT),
        )

    def tensors(self) -> list[Tensor]:
        """Every tensor of the batch, in a fixed order."""
        own = [getattr(self.slots, field.name) for field in fields(self.slots) if field.name != "where"]
        return [self.shifts, self.filled, *(value for value in own if isinstance(value, Tensor))]

    def fits(self, other: Batch) -> bool:
        """Whether a step recorded for this batch serves ``other``, once its tensors are copied."""
        one, two = self.slots, other.slots
        same = (one.slots, one.groups, self.n_systems) == (two.slots, two.groups, other.n_systems)
        return same and self.shifts.dtype == other.shifts.dtype

    def become(self, other: Batch) -> None:
        """Copy the tensors of ``other``, which fits, into this batch's own."""
        for mine, new in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(new)


class RecordedStep:
    """A batch's evaluation as a CUDA graph.

    Raises:
        RuntimeError: where the recording, or what it gives, is not the evaluation itself.
    """

    def __init__(self, potential: ACEPotential, batch: Batch, positions: Tensor, cells: Tensor) -> None:
        self.batch = batch
        self.inputs = (positions.clone(), cells.clone())
        expected = batch.evaluate(potential, positions, cells)
        self.graph, self.outputs = record(lambda: self.batch.evaluate(potential, *self.inputs), positions.device)
        for found, value in zip(self.repeat(positions, cells), expected, strict=True):
            if not torch.allclose(found, value, rtol=1e-3, atol=1e-3):
                raise RuntimeError("the recorded step differs from the step")

    def repeat(self, positions: Tensor, cells: Tensor) -> Evaluated:
        """The evaluation at other positions and cells."""
        for mine, new in zip(self.inputs, (positions, cells), strict=True):
            mine.copy_(new)
        self.graph.replay()
        energies, forces, strain = self.outputs
        return energies.clone(), forces.clone(), strain.clone()


def record(step: Callable[[], Evaluated], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Sequence[Tensor]]:
    """The operations of ``step`` on ``device`` as a CUDA graph, and the tensors that a replay writes."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = step()
    return graph, outputs
