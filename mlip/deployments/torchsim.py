"""A potential as a TorchSim model: many systems in one batch, on CPU or GPU.

    import torch_sim as ts
    from mlip.deployments.torchsim import load_torchsim_model
    model = load_torchsim_model("potential", device="cuda", dtype=torch.float32)
    final = ts.integrate(systems, model, integrator=ts.nvt_langevin, n_steps=1000, temperature=600, timestep=0.002)

TorchSim's units are ours (eV, Å, eV/Å³; its time step is in ps).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.neighbors import torch_nl_n2
from torch_sim.state import SimState
from vesin import NeighborList

from mlip.deployments.batch import Batch, Evaluated, RecordedStep
from mlip.deployments.pairs import place
from mlip.potential import Potential, load_potential
from mlip.potential.committee import CHUNK_ROWS
from mlip.potential.interface import check_species
from mlip.potential.pairs import PairList, sum_forces, sum_strain

SMALL_SYSTEM = 300
"""Atoms per system up to which a GPU compares all pairs instead of asking vesin on the CPU."""


@dataclass(frozen=True)
class BatchPairs:
    """Pairs of a batch within cutoff plus skin, sorted by centre, and the state that they were found for."""

    centers: Tensor
    neighbors: Tensor
    shifts: Tensor
    positions: Tensor
    cell: Tensor
    atomic_numbers: Tensor
    system_idx: Tensor
    pbc: bool

    def holds(self, state: SimState, skin: float) -> bool:
        """Whether no pair can have come within the cutoff since."""
        if self.pbc != state.pbc or self.positions.shape != state.positions.shape:
            return False
        same = (self.system_idx == state.system_idx).all() & (self.atomic_numbers == state.atomic_numbers).all()
        moved = (state.positions - self.positions).square().sum(1).amax() > (0.5 * skin) ** 2
        # One transfer from the device decides.
        return self.cell.shape == state.cell.shape and bool(same & ~moved & (self.cell == state.cell).all())

    def vectors(self, state: SimState) -> Tensor:
        """r_neighbor - r_center [E, 3], Å, at the state's positions."""
        cells = state.row_vector_cell[state.system_idx[self.centers]]
        offset = torch.bmm(self.shifts[:, None], cells)[:, 0]
        return state.positions[self.neighbors] - state.positions[self.centers] + offset


class TorchSimModel(ModelInterface):
    """Energies [n_systems] (eV), forces [n_atoms, 3] (eV/Å) and stresses [n_systems, 3, 3] (eV/Å³) of a batch.

    The committee's mean; stresses of systems without periodicity are NaN. The pair list is
    kept until an atom has moved by half the ``skin`` or the cell or composition changes. On CUDA, batches of up to
    32 768 atoms are evaluated by a recorded step (:mod:`mlip.deployments.batch`).

    Args:
        potential: a trained ACE committee.
        device: torch device of the simulation.
        dtype: of the simulation: float64, or float32 on GPUs.
        skin: Å beyond the cutoff; 0 finds the pairs anew at every step.
        record: whether to record steps on CUDA.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float64,
        skin: float = 0.5,
        record: bool = True,
    ) -> None:
        super().__init__()
        if not skin >= 0:
            raise ValueError(f"skin is {skin} Å; it must not be negative")
        self._device, self._dtype, self.skin = torch.device(device), dtype, float(skin)
        self._compute_forces, self._compute_stress = True, True
        self._memory_scales_with = "n_atoms_x_density"
        self.potential = place(potential, device, dtype)
        table = torch.full((len(chemical_symbols),), -1)
        for k, symbol in enumerate(potential.species):
            table[atomic_numbers[symbol]] = k
        self.register_buffer("species_index", table.to(self._device))
        self._pairs: BatchPairs | None = None
        self.record = record and self._device.type == "cuda"
        self._step: RecordedStep | None = None

    @property
    def compute_forces(self) -> bool:
        """Whether the output holds forces."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, value: bool) -> None:
        self._compute_forces = bool(value)

    @property
    def compute_stress(self) -> bool:
        """Whether the output holds stresses."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        self._compute_stress = bool(value)

    def forward(self, state: SimState | dict[str, Any], **_: Any) -> dict[str, Tensor]:
        """Evaluate all systems of ``state``.

        Raises:
            UnknownSpeciesError: for an element that the potential was not trained on.
        """
        if isinstance(state, dict):
            state = SimState(masses=torch.ones_like(state["positions"][:, 0]), **state)
        renewed = self._pairs is None or not self._pairs.holds(state, self.skin)
        if self._pairs is None or renewed:
            self._check_species(state)
            self._pairs = find_batch_pairs(state, self.potential.cutoff + self.skin)
        recorded = self._repeat(state, self._pairs, renewed) if self._can_record(state) else None
        energy, forces, strain = recorded or self._evaluate(state, self._pairs)
        output = {"energy": energy}
        if self.compute_forces:
            output["forces"] = forces
        if self.compute_stress:
            volume = torch.linalg.det(state.cell).abs() if state.pbc else torch.full_like(energy, torch.nan)
            output["stress"] = strain / volume[:, None, None]
        return {name: value.to(self.dtype) for name, value in output.items()}

    def _can_record(self, state: SimState) -> bool:
        return self.record and len(state.positions) <= CHUNK_ROWS["gpu"]

    def _evaluate(self, state: SimState, pairs: BatchPairs) -> Evaluated:
        """Pair by pair, some rows at a time."""
        species, n_systems = self._species(state), state.cell.shape[0]
        edges = pairs.vectors(state).double()
        found = self.potential.evaluate_pairs(species, pairs.centers, pairs.neighbors, edges)
        listed = PairList(species, pairs.centers, pairs.neighbors, edges, state.system_idx, n_systems)
        atomic = found.energies.mean(0)
        energy = atomic.new_zeros(n_systems).index_add(0, state.system_idx, atomic)
        return energy, sum_forces(listed, found.gradients)[:, 0], sum_strain(listed, found.gradients[:, 0])

    def _repeat(self, state: SimState, pairs: BatchPairs, renewed: bool) -> Evaluated | None:
        """The recorded step, recorded anew where the pairs no longer fit it; None where it cannot be recorded."""
        if renewed or self._step is None:
            batch = self.arrange(state, pairs, None if self._step is None else self._step.batch)
            if self._step is not None and self._step.batch.fits(batch):
                self._step.batch.become(batch)
            else:
                self._step = None  # its memory is free before the next one is recorded
                try:
                    self._step = RecordedStep(self.potential, batch, state.positions, state.row_vector_cell)
                except RuntimeError as error:
                    warnings.warn(f"steps are not recorded, which makes them slower: {error}", stacklevel=2)
                    self.record = False
                    return None
        return self._step.repeat(state.positions, state.row_vector_cell)

    def arrange(self, state: SimState, pairs: BatchPairs, earlier: Batch | None = None) -> Batch:
        """``pairs`` of ``state`` in slots, as many as in ``earlier`` where they suffice."""
        return Batch.arrange(
            self.potential,
            self._species(state),
            pairs.centers,
            pairs.neighbors,
            pairs.shifts,
            state.system_idx,
            state.cell.shape[0],
            earlier,
        )

    def _species(self, state: SimState) -> Tensor:
        species: Tensor = self.get_buffer("species_index")[state.atomic_numbers]
        return species

    def _check_species(self, state: SimState) -> None:
        unknown = self.get_buffer("species_index")[state.atomic_numbers] < 0
        if bool(unknown.any()):
            symbols = {chemical_symbols[int(z)] for z in state.atomic_numbers[unknown].unique()}
            check_species(symbols, self.potential.species)


def find_batch_pairs(state: SimState, cutoff: float) -> BatchPairs:
    """Pairs of every system of ``state`` within ``cutoff`` (Å), each in both directions."""
    counts = state.system_idx.bincount(minlength=state.cell.shape[0])
    if state.device.type != "cpu" and int(counts.max()) <= SMALL_SYSTEM:
        centers, neighbors, shifts = _compare_all_pairs(state, cutoff)
    else:
        centers, neighbors, shifts = _ask_vesin(state, counts.tolist(), cutoff)
    return BatchPairs(
        centers=centers,
        neighbors=neighbors,
        shifts=shifts.to(state.dtype),
        positions=state.positions.clone(),
        cell=state.cell.clone(),
        atomic_numbers=state.atomic_numbers.clone(),
        system_idx=state.system_idx.clone(),
        pbc=state.pbc,
    )


def _ask_vesin(state: SimState, counts: list[int], cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centres [E], neighbours [E] and cell shifts [E, 3], system by system on the CPU."""
    # TorchSim 0.3's own wrapper passes the cutoff by position, which vesin no longer takes.
    finder = NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    positions, cells = state.positions.detach().cpu().double(), state.row_vector_cell.detach().cpu().double()
    parts, first = [], 0
    for k, n_atoms in enumerate(counts):
        i, j, shift = finder.compute(
            points=positions[first : first + n_atoms].numpy(),
            box=np.ascontiguousarray(cells[k].numpy()),
            periodic=state.pbc,
            quantities="ijS",
        )
        parts.append((i.astype(np.int64) + first, j.astype(np.int64) + first, shift.astype(np.float64)))
        first += n_atoms
    centers, neighbors, shifts = (np.concatenate(part) for part in zip(*parts, strict=True))
    return (
        torch.from_numpy(centers).to(state.device),
        torch.from_numpy(neighbors).to(state.device),
        torch.from_numpy(shifts).to(state.device, state.dtype),
    )


def _compare_all_pairs(state: SimState, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`_ask_vesin`, for all systems at once on their device; work grows with atoms² a system."""
    cells = state.row_vector_cell
    positions, winding = state.positions, torch.zeros_like(state.positions)
    if state.pbc:  # the search expects atoms inside their cells
        own = cells[state.system_idx]
        winding = torch.linalg.solve(own.mT, positions).floor()
        positions = positions - torch.bmm(winding[:, None], own)[:, 0]
    periodic = torch.full((cells.shape[0], 3), state.pbc, device=state.device)
    (centers, neighbors), _, shifts = torch_nl_n2(cutoff, positions, cells, periodic, state.system_idx)
    order = torch.argsort(centers, stable=True)
    centers, neighbors = centers[order], neighbors[order]
    return centers, neighbors, shifts[order] + winding[centers] - winding[neighbors]


def load_torchsim_model(folder: str | Path, **options: Any) -> TorchSimModel:
    """The potential in ``folder`` as a TorchSim model; ``options`` as for :class:`TorchSimModel`.

    Raises:
        PotentialFileError: when the files are missing, damaged or of an unknown version.
    """
    return TorchSimModel(load_potential(folder), **options)
