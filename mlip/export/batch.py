"""Many systems in one step that decides nothing on the host, so that CUDA can record it once and repeat it.

Evaluating a few thousand atoms takes some three hundred operations. A GPU runs most of them faster than the
host can ask for the next one; a recorded step (a CUDA graph) is asked for at once. It needs the same shapes and
addresses each time: pairs lie in slots, a multiple of :data:`MULTIPLE` per neighbour species, so that a new list
of pairs seldom needs new shapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.edges import sum_forces
from mlip.potential.ace.environments import Slots, arrange_slots, far_away

MULTIPLE = 8
"""Slots per neighbour species come in multiples of it."""
WARM_UP = 3
"""Steps before the recording: libraries set themselves up in them."""
TOLERANCE = 1e-3
"""By how much of the largest value a repeated step may differ from the step: sums on a GPU have no fixed order."""

Evaluated = tuple[Tensor, Tensor, Tensor]
"""Energies [n_systems] (eV), forces [N, 3] (eV/Å), dE/dstrain [n_systems, 3, 3] (eV); float64."""


@dataclass(frozen=True)
class SlotBatch:
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
        earlier: SlotBatch | None = None,
    ) -> SlotBatch:
        """From pairs ``centers``, ``neighbors`` [E], sorted by centre, and ``shifts`` [E, 3].

        ``species`` and ``system`` are [N]. There are no fewer slots than in ``earlier``: what was recorded for that
        then serves this batch as well.
        """
        widths = None if earlier is None else [b - a for a, b in itertools.pairwise(earlier.slots.slots)]
        n_species = len(potential.species)
        slots = arrange_slots(species, centers, neighbors, n_species, system, multiple=MULTIPLE, at_least=widths)
        filled = slots.pad(shifts.new_ones(len(centers)), shifts.new_zeros(())).bool()
        return cls(slots, slots.pad(shifts.double(), shifts.new_zeros(3).double()), filled, n_systems)

    def evaluate(self, potential: ACEPotential, positions: Tensor, cells: Tensor) -> Evaluated:
        """Energies, forces and strain derivatives of the committee's mean.

        Args:
            potential: on the device of the batch.
            positions: [N, 3], Å, in the order of the species given.
            cells: rows are lattice vectors, [n_systems, 3, 3], Å.
        """
        slots, dtype = self.slots, potential.dtype
        placed = positions.double()[slots.atoms]
        vectors = placed[slots.neighbors] - placed[:, None] + torch.bmm(self.shifts, cells.double()[slots.structure])
        vectors = torch.where(self.filled[..., None], vectors, far_away(potential.basis, vectors))
        env = slots.fill(vectors, potential.tables, dtype, traced=True)
        energies, edges, _ = potential.evaluate_environments(env)
        strain = torch.bmm(edges[:, 0].double(), vectors)
        strain = strain.new_zeros(self.n_systems, 3, 3).index_add(0, slots.structure, strain)
        mean = energies.mean(0)
        return (
            mean.new_zeros(self.n_systems).index_add(0, slots.structure, mean),
            torch.zeros_like(placed).index_copy(0, slots.atoms, sum_forces(env, edges)[:, 0].double()),
            0.5 * (strain + strain.mT),
        )

    def tensors(self) -> list[Tensor]:
        """What :meth:`evaluate` reads."""
        return [self.shifts, self.filled, *self._slot_tensors().values()]

    def copy(self) -> SlotBatch:
        """With tensors of its own."""
        copies: dict[str, Any] = {name: value.clone() for name, value in self._slot_tensors().items()}
        return replace(
            self, slots=replace(self.slots, **copies), shifts=self.shifts.clone(), filled=self.filled.clone()
        )

    def _slot_tensors(self) -> dict[str, Tensor]:
        attributes = vars(self.slots).items()
        return {name: value for name, value in attributes if isinstance(value, Tensor) and name != "where"}

    def fits(self, other: SlotBatch) -> bool:
        """Whether a step recorded for this batch serves ``other``, once its tensors are copied."""
        return self.slots.slots == other.slots.slots and self.resembles(other)

    def resembles(self, other: SlotBatch) -> bool:
        """Whether ``other`` has as many systems, and as many atoms of each species."""
        return (self.slots.groups, self.n_systems) == (other.slots.groups, other.n_systems)

    def become(self, other: SlotBatch) -> None:
        """Copy the tensors of ``other``, which fits, into this batch's own."""
        for mine, new in zip(self.tensors(), other.tensors(), strict=True):
            mine.copy_(new)


class RecordedStep:
    """A batch's evaluation as a CUDA graph.

    Raises:
        RuntimeError: where the recording fails, or gives other numbers than the evaluation.
    """

    def __init__(self, potential: ACEPotential, batch: SlotBatch, positions: Tensor, cells: Tensor) -> None:
        self.potential, self.batch = potential, batch.copy()
        self.inputs = (positions.clone(), cells.clone())
        expected = batch.evaluate(potential, positions, cells)
        self.graph, self.outputs = record(self._evaluate, positions.device)
        for output in self.outputs:
            output.fill_(torch.nan)  # else an empty graph would pass
        for repeated, value in zip(self.repeat(positions, cells), expected, strict=True):
            allowed = TOLERANCE * (1.0 + float(value.abs().nan_to_num().max()))
            if not torch.allclose(repeated, value, rtol=0.0, atol=allowed, equal_nan=True):
                raise RuntimeError("the recorded step differs from the step")

    def _evaluate(self) -> Evaluated:
        return self.batch.evaluate(self.potential, *self.inputs)

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
        before, stream = torch.cuda.current_stream(), _side_stream(torch.cuda.current_device())
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step()
        before.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                outputs = step()
        finally:  # a failed recording would leave its stream in place
            torch.cuda.set_stream(before)
    return graph, outputs


@cache
def _side_stream(index: int) -> torch.cuda.Stream:
    """The stream of all recordings on device ``index``: libraries keep memory for every stream they have seen."""
    return torch.cuda.Stream(index)
