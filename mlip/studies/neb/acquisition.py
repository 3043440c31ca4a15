"""Which images to label: those that the barrier depends on and whose energies or forces are uncertain.

a_i = w_i (β² σ_E² + α σ_F⊥²), w_i = exp((E_i - E_max) / focus)

β² is by how much ln k feels an error of the energy, w_i keeps to the highest image, and the force across the path
decides where the path goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms, units

from mlip.studies.interface import Acquisition
from mlip.studies.neb.settings import Settings

KNOWN = 0.001
"""Å: an image none of whose atoms is farther from its place in a label has been labelled. Bonds of hydrogen have 30
eV/Å²: five times as far, the force of a label is another one than that of the saddle."""


def score_images(data: xr.Dataset, s: Settings) -> np.ndarray:
    """Score of each image of a path, [n_images]; of the ends and of what has been labelled, minus infinity.

    Where the energies are certain enough, or the acquisition is ``top``, the highest image comes first: what the
    verdict then lacks is its label. A path that slid onto an end has no highest image: there weights are alike and,
    where a potential is certain of it, every part without a label has one made, for it may know nothing of the barrier.
    """
    n, top = data.sizes["image"], int(data.top)
    has_saddle = int(data.n_imaginary) >= 0
    if s.acquisition == "uncertainty":
        scores = np.asarray(data.energy_std.values, float).copy()
    else:
        weight = np.exp((data.energy - data.energy.max()) / s.focus).values if has_saddle else np.ones(n)
        beta = 1 / (units.kB * s.temperatures[0])
        scores = weight * (beta**2 * data.energy_std.values**2 + s.force_weight * data.force_std.values**2)
        certain = bool((data.energy_std <= s.energy_std).all())
        if has_saddle and (certain or s.acquisition == "top"):
            scores[top] = np.inf
        elif certain and not has_saddle:
            far = data.label_distance.values
            scores = np.where(far > s.same_place, far, -np.inf)
    scores = np.where(data.label_distance.values < KNOWN, -np.inf, scores)
    scores[[0, -1]] = -np.inf
    return scores


def choose_images(
    data: Mapping[str, xr.Dataset], frames: Sequence[Atoms], done: Mapping[str, bool], s: Settings
) -> Acquisition:
    """At most ``s.n_labels`` images, of the paths that are not done, in turn from each."""
    scores = {name: score_images(table, s) for name, table in data.items()}
    images = {name: [a for a in frames if a.info["path"] == name] for name in data}
    order = {
        name: [int(k) for k in np.argsort(-scores[name], kind="stable") if scores[name][k] > -np.inf]
        for name in data
        if not done[name]
    }
    taken: dict[str, list[int]] = {name: [] for name in data}
    for turn in range(max((len(places) for places in order.values()), default=0)):
        for name, places in order.items():
            if turn < len(places) and sum(map(len, taken.values())) < s.n_labels:
                taken[name].append(places[turn])
    rows: list[dict[str, Any]] = []
    candidates = []
    for name, table in data.items():
        for k in taken[name]:
            atoms = images[name][k].copy()
            atoms.info |= {"reason": "acquired"}
            candidates.append(atoms)
        rows += [_row(name, table, k, float(scores[name][k]), k in taken[name]) for k in range(len(scores[name]))]
    rows.sort(key=lambda row: row["decision"] == "left")
    return Acquisition(candidates, rows)


def _row(name: str, data: xr.Dataset, k: int, score: float, taken: bool) -> dict[str, Any]:
    here = data.isel(image=k)
    return {
        "path": name,
        "image": k,
        "coordinate": float(here.coordinate),
        "energy": float(here.energy),
        "energy_std": float(here.energy_std),
        "force_std_across": float(here.force_std),
        "score": score,
        "decision": "taken" if taken else "left",
    }
