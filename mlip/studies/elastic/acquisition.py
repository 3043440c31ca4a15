"""Which strained structures to label: along the paths whose constants are most wrong or most uncertain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms, units

from mlip.potential import Potential
from mlip.properties.elastic.strains import StrainPath
from mlip.seeds import derive_rng
from mlip.studies.interface import Acquisition, Measurement

SHARES = (-1.0, -0.5, 0.5, 1.0)
COPIES = 3
"""One copy at its affine positions, the others with displaced atoms: forces against them are the force constants."""


def offer_strained(crystal: Atoms, paths: Sequence[StrainPath], strain: float, rattle: float, seed: int) -> list[Atoms]:
    """Strained copies of ``crystal`` along ``paths``, up to ``strain``, with atoms displaced by ``rattle`` (Å)."""
    rng = derive_rng(seed, "elastic", "offer")
    frames = []
    for path in paths:
        for share in SHARES:
            for copy in range(COPIES):
                atoms = path.apply(crystal, share * strain)
                if copy:
                    atoms.positions += rng.normal(0.0, rattle, (len(atoms), 3))
                atoms.info = {"path": path.name, "amplitude": share * strain, "displaced": bool(copy)}
                frames.append(atoms)
    return frames


def choose_strained(
    measurement: Measurement, reference: xr.Dataset, potential: Potential, n_labels: int
) -> Acquisition:
    """The frames with the largest score, no two alike before every path has its share.

    The score of a path is the error of its energy at the largest amplitude, relative to the reference's, plus the
    committee's; that of a frame is the path's times the frame's uncertainty relative to the others'.
    """
    weights = path_weights(measurement.data, reference)
    frames = list(measurement.frames)
    raw = np.array([max(p.energy_std / len(a), 1e-12) for p, a in zip(potential.predict(frames), frames, strict=True)])
    share = np.array([weights.get(atoms.info["path"], 0.0) for atoms in frames])
    size = np.array([abs(atoms.info["amplitude"]) for atoms in frames])
    score = share * (0.5 + raw / raw.max()) * (0.5 + size / size.max())
    taken: list[int] = []
    falling = score.copy()
    for _ in range(min(n_labels, len(frames))):
        best = int(np.argmax(np.where(np.isin(np.arange(len(frames)), taken), -1.0, falling)))
        taken.append(best)
        falling[[a.info["path"] == frames[best].info["path"] for a in frames]] *= 0.8
    rows: list[dict[str, Any]] = [
        {
            "path": atoms.info["path"],
            "amplitude": float(atoms.info["amplitude"]),
            "displaced": bool(atoms.info["displaced"]),
            "path_weight": float(share[k]),
            "energy_std_eV_per_atom": float(raw[k]),
            "score": float(score[k]),
            "decision": "taken" if k in taken else "left",
        }
        for k, atoms in enumerate(frames)
    ]
    rows.sort(key=lambda row: (row["decision"] == "left", -row["score"]))
    return Acquisition([frames[k] for k in taken], rows)


def path_weights(data: xr.Dataset, reference: xr.Dataset) -> dict[str, float]:
    """Relative error plus relative committee spread of what each path measures, the worse of both states.

    Times the factor by which labels along the path would shrink a posterior error, where it is known.
    """
    weights = {}
    for path in data.path.values:
        curvatures = _curvatures(data, path)
        worst = 0.0
        for state, value in curvatures.items():
            error = 0.0
            if "energy_density" in reference and path in reference.path.values and state in reference.state.values:
                true = _curvatures(reference, path)[state]
                error = abs(value - true) / max(abs(true), 1e-9)
            spread = 0.0
            if "model_error" in data:
                relative = data.model_error.sel(state=state) / abs(data.constants.sel(state=state)).clip(min=1e-9)
                spread = float(relative.max())
            worst = max(worst, error + spread)
        # Strains that the training data lack come first: their labels tell most.
        gain = float(data.expected_gain.sel(path=path).max()) if "expected_gain" in data else 1.0
        weights[str(path)] = max(worst, 1e-6) * gain
    return weights


def _curvatures(data: xr.Dataset, path: str) -> dict[str, float]:
    """E''/V (GPa) along ``path`` of every state, by a parabola through the energies."""
    curvatures = {}
    for state in data.state.values:
        energies = data.energy_density.sel(state=state, path=path)
        curvatures[str(state)] = 2 * float(np.polyfit(data.amplitude, energies, 2)[0]) / units.GPa
    return curvatures
