"""Labels beside predictions, as a picture of both needs them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.potential.interface import Prediction
from mlip.structures.labelled import labelled_energy, labelled_forces
from mlip.structures.roles import is_audit


def tabulate_parity(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> xr.Dataset:
    """Labels and predictions: forces by ``atom_sample`` (eV/Å), energies by ``structure`` (eV/atom)."""
    pairs = list(zip(structures, predictions, strict=True))

    def atoms_array(values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(values) if values else np.zeros((0, 3))

    audit = [np.full(len(a), is_audit(a)) for a in structures]
    force = {"units": "eV/Å"}
    energy = {"units": "eV/atom"}
    sample = ("atom_sample", "space")
    return xr.Dataset(
        {
            "force_true": (sample, atoms_array([labelled_forces(a) for a in structures]), force),
            "force_predicted": (sample, atoms_array([p.forces for p in predictions]), force),
            "force_std": (sample, atoms_array([p.forces_std for p in predictions]), force),
            "audit": ("atom_sample", (np.concatenate(audit) if audit else np.zeros(0)).astype(np.int8)),
            "energy_true": ("structure", np.array([labelled_energy(a) / len(a) for a in structures]), energy),
            "energy_predicted": ("structure", np.array([p.energy / len(a) for a, p in pairs]), energy),
            "energy_std": ("structure", np.array([p.energy_std / len(a) for a, p in pairs]), energy),
            "structure_id": (
                "structure",
                np.array([str(a.info.get("structure_id", "?")) for a in structures], dtype=object),
            ),
        }
    )
