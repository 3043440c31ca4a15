"""MACE (Batatia et al., arXiv:2206.07697) behind the :class:`Potential` interface.

The networks are mace-torch's; what is around them, geometry, files, committee, uncertainty, is
ours. They give interaction energies only: energies of isolated atoms are added in float64.
mace-torch and its e3nn 0.4.4 live in an environment of their own (docs/mace.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor

from mlip.potential.files import write_files
from mlip.potential.interface import Potential, Prediction, check_species, summarise
from mlip.potential.mace.network import (
    Architecture,
    Graph,
    accelerate,
    build_network,
    join_graphs,
    join_states,
    make_graph,
    split_states,
)
from mlip.potential.uncertainty import Calibration, Spread

MAX_PAIRS = 20_000
"""Pairs evaluated at once; bounds memory."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How a network is evaluated.

    Attributes:
        head: Index of the head.
        dtype: Precision, "float32" or "float64".
        cueq: Use cuEquivariance where possible.
        device: Where.
    """

    head: int = 0
    dtype: str = "float64"
    cueq: bool = True
    device: str = "cpu"


class MACEPotential(Potential):
    """Committee of MACE networks.

    Args:
        architecture: of every member.
        state: the members' weights (:func:`join_states`).
        n_members: of the committee.
        species: elements that it was trained on, a subset of the architecture's.
        isolated_energies: E0 of each element, eV.
        calibration: uncertainty scales.
        evaluation: head, precision and device.
        descriptor_scale: factor that brings distances between descriptors to order one.
        details: anything else worth keeping in ``potential.json``.
        shortest: shortest distance (Å) of each pair of elements in the training data.
    """

    backend = "mace"

    def __init__(
        self,
        architecture: Architecture,
        state: dict[str, Tensor],
        n_members: int,
        species: Sequence[str],
        isolated_energies: dict[str, float],
        calibration: Calibration,
        evaluation: EvaluationOptions = EvaluationOptions(),
        *,
        descriptor_scale: float = 1.0,
        details: dict[str, Any] | None = None,
        shortest: Mapping[str, float] | None = None,
    ) -> None:
        self.architecture, self.evaluation, self.device = architecture, evaluation, evaluation.device
        self.species, self.cutoff, self.n_members = tuple(species), architecture.r_max, n_members
        self.isolated_energies, self.calibration, self.details = dict(isolated_energies), calibration, details or {}
        self.descriptor_scale, self.state = descriptor_scale, state
        self._shortest = dict(shortest or {})
        self._dtype: torch.dtype = getattr(torch, evaluation.dtype)
        self._networks, fused = [], evaluation.cueq and architecture.has_cueq_form
        for weights in split_states(state, n_members):
            network = build_network(architecture)
            try:
                network.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(f"weights do not fit the description: {error}") from None
            self._networks.append(accelerate(network.to(self._dtype), self.device, fused).requires_grad_(False).eval())

    @property
    def shortest_distances(self) -> dict[str, float]:
        """Shortest distances of the training data, which files of earlier versions do not tell; see the interface."""
        return dict(self._shortest)

    def predict(self, structures: Sequence[Atoms], *, uncertainty: bool = True) -> list[Prediction]:
        """Predictions in the order of ``structures``; see :class:`Prediction`."""
        predictions: list[Prediction] = []
        for chunk, graphs in self._chunks(structures):
            outputs = [self._evaluate(network, graphs) for network in self._networks]
            energies, forces, strain = (np.stack(parts) for parts in zip(*outputs, strict=True))
            first = 0
            for k, atoms in enumerate(chunk):
                forces_members = forces[:, first : first + len(atoms)]
                spread = Spread.of_members(energies[:, k], forces_members)
                predictions.append(
                    summarise(atoms, self.calibration, energies[:, k], forces_members, strain[:, k].mean(0), spread)
                )
                first += len(atoms)
        return predictions

    def describe(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Descriptors [n_atoms, n_features]: the first member's invariant features of every layer, and the element.

        Scaled such that two atoms of one element in the training data are a distance of order one apart.
        """
        return [torch.cat(parts, 1).double().cpu().numpy() for parts in self._node_features(structures)]

    def embed(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Inputs of the first member's read-outs, [n_atoms, n_features] float32: invariant features of every layer."""
        return [features.float().cpu().numpy() for features, _ in self._node_features(structures)]

    def _node_features(self, structures: Sequence[Atoms]) -> Iterator[tuple[Tensor, Tensor]]:
        """Scaled invariant features [n_atoms, n_features] and elements [n_atoms, n_elements] of each structure."""
        from e3nn.o3 import Irreps

        irreps = Irreps(self.architecture.hidden_irreps)
        starts = irreps.dim * np.arange(self.architecture.num_interactions)
        columns = (starts[:, None] + np.arange(irreps[0].mul)).ravel()
        for chunk, graphs in self._chunks(structures):
            inputs, sizes = self._inputs(graphs), [len(atoms) for atoms in chunk]
            with torch.no_grad():
                features = self._networks[0](inputs, compute_force=False)["node_feats"][:, columns]
            yield from zip(
                (features * self.descriptor_scale).split(sizes), inputs["node_attrs"].split(sizes), strict=True
            )

    def member(self, index: int) -> MACEPotential:
        """Member ``index`` alone."""
        return MACEPotential(
            self.architecture,
            join_states([split_states(self.state, self.n_members)[index]]),
            1,
            self.species,
            self.isolated_energies,
            self.calibration,
            self.evaluation,
            descriptor_scale=self.descriptor_scale,
            shortest=self._shortest,
        )

    def save(self, folder: Path) -> None:
        """Write ``potential.safetensors`` and ``potential.json`` into ``folder``."""
        description = {
            "architecture": asdict(self.architecture),
            "n_members": self.n_members,
            "head": self.evaluation.head,
            "isolated_energies": self.isolated_energies,
            "details": self.details,
            "dtype": self.evaluation.dtype,
            "cueq": self.evaluation.cueq,
            "descriptor_scale": self.descriptor_scale,
            "shortest_distances": self._shortest,
        }
        write_files(self, Path(folder), self.state, description)

    def _inputs(self, graphs: Sequence[Graph]) -> dict[str, Any]:
        return join_graphs(
            graphs, len(self.architecture.atomic_numbers), self.evaluation.head, self.device, self._dtype
        )

    def _chunks(self, structures: Sequence[Atoms]) -> Iterator[tuple[Sequence[Atoms], list[Graph]]]:
        graphs, start, size = list[Graph](), 0, 0
        for k, atoms in enumerate(structures):
            check_species(atoms, self.species)
            graphs.append(make_graph(atoms, self.architecture.atomic_numbers, self.cutoff))
            size += graphs[-1].edges.shape[1]
            if size >= MAX_PAIRS or k + 1 == len(structures):
                yield structures[start : k + 1], graphs
                graphs, start, size = [], k + 1, 0

    def _evaluate(self, network: torch.nn.Module, graphs: Sequence[Graph]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energies [n_structures], forces [N, 3] and dE/dstrain [n_structures, 3, 3] of one member."""
        output = network(self._inputs(graphs), training=False, compute_virials=True)
        symbols = [chemical_symbols[z] for z in self.architecture.atomic_numbers]
        reference = [self.isolated_energies.get(symbol, 0.0) for symbol in symbols]
        isolated = [np.array(reference)[g.species].sum() for g in graphs]
        energies = output["interaction_energy"].detach().double().cpu().numpy() + np.array(isolated)
        forces, virials = (output[name].detach().double().cpu().numpy() for name in ("forces", "virials"))
        return energies, forces, -virials


def load_mace(description: dict[str, Any], state: dict[str, Tensor], device: str) -> MACEPotential:
    """The potential that :func:`mlip.potential.load_potential` found to be of this backend."""
    return MACEPotential(
        Architecture.from_json(description["architecture"]),
        state,
        description["n_members"],
        description["species"],
        description["isolated_energies"],
        Calibration.from_json(description["calibration"]),
        EvaluationOptions(description["head"], description["dtype"], description["cueq"], device),
        descriptor_scale=description["descriptor_scale"],
        details=description.get("details"),
        shortest=description.get("shortest_distances"),
    )
