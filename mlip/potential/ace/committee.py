"""The ACE committee behind the :class:`Potential` interface."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.potential.ace.edges import compute_density
from mlip.potential.ace.environments import Environments, PairTables, arrange_environments
from mlip.potential.ace.last_layer import LAST_LAYER, LastLayer
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.ace.pairs import PairEvaluation, PairList, join_structures, sum_forces, sum_strain
from mlip.potential.atomic_basis import AtomicBasis
from mlip.potential.continuation import doubt_continuation, split_doubt
from mlip.potential.files import FORMAT_VERSION, WITHOUT_CONTINUATION, write_files
from mlip.potential.interface import Estimator, Potential, Precision, Prediction, summarise
from mlip.potential.uncertainty import Calibration, Doubt, Spread
from mlip.structures.neighbors import find_pairs

MAX_PAIRS = 40_000
"""Pairs of small structures that are evaluated together; bounds memory."""
CHUNK_ROWS = {"cpu": 256, "gpu": 32_768}
"""Atoms whose environments are held at once: on a CPU what its caches hold, on a GPU what its memory does."""

DTYPES = {"single": torch.float32, "double": torch.float64}


class ACEPotential(Potential):
    """Committee of ACE networks.

    Args:
        basis: elements, cutoff and numbers of basis functions.
        network: weights of all members; a copy is evaluated.
        isolated_energies: E0 of each element, eV.
        calibration: uncertainty scales.
        device: where to evaluate.
        precision: of basis functions and network. Distances, isolated atoms, repulsion and the sums of
            energies, forces and strain derivatives are in float64 either way.
        details: anything else worth keeping in ``potential.json``.
        last_layer: makes the raw spreads in place of the members.
    """

    backend = "ace"

    def __init__(
        self,
        basis: AtomicBasis,
        network: CommitteeNetwork,
        isolated_energies: dict[str, float],
        calibration: Calibration,
        *,
        device: str = "cpu",
        precision: Precision = "double",
        details: dict[str, Any] | None = None,
        last_layer: LastLayer | None = None,
    ) -> None:
        self.basis, self.size, self.device, self.precision = basis, network.size, device, precision
        self.species, self.cutoff, self.n_members = basis.species, basis.cutoff, network.size.n_members
        self.isolated_energies, self.calibration, self.details = dict(isolated_energies), calibration, details or {}
        self.dtype = DTYPES[precision]
        self.state = {name: value.detach().float().cpu().clone() for name, value in network.state_dict().items()}
        self.network = CommitteeNetwork(network.size, seed=0)
        self.network.load_state_dict(self.state)
        self.network = (self.network.double() if precision == "double" else self.network).to(device)
        self.network.requires_grad_(False)
        self.last_layer = last_layer.to(device) if last_layer is not None else None
        self.tables = PairTables.of(basis, device)
        reference = [self.isolated_energies[s] for s in self.species]
        self._reference = torch.tensor(reference, dtype=torch.float64, device=device)

    @property
    def shortest_distances(self) -> dict[str, float]:
        """Shortest distance (Å) of each pair of elements in the training data, as far as it is within the cutoff."""
        continuation = self.basis.continuation
        return dict(self.basis.shortest if continuation is None else continuation.nearest)

    @property
    def estimator(self) -> Estimator:
        """The last layer, where there is one."""
        return "committee" if self.last_layer is None else "last_layer"

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> list[Prediction]:
        """Predictions in the order of ``structures``; see :class:`Prediction`."""
        posterior = self.last_layer if uncertainty else None
        predictions: list[Prediction] = []
        for chunk, pairs in self._chunks(structures):
            evaluation = self._evaluate(pairs, members=uncertainty and posterior is None, last=posterior is not None)
            energies, forces, strain = self._collect(pairs, evaluation)
            spreads = posterior.spreads(chunk, pairs, evaluation) if posterior is not None else None
            doubts = self._doubts(chunk, pairs) if uncertainty else [None] * len(chunk)
            ends = np.cumsum([len(atoms) for atoms in chunk])
            for k, (atoms, forces_members) in enumerate(zip(chunk, np.split(forces, ends[:-1], 1), strict=True)):
                spread = spreads[k] if spreads else Spread.of_members(energies[:, k], forces_members)
                predictions.append(
                    summarise(
                        atoms,
                        self.calibration,
                        energies[:, k],
                        forces_members,
                        strain[k],
                        replace(spread, doubt=doubts[k]),
                    )
                )
        return predictions

    def evaluate_pairs(
        self, species: Tensor, centers: Tensor, neighbors: Tensor, vectors: Tensor, *, members: bool = False
    ) -> PairEvaluation:
        """Energies and derivatives for pairs found by anyone, on any device.

        Args:
            species: index into ``self.species``, [N].
            centers, neighbors: atoms of each pair closer than the cutoff, [E], in both directions, sorted by centre.
            vectors: r_neighbor - r_center, [E, 3], Å.
            members: derivatives of every member, else of the mean.
        """
        pairs = PairList(species, centers, neighbors, vectors, torch.zeros_like(species), 1)
        return self._evaluate(pairs, members=members)

    def spreads(self, structures: Sequence[Atoms]) -> list[Spread]:
        """Raw spreads, by the last layer or by the members."""
        if self.last_layer is None:
            return super().spreads(structures)
        raw: list[Spread] = []
        for chunk, pairs in self._chunks(structures):
            spreads = self.last_layer.spreads(chunk, pairs, self._evaluate(pairs, members=False, last=True))
            raw.extend(replace(s, doubt=d) for s, d in zip(spreads, self._doubts(chunk, pairs), strict=True))
        return raw

    def last_features(self, structures: Sequence[Atoms]) -> Iterator[tuple[Sequence[Atoms], PairList, PairEvaluation]]:
        """Chunks of ``structures`` with their pairs and an evaluation that holds the last layer's features."""
        for chunk, pairs in self._chunks(structures):
            yield chunk, pairs, self._evaluate(pairs, members=False, last=True)

    @torch.inference_mode()
    def describe(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Descriptors [n_atoms, n_features], invariant and independent of the members.

        The root of the density's power in each (neighbour species, n, l), scaled like the
        network's input, and the element. The distance of two environments is of order one
        when they differ as much as two typical training environments do.
        """
        result: list[np.ndarray] = []
        for chunk, pairs in self._chunks(structures):
            table = torch.cat([self._describe(environments) for _, _, environments in self._rows(pairs)])
            result.extend(np.split(table.cpu().numpy(), np.cumsum([len(a) for a in chunk])[:-1]))
        return result

    @torch.inference_mode()
    def embed(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """What the first member's last layer sees, [n_atoms, n_last] float32: hidden units, then features.

        The energy of an atom is linear in them; their scales are those of the network's own features.
        """
        result: list[np.ndarray] = []
        for chunk, pairs in self._chunks(structures):
            table = torch.empty(len(pairs.species), self.size.n_last, device=self.device)
            for rows, _, environments in self._rows(pairs):
                table[rows.start + environments.atoms] = self.network.embed(
                    environments, compute_density(environments)
                ).float()
            result.extend(np.split(table.cpu().numpy(), np.cumsum([len(a) for a in chunk])[:-1]))
        return result

    def in_precision(self, precision: Precision) -> ACEPotential:
        """This potential, evaluated in ``precision``."""
        if precision == self.precision:
            return self
        return ACEPotential(
            self.basis,
            self.network,
            self.isolated_energies,
            self.calibration,
            device=self.device,
            precision=precision,
            details=self.details,
            last_layer=self.last_layer,
        )

    def member(self, index: int) -> ACEPotential:
        """Member ``index`` alone."""
        return self.with_members([index])

    def with_members(self, members: Sequence[int]) -> ACEPotential:
        """A committee of ``members`` of this one, any of them as often as it is named."""
        state = dict(self.state)
        for name, value in state.items():
            if name in ("output", "linear") or name.startswith(("weights.", "biases.")):
                state[name] = value[:, list(members)].clone()
        network = CommitteeNetwork(replace(self.size, n_members=len(members)), seed=0)
        network.load_state_dict(state)
        return ACEPotential(
            self.basis,
            network,
            self.isolated_energies,
            self.calibration,
            device=self.device,
            precision=self.precision,
        )

    def save(self, folder: Path) -> None:
        """Write ``potential.safetensors`` and ``potential.json`` into ``folder``."""
        last = self.last_layer
        tensors = self.state if last is None else self.state | {LAST_LAYER: last.factor.float().cpu()}
        description = {
            "frame": {name: value for name, value in asdict(self.basis).items() if value is not None},
            "size": asdict(self.size),
            "last_layer": None if last is None else list(last.settings()),
            "isolated_energies": self.isolated_energies,
            "details": self.details,
        }
        version = WITHOUT_CONTINUATION if self.basis.continuation is None else FORMAT_VERSION
        write_files(self, Path(folder), tensors, description, version)

    def _doubts(self, chunk: Sequence[Atoms], pairs: PairList) -> list[Doubt | None]:
        """What pairs nearer than the data's add to the uncertainty of each structure."""
        if self.tables.terms is None:
            return [None] * len(chunk)
        squares = doubt_continuation(
            self.tables.terms, self.cutoff, pairs.species, pairs.centers, pairs.neighbors, pairs.vectors
        )
        return split_doubt(*squares, [len(atoms) for atoms in chunk])

    def _describe(self, environments: Environments) -> Tensor:
        density = compute_density(environments)
        multiplets = [2 * degree + 1 for degree in range(self.size.l_max + 1)]
        power = torch.stack([d.square().sum(1).sqrt() for d in density.split(multiplets, 1)], 1)
        weight = self.network.density_weight[0, ..., : self.size.n_density][environments.species]
        element = torch.nn.functional.one_hot(environments.species, len(self.species)).to(power.dtype)
        table = torch.cat(((power * weight / (self.size.l_max + 1) ** 0.5).flatten(1), element), 1).double()
        return torch.empty_like(table).index_copy_(0, environments.atoms, table)

    def _chunks(self, structures: Sequence[Atoms]) -> Iterator[tuple[Sequence[Atoms], PairList]]:
        pairs, start, size = [], 0, 0
        for k, atoms in enumerate(structures):
            pairs.append(find_pairs(atoms, self.cutoff))
            size += len(pairs[-1].centers)
            if size >= MAX_PAIRS or k + 1 == len(structures):
                chunk = structures[start : k + 1]
                yield chunk, join_structures(chunk, pairs, self.basis, self.device)
                pairs, start, size = [], k + 1, 0

    def _rows(self, pairs: PairList) -> Iterator[tuple[slice, slice, Environments]]:
        """Some rows at a time, with their pairs and environments; all rows where atoms exchange messages."""
        n, whole = len(pairs.species), self.size.n_layers > 1
        step = n if whole else CHUNK_ROWS["cpu" if torch.device(self.device).type == "cpu" else "gpu"]
        starts = torch.arange(0, n + step, step, device=pairs.centers.device)
        bounds = torch.searchsorted(pairs.centers, starts).tolist()
        for k, (a, b) in enumerate(itertools.pairwise(bounds)):
            rows, edges = slice(k * step, min(n, (k + 1) * step)), slice(a, b)
            environments = arrange_environments(
                pairs.species[rows],
                pairs.centers[edges] - rows.start,
                pairs.neighbors[edges],
                pairs.vectors[edges],
                self.tables,
                self.dtype,
                neighbor_species=None if whole else pairs.species[pairs.neighbors[edges]],
            )
            yield rows, edges, environments

    def evaluate_environments(
        self, environments: Environments, *, members: bool = False, last: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Energies [P, N] (eV, float64, all included), dE_i/dr_ij [N, P or 1, 3, M] (eV/Å), and ``Atomic.last``.

        In the order of the rows of ``environments``; nothing here asks a device for a number.
        """
        atomic, edges = self.network(environments, compute_density(environments), members=members, last=last)
        pair = environments.pair_slope.to(self.dtype)[:, None] * environments.direction
        energies = atomic.energies.double() + environments.pair_energy + self._reference[environments.species]
        return energies, edges + pair[:, None], atomic.last

    @torch.inference_mode()
    def _evaluate(self, pairs: PairList, *, members: bool, last: bool = False) -> PairEvaluation:
        n, p = len(pairs.species), self.n_members if members else 1
        energies = pairs.vectors.new_zeros(self.n_members, n)
        gradients = torch.empty(len(pairs.centers), p, 3, dtype=self.dtype, device=self.device)
        features = energies.new_zeros(self.n_members, n, self.size.n_last) if last else None
        weights = energies.new_zeros(len(pairs.centers)) if last else None
        for rows, edges, env in self._rows(pairs):
            atomic, slopes, phi = self.evaluate_environments(env, members=members, last=last)
            # From slots [N, P, 3, M] back to the list of pairs [E, P, 3], from rows sorted by species back to atoms.
            gradients[edges] = slopes.permute(0, 3, 1, 2).reshape(-1, p, 3).index_select(0, cast(Tensor, env.where))
            place = rows.start + env.atoms
            energies[:, place] = atomic
            if features is not None and weights is not None and phi is not None:
                features[:, place] = phi.double()
                # B_0 is the cutoff function f_ij, by which the neighbours' variances are weighed.
                weights[edges] = env.radial[:, 0].reshape(-1)[env.where].double()
        return PairEvaluation(energies, gradients, features, weights)

    def _collect(self, pairs: PairList, evaluation: PairEvaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies [P, n_structures], forces [P, N, 3], dE/dstrain of the mean [n_structures, 3, 3]."""
        energies = evaluation.energies.new_zeros(self.n_members, pairs.n_structures)
        energies.index_add_(1, pairs.structure, evaluation.energies)
        forces = sum_forces(pairs, evaluation.gradients).permute(1, 0, 2)
        strain = sum_strain(pairs, evaluation.gradients.mean(1))
        return energies.cpu().numpy(), forces.cpu().numpy(), strain.cpu().numpy()
