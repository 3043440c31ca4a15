"""A potential as a TorchSim model: many systems in one batch, on CPU or GPU.

    import torch_sim as ts
    from mlip.export.torchsim import load_torchsim_model
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

from mlip.export.batch import Evaluated, RecordedStep, SlotBatch
from mlip.export.pairs import place
from mlip.potential import Potential, load_potential
from mlip.potential.ace.committee import CHUNK_ROWS
from mlip.potential.ace.pairs import PairList, sum_forces, sum_strain
from mlip.potential.interface import check_species
from mlip.structures.geometry import MIN_HEIGHT
from mlip.structures.neighbors import MAX_CELL

SMALL_SYSTEM = 300
"""Atoms per system up to which a GPU compares all pairs instead of asking vesin on the CPU."""
RECORD_AFTER = 10
"""Steps of a batch before one is recorded: batches that come once, to measure memory for one, are not worth it."""


@dataclass(frozen=True)
class BatchPairs:
    """Pairs of a batch within cutoff plus skin, sorted by centre, and the state that they were found for.

    ``inverse`` [n_systems, 3, 3] of the cells, whose rows are lattice vectors; zero without periodicity. ``sound``
    [n_systems] tells which systems have a cell that atoms can be in; of the others there are no pairs.
    """

    centers: Tensor
    neighbors: Tensor
    shifts: Tensor
    positions: Tensor
    cell: Tensor
    inverse: Tensor
    atomic_numbers: Tensor
    system_idx: Tensor
    sound: Tensor
    pbc: bool

    def follow(self, state: SimState, skin: float) -> Tensor | None:
        """The state's positions [N, 3] in the images that the pairs were found for; None once a pair may be missing.

        TorchSim folds atoms back into their cells: that is no movement.
        """
        if (
            self.pbc != state.pbc
            or self.positions.shape != state.positions.shape
            or self.cell.shape != state.cell.shape
        ):
            return None
        moved = state.positions - self.positions
        turns = torch.bmm(moved[:, None], self.inverse[self.system_idx]).round()
        moved = moved - torch.bmm(turns, self.cell.mT[self.system_idx])[:, 0]
        same = (self.system_idx == state.system_idx).all() & (self.atomic_numbers == state.atomic_numbers).all()
        # Atoms at NaN, or in a cell that is none, are in nobody's reach, now; those of the other systems still count.
        present = state.positions.isfinite().all(1) & self.sound[self.system_idx]
        far = ~(moved.square().sum(1) <= (0.5 * skin) ** 2) & present
        near = ~far.any()
        # One transfer from the device decides.
        unchanged = ((self.cell == state.cell) | (self.cell.isnan() & state.cell.isnan())).all()
        return self.positions + moved if bool(same & near & unchanged) else None

    def vectors(self, positions: Tensor) -> Tensor:
        """r_neighbor - r_center [E, 3], Å, float64."""
        exact = positions.double()
        cells = self.cell.mT.double()[self.system_idx[self.centers]]
        offset = torch.bmm(self.shifts[:, None].double(), cells)[:, 0]
        return exact[self.neighbors] - exact[self.centers] + offset


class TorchSimModel(ModelInterface):
    """Energies [n_systems] (eV, float64), forces [n_atoms, 3] (eV/Å) and stresses [n_systems, 3, 3] (eV/Å³) of a batch.

    The committee's mean; stresses of systems without periodicity are NaN. The pair list is
    kept until an atom has moved by half the ``skin`` or the cell or composition changes. On CUDA, batches of up to
    32 768 atoms are evaluated by a recorded step (:mod:`mlip.export.batch`).

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
        self._arranged: BatchPairs | None = None
        self._seen, self._shape = 0, (0, 0)

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
        positions = None if self._pairs is None else self._pairs.follow(state, self.skin)
        if self._pairs is None or positions is None:
            self._check_species(state)
            self._pairs, positions = find_batch_pairs(state, self.potential.cutoff + self.skin), state.positions
        recorded = self._repeat(state, self._pairs, positions) if self._may_record(state) else None
        energy, forces, strain = recorded or self._evaluate(state, self._pairs, positions)
        # Pairs of atoms at NaN are not found: what has come apart must not look sound.
        broken = torch.zeros_like(energy).index_add(0, state.system_idx, (0.0 * positions).sum(1).double())
        broken = torch.where(self._pairs.sound, broken, torch.nan)
        output = {"energy": energy + broken}
        if self.compute_forces:
            output["forces"] = forces + broken[state.system_idx, None]
        if self.compute_stress:
            volume = torch.linalg.det(state.cell).abs() if state.pbc else torch.full_like(energy, torch.nan)
            output["stress"] = (strain + broken[:, None, None]) / volume[:, None, None]
        # Totals of all-electron codes have no digits left in float32.
        return {name: value if name == "energy" else value.to(self.dtype) for name, value in output.items()}

    def _evaluate(self, state: SimState, pairs: BatchPairs, positions: Tensor) -> Evaluated:
        """Pair by pair, some rows at a time."""
        species, n_systems = self._species(state), state.cell.shape[0]
        edges = pairs.vectors(positions)
        evaluation = self.potential.evaluate_pairs(species, pairs.centers, pairs.neighbors, edges)
        listed = PairList(species, pairs.centers, pairs.neighbors, edges, state.system_idx, n_systems)
        atomic = evaluation.energies.mean(0)
        energy = atomic.new_zeros(n_systems).index_add(0, state.system_idx, atomic)
        return energy, sum_forces(listed, evaluation.gradients)[:, 0], sum_strain(listed, evaluation.gradients[:, 0])

    def _may_record(self, state: SimState) -> bool:
        """Whether batches of this shape have come often enough, and are small enough."""
        shape = (len(state.positions), state.cell.shape[0])
        self._seen = self._seen + 1 if shape == self._shape else 0
        self._shape = shape
        worth = self.record and self._seen >= RECORD_AFTER and shape[0] <= CHUNK_ROWS["gpu"]
        if not worth:
            self._step = self._arranged = None  # their memory is free
        return worth

    def _repeat(self, state: SimState, pairs: BatchPairs, positions: Tensor) -> Evaluated | None:
        """The recorded step, recorded anew where the pairs no longer fit it; None where it cannot be recorded."""
        with torch.inference_mode(False), torch.no_grad():
            if self._step is None or self._arranged is not pairs:
                self._arranged = None
                self._step = self._renew(state, pairs, positions)
                self._arranged = pairs
            return None if self._step is None else self._step.repeat(positions, pairs.cell.mT)

    def _renew(self, state: SimState, pairs: BatchPairs, positions: Tensor) -> RecordedStep | None:
        """A step for ``pairs``: the present one where they fit it, else a new one."""
        earlier = None if self._step is None else self._step.batch
        batch = self.arrange(state, pairs, earlier)
        if self._step is not None and earlier is not None:
            if earlier.fits(batch):
                earlier.become(batch)
                return self._step
            if not earlier.resembles(batch):  # whose slots this batch need not have
                batch = self.arrange(state, pairs)
        self._step = None  # its memory is free before the next one is recorded
        try:
            return RecordedStep(self.potential, batch, positions, pairs.cell.mT)
        except torch.OutOfMemoryError:  # TorchSim finds out with it how large a batch may be
            raise
        except RuntimeError as error:
            warnings.warn(f"steps are not recorded any more, which makes them slower: {error}", stacklevel=2)
            self.record = False
            return None

    def arrange(self, state: SimState, pairs: BatchPairs, earlier: SlotBatch | None = None) -> SlotBatch:
        """``pairs`` of ``state`` in slots, as many as in ``earlier`` where they suffice."""
        return SlotBatch.arrange(
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
    cells, sound = state.cell.clone(), _sound_cells(state)
    finite = state.positions.isfinite().all(1) & sound[state.system_idx]
    whole = bool(finite.all())
    if not whole:
        state = state.clone()
        state.positions = torch.where(finite[:, None], state.positions, 0.0)
        anything = 10.0 * cutoff * torch.eye(3, dtype=state.dtype, device=state.device)
        state.cell = torch.where(sound[:, None, None], state.cell, anything)
    if state.device.type != "cpu" and int(counts.max()) <= SMALL_SYSTEM:
        centers, neighbors, shifts = _compare_all_pairs(state, cutoff)
    else:
        centers, neighbors, shifts = _ask_vesin(state, counts.tolist(), cutoff)
    if not whole:
        kept = finite[centers] & finite[neighbors]
        centers, neighbors, shifts = centers[kept], neighbors[kept], shifts[kept]
    rows = state.row_vector_cell
    return BatchPairs(
        centers=centers,
        neighbors=neighbors,
        shifts=shifts.to(state.dtype),
        positions=torch.where(finite[:, None], state.positions, torch.nan),
        cell=cells,
        inverse=torch.linalg.inv(rows) if state.pbc else torch.zeros_like(rows),
        atomic_numbers=state.atomic_numbers.clone(),
        system_idx=state.system_idx.clone(),
        sound=sound,
        pbc=state.pbc,
    )


def _sound_cells(state: SimState) -> Tensor:
    """Which systems have a cell that pairs can be sought in, [n_systems]; all, without periodicity."""
    if not state.pbc:
        return torch.ones(state.cell.shape[0], dtype=torch.bool, device=state.device)
    cells = state.row_vector_cell.double()
    # The volume over the area of a face is the height above it.
    faces = torch.linalg.cross(cells.roll(-1, 1), cells.roll(-2, 1)).square().sum(2).sqrt().amax(1)
    heights = torch.linalg.det(cells).abs() / faces
    return cells.isfinite().all(2).all(1) & (heights >= MIN_HEIGHT) & (cells.abs().amax((1, 2)) <= MAX_CELL)


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
        atom_cells = cells[state.system_idx]
        winding = torch.linalg.solve(atom_cells.mT, positions).floor()
        positions = positions - torch.bmm(winding[:, None], atom_cells)[:, 0]
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
