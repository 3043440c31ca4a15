"""NequIP for the shared training loop and for the speed measurement (environment .venv-nequip)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import NequIPGNNModel
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.scripts.compile import NEQUIP_AOTI_INPUTS_KEY, NEQUIP_AOTI_OUTPUTS_KEY, serialize_aoti_keys
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import get_latest_global_state, set_global_state

DEFAULTS: dict[str, Any] = {
    "cutoff": 5.0,
    "num_layers": 2,
    "l_max": 1,
    "num_features": 32,
    "parity": False,
    "radial_mlp_width": 64,
}


def build_model(
    train: Sequence[Atoms], settings: dict[str, Any], references: dict[str, float], seed: int, device: str
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model, and all that is needed to build it again."""
    forces = np.concatenate([atoms.get_forces() for atoms in train])
    summary = {
        "settings": {**DEFAULTS, **settings},
        "references": references,
        "scale": float(np.sqrt(np.square(forces).mean())),
        "seed": seed,
    }
    graphs = [prepare(atoms, summary, "cpu")[0] for atoms in train[:: max(1, len(train) // 40)]]
    edges = sum(g[AtomicDataDict.EDGE_INDEX_KEY].shape[1] for g in graphs)
    summary["neighbors"] = edges / sum(len(g[AtomicDataDict.POSITIONS_KEY]) for g in graphs)
    return make_model(summary, device), summary


def make_model(summary: dict[str, Any], device: str) -> torch.nn.Module:
    """The untrained model of ``summary``, in float32."""
    set_global_state()
    settings = dict(summary["settings"])
    return NequIPGNNModel(
        seed=summary["seed"],
        model_dtype="float32",
        r_max=settings.pop("cutoff"),
        type_names=list(summary["references"]),
        avg_num_neighbors=summary["neighbors"],
        per_type_energy_scales=summary["scale"],
        per_type_energy_shifts=summary["references"],
        **settings,
    ).to(device)


def prepare(atoms: Atoms, summary: dict[str, Any], device: str) -> tuple[Any, float, torch.Tensor]:
    """Graph of ``atoms``, its energy and its forces."""
    bare = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    graph = ChemicalSpeciesToAtomTypeMapper(list(summary["references"]))(from_ase(bare))
    graph = NeighborListTransform(r_max=summary["settings"]["cutoff"])(graph)
    known = atoms.calc is not None and "forces" in atoms.calc.results
    forces = atoms.get_forces() if known else np.zeros((len(atoms), 3))
    return (
        AtomicDataDict.to_(graph, device),
        atoms.get_potential_energy(),
        torch.tensor(forces, dtype=torch.float32, device=device),
    )


def collate(items: list[Any]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch, energies [B] (eV), forces [N, 3] (eV/Å) and numbers of atoms [B]."""
    batch = AtomicDataDict.batched_from_list([dict(graph) for graph, _, _ in items])
    forces = torch.cat([f for _, _, f in items])
    energies = torch.tensor([energy for _, energy, _ in items], dtype=torch.float64, device=forces.device)
    return batch, energies, forces, torch.tensor([len(f) for _, _, f in items], device=forces.device)


def predict(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], training: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies [B] and forces [N, 3]."""
    model.train(training)
    out = model(dict(batch))
    return out[AtomicDataDict.TOTAL_ENERGY_KEY].double().reshape(-1), out[AtomicDataDict.FORCE_KEY]


def load_calculator(folder: Path, device: str) -> Calculator:
    """ASE calculator of a model that train_rival.py wrote, compiled by AOTInductor once."""
    compiled = folder / f"{device}.nequip.pt2"
    if not compiled.is_file():
        compile_model(folder, device, compiled)
    return NequIPCalculator.from_compiled_model(compiled, device=device)


def compile_model(folder: Path, device: str, out: Path) -> None:
    """What ``nequip-compile --mode aotinductor --target ase`` does, from weights instead of a checkpoint."""
    summary = json.loads((folder / "summary.json").read_text())
    model = make_model(summary, device)
    model.load_state_dict(torch.load(folder / "weights.pt", map_location=device, weights_only=True))
    target = COMPILE_TARGET_DICT["ase"]
    element = next(iter(summary["references"]))
    example = Atoms([element] * 8, positions=np.random.default_rng(0).uniform(0, 6, (8, 3)), cell=[6] * 3, pbc=True)
    graph = ChemicalSpeciesToAtomTypeMapper(list(summary["references"]))(from_ase(example))
    graph = NeighborListTransform(r_max=summary["settings"]["cutoff"])(graph)
    batch_map = {name: torch.export.Dim(name, min=2, max=torch.inf) for name in ("graph", "node", "edge")}
    metadata = {**model.metadata, **get_latest_global_state(only_metadata_related=True)}
    metadata = {key: str(int(value) if isinstance(value, bool) else value) for key, value in metadata.items()}
    metadata[NEQUIP_AOTI_INPUTS_KEY] = serialize_aoti_keys(target["input"])
    metadata[NEQUIP_AOTI_OUTPUTS_KEY] = serialize_aoti_keys(target["output"])
    aot_export_model(
        model=model.eval(),
        device=torch.device(device),
        input_fields=target["input"],
        output_fields=target["output"],
        data=target["data_settings"](AtomicDataDict.to_(graph, device)),
        batch_map=target["batch_map_settings"](batch_map),
        output_path=str(out),
        inductor_configs={"aot_inductor.metadata": metadata},
    )
