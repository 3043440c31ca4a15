"""Which frames to label so that the diffusion coefficient improves most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.potential import Potential
from mlip.studies.interface import Acquisition

FLOOR = 0.05
"""Distance to what is taken, over the farthest frame's, below which a frame is a duplicate."""


def contributions(frames: Sequence[Atoms], std: Sequence[np.ndarray], sensitivity: Mapping[str, float]) -> np.ndarray:
    """Relative error of D if all frames were like this one, [n_frames], the largest over the species.

    The error of D is the mean over frames and atoms of σ²τD/(kT)²: a frame's share is its own mean.

    Args:
        frames: structures.
        std: calibrated force uncertainty of each, [n_atoms, 3], eV/Å.
        sensitivity: τD/(kT)² per species, (eV/Å)⁻²; species without one count with their uncertainty alone.
    """
    shares = []
    for atoms, deviations in zip(frames, std, strict=True):
        symbols = np.array(atoms.get_chemical_symbols())
        shares.append(
            max(sensitivity.get(s, 1.0) * float((deviations[symbols == s] ** 2).mean()) for s in sorted(set(symbols)))
        )
    return np.array(shares)


def read_sensitivity(data: xr.Dataset) -> dict[str, float]:
    """τD/(kT)² per species where the measurement knows it."""
    if "error_sensitivity" not in data:
        return {}
    pairs = zip(data.species.values, data.error_sensitivity.values, strict=True)
    return {str(s): float(v) for s, v in pairs if np.isfinite(v) and v > 0}


def choose_frames(shares: np.ndarray, descriptors: np.ndarray, n: int) -> tuple[list[int], np.ndarray]:
    """At most ``n`` rows, greedily by share times distance to the rows taken; and each row's distance.

    The first is the row of the largest share. Rows nearer to a taken one than ``FLOOR`` of the largest
    distance are duplicates: successive frames of one block, say.
    """
    scaled = descriptors / descriptor_scale(descriptors)
    distance = np.linalg.norm(scaled - scaled.mean(0), axis=1)
    floor = FLOOR * float(distance.max(initial=0.0))
    distance = np.full(len(shares), np.inf)
    taken: list[int] = []
    usable = np.isfinite(shares)
    while len(taken) < n:
        score = np.where(usable & (distance > floor), shares * np.where(np.isinf(distance), 1.0, distance), -np.inf)
        if not len(score) or not np.isfinite(score.max()):
            break
        row = int(np.argmax(score))
        taken.append(row)
        usable[row] = False
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[row], axis=1))
    return taken, distance


def acquire_frames(frames: Sequence[Atoms], data: xr.Dataset, potential: Potential, n: int) -> Acquisition:
    """The frames whose force error contributes most to the error of D, unlike one another."""
    if not frames:
        return Acquisition([], [{"frame": "", "decision": "none", "reason": "the dynamics left no frame"}])
    predictions = potential.predict(frames)
    std = [p.forces_std for p in predictions]
    shares = contributions(frames, std, read_sensitivity(data))
    taken, distance = choose_frames(shares, describe_structures(potential, frames), n)
    order = {row: rank for rank, row in enumerate(taken)}
    candidates = []
    for row in taken:
        atoms = frames[row].copy()
        atoms.info = dict(frames[row].info) | {"reason": "diffusion"}
        candidates.append(atoms)
    rows = [_row(k, frames[k], std[k], shares[k], distance[k], order.get(k)) for k in np.argsort(-shares)]
    return Acquisition(candidates, rows)


def _row(k: int, atoms: Atoms, std: np.ndarray, share: float, distance: float, rank: int | None) -> dict[str, Any]:
    reason = "largest share times distance to those before" if rank is not None else "smaller share, or a duplicate"
    return {
        "frame": str(atoms.info.get("structure_id", k)),
        "time_fs": float(atoms.info.get("time_fs", np.nan)),
        "force_uncertainty_eV_per_A": float(np.sqrt((std**2).mean())),
        "share_of_relative_error": float(share),
        "decision": "left" if rank is None else "taken",
        "reason": reason if rank is None else f"{reason} (number {rank + 1})",
    }


def describe_structures(potential: Potential, structures: Sequence[Atoms]) -> np.ndarray:
    """Descriptor of each structure ``[n_structures, 2 * n_features]``: mean and spread over its atoms."""
    atomic = potential.describe(list(structures))
    return np.array([np.concatenate([d.mean(axis=0), d.std(axis=0)]) for d in atomic])


def descriptor_scale(descriptors: np.ndarray) -> np.ndarray:
    """Divisor per feature so that distances are in training-set standard deviations.

    Features that hardly vary are held down by a floor, and the dimension is divided out: two
    structures at distance 1 differ by one standard deviation in a typical feature.
    """
    spread = descriptors.std(axis=0)
    floor = 0.05 * float(spread.max(initial=0.0)) + 1e-12
    return np.maximum(spread, floor) * np.sqrt(descriptors.shape[1])
