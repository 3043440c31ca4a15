"""mace-torch's networks: how they are made, moved, fed and named.

Their inputs come from our neighbour lists, with the cell replaced by the unit matrix and
``unit_shifts`` by Cartesian shifts, so that the strain they differentiate acts on them as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mlip.potential.interface import PotentialFileError
from mlip.structures.neighbors import find_pairs

ACTIVATIONS = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs, "None": None}
SHARED = "shared"
"""Prefix, among the weights, of tensors that all members have in common, such as coupling coefficients."""

log = logging.getLogger(__name__)


class MissingBackendError(PotentialFileError):
    """The package of a backend is not installed in this environment."""


@dataclass(frozen=True)
class Architecture:
    """Arguments of mace-torch's ``ScaleShiftMACE`` as plain values; classes by name, irreps as text."""

    atomic_numbers: tuple[int, ...]
    r_max: float
    hidden_irreps: str
    max_ell: int
    correlation: int
    num_interactions: int
    num_bessel: int
    avg_num_neighbors: float
    num_polynomial_cutoff: int = 5
    # This pair, without a shift, makes an atom without neighbours have exactly its own energy.
    interaction_cls_first: str = "RealAgnosticInteractionBlock"
    interaction_cls: str = "RealAgnosticResidualInteractionBlock"
    readout_cls: str = "NonLinearReadoutBlock"
    MLP_irreps: str = "16x0e"
    gate: str = "silu"
    radial_type: str = "bessel"
    radial_MLP: tuple[int, ...] = (64, 64, 64)
    distance_transform: str = "None"
    pair_repulsion: bool = True
    apply_cutoff: bool = True
    use_reduced_cg: bool = False
    use_so3: bool = False
    use_agnostic_product: bool = False
    use_last_readout_only: bool = False
    keep_last_layer_irreps: bool = False
    edge_irreps: str | None = None
    use_edge_irreps_first: bool = False
    heads: tuple[str, ...] = ("Default",)

    @property
    def has_cueq_form(self) -> bool:
        """Whether mace-torch can bring the network into cuEquivariance's form."""
        return self.correlation in (2, 3)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Architecture:
        """Inverse of ``dataclasses.asdict`` after a passage through JSON."""
        arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**arguments)


def require_mace() -> Any:
    """The module ``mace.modules``.

    Raises:
        MissingBackendError: when mace-torch is not installed here.
    """
    if importlib.util.find_spec("mace") is None or importlib.util.find_spec("e3nn") is None:
        raise MissingBackendError(
            "backend mace needs mace-torch, which is not installed in this environment; `make setup-mace` makes one "
            "that has it (run .venv-mace/bin/mlip instead of .venv/bin/mlip), or use conda (envs/mace.yaml)"
        )
    # Importing mace tells torch, through the process's environment, to trust every pickle from
    # then on. Its reason is a table of constants of e3nn, read with one harmless class (slice).
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    with warnings.catch_warnings(), torch.serialization.safe_globals([slice]):
        warnings.simplefilter("ignore")
        importlib.import_module("e3nn.o3")
        modules = importlib.import_module("mace.modules")
    if before is None:
        os.environ.pop(variable, None)
    return modules


@contextmanager
def _construction() -> Iterator[None]:
    """Networks are made in float64, without TorchScript: as fast to run, quicker to make and to copy."""
    import e3nn

    dtype, defaults = torch.get_default_dtype(), e3nn.get_optimization_defaults()
    torch.set_default_dtype(torch.float64)
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
        e3nn.set_optimization_defaults(**defaults)


def build_network(architecture: Architecture, seed: int = 0) -> torch.nn.Module:
    """A ``ScaleShiftMACE`` in float64 on the CPU with random weights, scale 1 and shift 0."""
    modules = require_mace()
    from e3nn.o3 import Irreps

    given = asdict(architecture)
    for name in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        given[name] = Irreps(given[name]) if given[name] is not None else None
    for name in ("interaction_cls", "interaction_cls_first"):
        given[name] = _lookup(modules.interaction_classes, given[name], name)
    given["readout_cls"] = _lookup(modules.readout_classes, given["readout_cls"], "readout_cls")
    given["gate"] = _lookup(ACTIVATIONS, given["gate"], "gate")
    n_heads, n_elements = len(architecture.heads), len(architecture.atomic_numbers)
    given |= {"heads": list(architecture.heads), "atomic_numbers": list(architecture.atomic_numbers)}
    given |= {"radial_MLP": list(architecture.radial_MLP), "num_elements": n_elements}
    with _construction(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return modules.ScaleShiftMACE(
            atomic_inter_scale=np.ones(n_heads) if n_heads > 1 else 1.0,
            atomic_inter_shift=np.zeros(n_heads) if n_heads > 1 else 0.0,
            atomic_energies=np.zeros((n_heads, n_elements)),
            **given,
        )


def _lookup(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"{what} {name!r} is not one of mace-torch's: {', '.join(table)}")
    return table[name]


CUEQ = ("cuequivariance_torch", "cuequivariance_ops_torch")


def uses_cueq(device: str, wanted: bool) -> bool:
    """Whether cuEquivariance runs the networks: where it is wanted, installed and of use (a GPU)."""
    if not (wanted and device.startswith("cuda")):
        return False
    # Without its kernels it converts to a form that mace-torch cannot use on a GPU.
    missing = [name for name in CUEQ if importlib.util.find_spec(name) is None]
    if missing:
        log.info("MACE runs without cuEquivariance: %s not installed", " and ".join(missing))
    return not missing


def accelerate(network: torch.nn.Module, device: str, wanted: bool) -> torch.nn.Module:
    """``network`` on ``device``, in cuEquivariance's form where that is used."""
    return (
        convert_network(network, "mace.cli.convert_e3nn_cueq", device)
        if uses_cueq(device, wanted)
        else network.to(device)
    )


def release(network: torch.nn.Module, device: str, wanted: bool) -> torch.nn.Module:
    """Inverse of :func:`accelerate`; on the CPU."""
    return (
        convert_network(network, "mace.cli.convert_cueq_e3nn", device) if uses_cueq(device, wanted) else network
    ).cpu()


def convert_network(network: torch.nn.Module, module: str, device: str) -> torch.nn.Module:
    """``network`` in the form that this ``module`` of mace-torch converts to, in the network's own precision.

    cuEquivariance's operations calculate in the default precision at the time they are made, whatever their weights'.
    """
    dtype = next(network.parameters()).dtype
    with _construction():
        torch.set_default_dtype(dtype)
        kind = device.partition(":")[0]  # mace-torch decides by the bare name whether to fuse convolutions
        converted: torch.nn.Module = importlib.import_module(module).run(network.to(device), device=kind)
    return converted.to(device, dtype)


@dataclass(frozen=True)
class Graph:
    """Geometry of one structure: ``positions`` [n, 3], ``species`` [n], ``edges`` [2, E], ``shifts`` [E, 3]; Å."""

    positions: np.ndarray
    species: np.ndarray
    edges: np.ndarray
    shifts: np.ndarray


def make_graph(atoms: Atoms, numbers: Sequence[int], cutoff: float) -> Graph:
    """Neighbours of every atom within ``cutoff`` (Å); ``species`` index into ``numbers``."""
    pairs = find_pairs(atoms, cutoff)
    shifts = pairs.vectors - (atoms.positions[pairs.neighbors] - atoms.positions[pairs.centers])
    table = {number: k for k, number in enumerate(numbers)}
    species = np.array([table[number] for number in atoms.numbers.tolist()], dtype=np.int64)
    return Graph(atoms.positions, species, np.stack((pairs.centers, pairs.neighbors)), shifts)


def join_graphs(graphs: Sequence[Graph], n_elements: int, head: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The input of a MACE network for several structures."""
    sizes = [len(g.positions) for g in graphs]
    first = np.concatenate(([0], np.cumsum(sizes)))

    def real(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device, dtype)

    def index(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    shifts = real([g.shifts for g in graphs])
    species = index(np.concatenate([g.species for g in graphs]))
    return {
        "positions": real([g.positions for g in graphs]),
        "node_attrs": torch.nn.functional.one_hot(species, n_elements).to(dtype),
        "edge_index": index(np.concatenate([g.edges + k for g, k in zip(graphs, first[:-1], strict=True)], axis=1)),
        "shifts": shifts,
        "unit_shifts": shifts,
        "cell": torch.eye(3, device=device, dtype=dtype).repeat(len(graphs), 1),
        "batch": index(np.repeat(np.arange(len(graphs)), sizes)),
        "ptr": index(first),
        "head": torch.full((len(graphs),), head, device=device),
    }


def join_states(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The members' states under one roof, ``member_K/name``; what is equal in all is kept once, ``shared/name``.

    Numbers that float32 holds exactly, such as all trained weights, are kept in it.
    """
    joined: dict[str, Tensor] = {}
    for name in states[0]:
        parts = [_shorten(state[name].detach().cpu()) for state in states]
        if all(torch.equal(parts[0], part) for part in parts):
            joined[f"{SHARED}/{name}"] = parts[0]
        else:
            joined |= {f"member_{k}/{name}": part for k, part in enumerate(parts)}
    return joined


def _shorten(tensor: Tensor) -> Tensor:
    exact = tensor.dtype == torch.float64 and torch.equal(tensor.float().double(), tensor)
    return tensor.float() if exact else tensor.clone()


def split_states(joined: dict[str, Tensor], n_members: int) -> list[dict[str, Tensor]]:
    """Inverse of :func:`join_states`."""
    states: list[dict[str, Tensor]] = [{} for _ in range(n_members)]
    for path, tensor in joined.items():
        owner, _, name = path.partition("/")
        chosen = states if owner == SHARED else [states[int(owner.removeprefix("member_"))]]
        for state in chosen:
            state[name] = tensor
    return states
