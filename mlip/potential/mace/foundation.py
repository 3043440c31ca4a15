"""Foundation models in mace-torch's files, read without executing anything that the files say.

mace-torch saves a whole module: a pickle that names classes and functions for the reader to
import and call, TorchScript and generated Python source among them. Here torch's restricted
reader (``weights_only=True``) gets an inert :class:`Record` in place of every name that belongs
to mace-torch, e3nn or torch, and refuses all others. What comes out is a tree of records with the
tensors in place; hyperparameters are read off it, the network is built anew by the installed
mace-torch, and only tensors are copied into it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from mlip.potential.interface import PotentialFileError
from mlip.potential.mace.network import ACTIVATIONS, Architecture, Graph, build_network, join_graphs, require_mace

PACKAGES = ("mace.", "e3nn.", "torch.", "torch_", "opt_einsum", "collections.", "numpy.")
"""Names that a record may stand for. None of them is imported or called."""
HARMLESS = ("builtins.slice", "builtins.set", "__builtin__.set", "builtins.int", "builtins.float", "builtins.object")
UNUSED = ("pair_repulsion_fn.cutoff.", "pair_repulsion_fn.r_max")
"""Tensors that earlier versions of mace-torch saved and, like the installed one, never read: the repulsion of a pair
ends at the sum of its covalent radii."""
ADVICE = "Foundation models are files that mace-torch saved with torch.save(model, FILE)"


class Record:
    """Stands for an object in a file: the name of its class, the arguments it was made with and its state."""

    name = ""
    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any) -> Record:  # noqa: D102
        record = super().__new__(cls)
        record.args, record.state = args, {}
        return record

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__.get("state")
        if isinstance(state, dict):
            for table in (state, *(state.get(kind, {}) for kind in ("_parameters", "_buffers", "_modules"))):
                if name in table:
                    return table[name]
        raise AttributeError(f"{type(self).name} in the file has no {name!r}")

    def children(self) -> list[Any]:
        """The submodules, of a list of modules."""
        return list(self.state["_modules"].values())

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or ``default``."""
        try:
            return getattr(self, name)
        except AttributeError:
            return default


@dataclass(frozen=True)
class Foundation:
    """A foundation model: ``architecture`` and the ``state`` of its network, in float64."""

    architecture: Architecture
    state: dict[str, Tensor]
    path: str

    def network(self) -> torch.nn.Module:
        """A network with these weights, in float64 on the CPU."""
        network = build_network(self.architecture)
        network.load_state_dict(self.state)
        return network

    def find_head(self, name: str | None) -> int:
        """Index of the head ``name``; None will do where there is one."""
        heads = self.architecture.heads
        if name is None and len(heads) == 1:
            return 0
        if name not in heads:
            raise PotentialFileError(
                f"{self.path} has the heads {', '.join(heads)}; choose one by train.mace.foundation_head, not {name!r}"
            )
        return heads.index(name)


def read_foundation(path: str | Path) -> Foundation:
    """The foundation model in ``path``.

    Raises:
        PotentialFileError: when the file is missing, holds anything else than a model of a kind
            that is known here, or asks for code to be executed.
    """
    require_mace()
    root = _read_records(Path(path))
    try:
        return _assemble(root, str(path))
    except PotentialFileError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise PotentialFileError(f"{path}: a MACE model of a kind that cannot be fine-tuned here: {error}") from error


def _read_records(path: Path) -> Record:
    if not path.is_file():
        raise PotentialFileError(f"{path}: no such file; train.mace.foundation_model is relative to {Path.cwd()}")
    if not zipfile.is_zipfile(path):
        raise PotentialFileError(f"{path}: not a file of torch.save, or one cut short. {ADVICE}")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        foreign = sorted(n for n in names if not n.startswith(PACKAGES) and n not in HARMLESS)
        if foreign:
            raise PotentialFileError(
                f"{path}: refused, for reading it as it asks would call {', '.join(foreign[:5])}. {ADVICE}"
            )
        stand_ins: list[Any] = [(type("Record", (Record,), {"name": name}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            root = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise PotentialFileError(f"{path}: refused: {error}. {ADVICE}") from None
    if not isinstance(root, Record) or not type(root).name.endswith(".ScaleShiftMACE"):
        kind = type(root).name if isinstance(root, Record) else type(root).__name__
        raise PotentialFileError(f"{path}: holds {kind or 'something else'}, not a ScaleShiftMACE. {ADVICE}")
    return root


def _assemble(root: Record, path: str) -> Foundation:
    architecture = _architecture(root)
    network = build_network(architecture)
    initial, tensors = network.state_dict(), _tensors(root)
    for name, parameter in network.named_parameters():
        if parameter.numel() and (name not in tensors or tensors[name].numel() != parameter.numel()):
            raise PotentialFileError(f"{path}: its {name} does not fit a network made by the installed mace-torch")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}
    spare = sorted(name for name, tensor in tensors.items() if name not in initial and tensor.numel())
    if spare:
        raise PotentialFileError(f"{path}: the installed mace-torch has no place for its {', '.join(spare[:3])}")
    # Energies of isolated atoms are the labeller's, and are kept outside of the network.
    kept = {
        name: t for name, t in tensors.items() if "atomic_energies" not in name and t.numel() == initial[name].numel()
    }
    state = initial | {
        name: tensor.to(initial[name].dtype).reshape(initial[name].shape) for name, tensor in kept.items()
    }
    return Foundation(architecture, state, path)


def _architecture(root: Record) -> Architecture:
    """The hyperparameters, read off where mace-torch's own ``extract_config_mace_model`` looks for them."""
    interactions, products, readouts = (root.get(n, None).children() for n in ("interactions", "products", "readouts"))
    radial, last, contraction = root.radial_embedding, readouts[-1], products[0].symmetric_contractions
    heads = tuple(root.get("heads", ["Default"]))
    transform = _kind(radial.distance_transform) if "distance_transform" in _modules(radial) else ""
    hidden = last.get("hidden_irreps", None)
    scalars = max(1, _irreps(hidden)[0][0] // len(heads)) if hidden is not None else 1
    edge_irreps = root.get("edge_irreps", None)
    return Architecture(
        atomic_numbers=tuple(root.atomic_numbers.tolist()),
        r_max=float(root.r_max),
        hidden_irreps=_text(products[0].linear.irreps_out),
        max_ell=int(root.spherical_harmonics.get("_lmax", 0)),
        correlation=len(_parameters(contraction.contractions.children()[0].weights)) + 1,
        num_interactions=int(root.num_interactions),
        num_bessel=int(radial.bessel_fn.bessel_weights.numel()),
        avg_num_neighbors=float(interactions[0].avg_num_neighbors),
        num_polynomial_cutoff=int(radial.cutoff_fn.p),
        interaction_cls_first=_kind(interactions[0]),
        interaction_cls=_kind(interactions[-1]),
        readout_cls=_kind(last),
        MLP_irreps=f"{scalars}x0e",
        gate=_gate(last),
        radial_type={"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}[
            _kind(radial.bessel_fn)
        ],
        radial_MLP=tuple(int(n) for n in interactions[0].conv_tp_weights.hs[1:-1]),
        distance_transform={"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}.get(transform, "None"),
        pair_repulsion="pair_repulsion_fn" in _modules(root),
        apply_cutoff=bool(root.get("apply_cutoff", True)),
        use_reduced_cg=bool(root.get("use_reduced_cg", False)),
        use_so3=bool(root.get("use_so3", False)),
        use_agnostic_product=bool(root.get("use_agnostic_product", False)),
        use_last_readout_only=bool(root.get("use_last_readout_only", False)),
        keep_last_layer_irreps=len(products) > 1
        and _text(products[-1].linear.irreps_out) == _text(products[0].linear.irreps_out)
        and len(_irreps(products[0].linear.irreps_out)) > 1,
        edge_irreps=_text(edge_irreps) if edge_irreps is not None else None,
        use_edge_irreps_first=bool(root.get("use_edge_irreps_first", False)),
        heads=heads,
    )


def _kind(record: Record) -> str:
    return type(record).name.rpartition(".")[2]


def _modules(record: Record) -> dict[str, Any]:
    return record.state.get("_modules", {}) if isinstance(record.state, dict) else {}


def _parameters(record: Record) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in record.state["_parameters"].items() if tensor is not None}


def _gate(readout: Record) -> str:
    """Name of the readout's activation; e3nn wraps the function into a module that has it as ``f``."""
    if "non_linearity" not in _modules(readout):
        return "None"
    function = readout.non_linearity.acts.children()[0].f
    name = (getattr(function, "name", str(function))).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise ValueError(f"the readout's activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return name


def _irreps(record: Record) -> list[tuple[int, int, int]]:
    """(multiplicity, degree, parity) of each term; e3nn's classes are tuples."""
    terms = []
    for term in record.args[0]:
        count, irrep = term.args[0] if len(term.args) == 1 else term.args
        degree, parity = irrep.args[0] if len(irrep.args) == 1 else irrep.args
        terms.append((int(count), int(degree), int(parity)))
    return terms


def _text(record: Record) -> str:
    return " + ".join(f"{n}x{degree}{'e' if parity > 0 else 'o'}" for n, degree, parity in _irreps(record))


def _tensors(record: Record, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers by the names that a state dictionary gives them; generated code is passed over."""
    if not isinstance(record, Record) or not isinstance(record.state, dict):
        return {}
    transient = record.state.get("_non_persistent_buffers_set", ())
    tensors = {
        prefix + name: tensor
        for kind in ("_parameters", "_buffers")
        for name, tensor in record.state.get(kind, {}).items()
        if isinstance(tensor, Tensor) and name not in transient
    }
    for name, child in _modules(record).items():
        tensors |= _tensors(child, f"{prefix}{name}.")
    return tensors


def reduce_elements(foundation: Foundation, numbers: Sequence[int]) -> Foundation:
    """``foundation`` for the elements ``numbers`` alone, smaller and faster, where that changes nothing.

    Raises:
        PotentialFileError: when it does not know one of them.
    """
    known = foundation.architecture.atomic_numbers
    unknown = [chemical_symbols[z] for z in numbers if z not in known]
    if unknown:
        raise PotentialFileError(f"{foundation.path} does not know {', '.join(unknown)}; choose another one")
    if len(foundation.architecture.heads) > 1 or len(numbers) == len(known):
        return foundation
    from mace.tools.finetuning_utils import load_foundations_elements
    from mace.tools.utils import AtomicNumberTable

    architecture = replace(foundation.architecture, atomic_numbers=tuple(sorted(numbers)))
    whole: Any = foundation.network()
    part = build_network(architecture)
    try:
        degrees = [term.ir.l for term in whole.products[0].linear.irreps_out]
        table = AtomicNumberTable(list(architecture.atomic_numbers))
        load_foundations_elements(part, whole, table, load_readout=True, max_L=max(degrees))
    except (AttributeError, RuntimeError, AssertionError, ValueError):
        return foundation
    same = np.allclose(_probe(whole, numbers), _probe(part, numbers), rtol=1e-8, atol=1e-8)
    return Foundation(architecture, part.state_dict(), foundation.path) if same else foundation


def _probe(network: Any, numbers: Sequence[int]) -> np.ndarray:
    """Interaction energies per atom (eV) of a made-up cluster."""
    table = {int(z): k for k, z in enumerate(network.atomic_numbers)}
    species = np.array([table[z] for z in numbers] * 4)
    k = np.arange(len(species))
    positions = np.stack((1.6 * np.cos(1.9 * k), 1.6 * np.sin(1.9 * k), 0.9 * k), 1)
    i, j = np.nonzero(~np.eye(len(species), dtype=bool))
    near = np.linalg.norm(positions[i] - positions[j], axis=1) < float(network.r_max)
    graph = Graph(positions, species, np.stack((i[near], j[near])), np.zeros((near.sum(), 3)))
    inputs = join_graphs([graph], len(table), 0, "cpu", torch.float64)
    return np.array(network(inputs, compute_force=False)["node_energy"].detach().numpy())
