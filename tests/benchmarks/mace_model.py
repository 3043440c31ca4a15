"""mace-torch for the shared training loop and for the speed measurement (environment .venv-mace)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from mace import modules, tools  # before e3nn, whose data file torch loads only after mace has prepared it
from mace.calculators import MACECalculator
from mace.data import AtomicData, config_from_atoms
from mace.tools import torch_geometric

DEFAULTS: dict[str, Any] = {
    "cutoff": 5.0,
    "hidden_irreps": "32x0e",
    "max_ell": 3,
    "correlation": 3,
    "num_interactions": 2,
    "num_bessel": 8,
    "num_polynomial_cutoff": 5,
    "radial_mlp": [64, 64, 64],
    "mlp_irreps": "16x0e",
}


def build_model(
    train: Sequence[Atoms], settings: dict[str, Any], references: dict[str, float], seed: int, device: str
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model, and all that is needed to build it again."""
    settings = {**DEFAULTS, **settings}
    numbers = sorted({int(z) for atoms in train for z in atoms.numbers})
    z_table = tools.AtomicNumberTable(numbers)
    forces = np.concatenate([atoms.get_forces() for atoms in train])
    neighbors = []
    for atoms in train[:: max(1, len(train) // 40)]:
        graph = AtomicData.from_config(config_from_atoms(atoms), z_table=z_table, cutoff=settings["cutoff"])
        neighbors.append(graph.edge_index.shape[1] / len(atoms))
    by_number = {int(atoms.numbers[i]): atoms.symbols[i] for atoms in train for i in range(len(atoms))}
    summary = {
        "settings": settings,
        "numbers": numbers,
        "references": [references[by_number[z]] for z in numbers],
        "neighbors": float(np.mean(neighbors)),
        "scale": float(np.sqrt(np.square(forces).mean())),
        "seed": seed,
    }
    return make_model(summary, device), summary


def make_model(summary: dict[str, Any], device: str) -> torch.nn.Module:
    """The untrained model of ``summary``, in float32."""
    from e3nn import o3

    torch.set_default_dtype(torch.float32)
    torch.manual_seed(summary["seed"])
    settings = summary["settings"]
    model = modules.ScaleShiftMACE(
        r_max=settings["cutoff"],
        num_bessel=settings["num_bessel"],
        num_polynomial_cutoff=settings["num_polynomial_cutoff"],
        max_ell=settings["max_ell"],
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=settings["num_interactions"],
        num_elements=len(summary["numbers"]),
        hidden_irreps=o3.Irreps(settings["hidden_irreps"]),
        MLP_irreps=o3.Irreps(settings["mlp_irreps"]),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array(summary["references"]),
        avg_num_neighbors=summary["neighbors"],
        atomic_numbers=summary["numbers"],
        correlation=settings["correlation"],
        radial_MLP=settings["radial_mlp"],
        radial_type="bessel",
        atomic_inter_scale=summary["scale"],
        atomic_inter_shift=0.0,
    )
    return model.to(device)


def prepare(atoms: Atoms, summary: dict[str, Any], device: str) -> tuple[Any, float, torch.Tensor]:
    """Graph of ``atoms``, its energy beyond the references, and its forces."""
    z_table = tools.AtomicNumberTable(summary["numbers"])
    cutoff = summary["settings"]["cutoff"]
    graph = AtomicData.from_config(config_from_atoms(atoms), z_table=z_table, cutoff=cutoff).to(device)
    known = atoms.calc is not None and "forces" in atoms.calc.results
    forces = atoms.get_forces() if known else np.zeros((len(atoms), 3))
    return graph, atoms.get_potential_energy(), torch.tensor(forces, dtype=torch.float32, device=device)


def collate(items: list[Any]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch, energies [B] (eV), forces [N, 3] (eV/Å) and numbers of atoms [B]."""
    batch = torch_geometric.Batch.from_data_list([graph for graph, _, _ in items])
    sizes = batch.ptr[1:] - batch.ptr[:-1]
    energies = torch.tensor([energy for _, energy, _ in items], dtype=torch.float64, device=sizes.device)
    return batch.to_dict(), energies, torch.cat([forces for _, _, forces in items]), sizes


def predict(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], training: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies [B], summed in float64, and forces [N, 3]."""
    out = model(batch, training=training, compute_force=True)
    references = model.atomic_energies_fn.atomic_energies.double().reshape(-1)
    counts = torch.zeros(len(out["energy"]), len(references), dtype=torch.float64, device=references.device)
    counts.index_add_(0, batch["batch"], batch["node_attrs"].double())
    return out["interaction_energy"].double() + counts @ references, out["forces"]


def load_calculator(folder: Path, device: str) -> Calculator:
    """ASE calculator of a model that train_rival.py wrote, run eagerly in float32."""
    summary = json.loads((folder / "summary.json").read_text())
    model = make_model(summary, device)
    model.load_state_dict(torch.load(folder / "weights.pt", map_location=device, weights_only=True))
    return MACECalculator(models=[model.eval()], device=device, default_dtype="float32")
