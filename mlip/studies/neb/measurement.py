"""One path measured: band, uncertainties, saddle, rates, and what the labels say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.io.constraints import movable_mask
from mlip.potential import Potential
from mlip.structures.labelled import labelled_energy, labelled_forces
from mlip.studies.neb.endpoints import PathError, displacement, relax_end
from mlip.studies.neb.path import Evaluate, Path, evaluator, find_path, interpolate
from mlip.studies.neb.saddle import log_prefactor, log_rate_std, log_rates, n_imaginary, vibrate
from mlip.studies.neb.settings import Settings

UNITS = {
    "energy": "eV",
    "energy_std": "eV",
    "force_std": "eV/Å",
    "coordinate": "Å",
    "residual": "eV/Å",
    "barrier": "eV",
}
UNITS |= {"barrier_std": "eV", "reverse": "eV", "reverse_std": "eV", "log_rate": "ln(1/s)", "log_rate_std": "1"}
UNITS |= {
    "label_distance": "Å",
    "label_force": "eV/Å",
    "label_energy": "eV",
    "label_error": "eV",
    "frequency": "THz",
    "attempt": "THz",
}


@dataclass(frozen=True)
class Doubts:
    """What a committee is unsure of along a path.

    Attributes:
        energy: σ_E of the energies above the first image's, [n_images], eV: common errors of all images cancel.
        force: σ_F⊥ of the forces on movable atoms across the path, [n_images], eV/Å, over all components.
        reverse: σ_E of the highest image above the last one, eV.
    """

    energy: np.ndarray
    force: np.ndarray
    reverse: float


def doubt_path(path: Path, potential: Potential | None) -> Doubts:
    """Calibrated spreads of the members along ``path``; NaN without a potential."""
    if potential is None:
        unknown = np.full(len(path.images), np.nan)
        return Doubts(unknown, unknown, float("nan"))
    predictions = potential.predict(path.images)
    members = np.array([p.energy_members for p in predictions])
    scale = potential.calibration.energy_scale
    energy = scale * (members - members[0]).std(axis=1, ddof=1)
    reverse = scale * float((members[path.top] - members[-1]).std(ddof=1))
    movable = movable_mask(path.images[0])
    free = np.ones((len(path.images[0]), 3), bool) if movable is None else movable
    across = []
    for prediction, tangent in zip(predictions, path.tangents(), strict=True):
        spread = (prediction.forces_members - prediction.forces) * free
        along = tangent * free
        spread = spread - (spread * along).sum(axis=(1, 2), keepdims=True) * along
        raw = np.sqrt((spread**2).sum(axis=(0, 2)) / (len(spread) - 1))
        scales = potential.calibration.scale_forces(path.images[0].get_chemical_symbols(), raw)[:, 0]
        across.append(float(np.linalg.norm(scales * free.any(axis=1))))
    return Doubts(energy, np.array(across), reverse)


def measure_path(
    ends: tuple[Atoms, Atoms], calculator: Any, potential: Potential | None, training: Sequence[Atoms], s: Settings
) -> tuple[xr.Dataset, list[Atoms]]:
    """Path, barriers, modes and rates, and the nearest label of the saddle; the images are the frames.

    Args:
        ends: relaxed.
        calculator: any ASE calculator; of the mean where it is a potential's.
        potential: whose committee tells uncertainties.
        training: labelled structures, of other paths and systems, too.
        s: settings of the study.
    """
    evaluate = evaluator(calculator, potential)
    path = find_path(interpolate(*ends, s.n_images), evaluate, fmax=s.path_fmax, n_steps=s.n_steps)
    doubts, top = doubt_path(path, potential), path.top
    data: dict[str, object] = {
        "coordinate": ("image", path.coordinates()),
        "energy": ("image", path.energies - path.energies[0]),
        "energy_std": ("image", doubts.energy),
        "force_std": ("image", doubts.force),
        "top": ((), top),
        "residual": ((), path.residual),
        "barrier": ((), path.energies[top] - path.energies[0]),
        "barrier_std": ((), doubts.energy[top]),
        "reverse": ((), path.energies[top] - path.energies[-1]),
        "reverse_std": ((), doubts.reverse),
    }
    data |= _rates(path, calculator, evaluate, data, s) | _labels(path, evaluate, training, s)
    frames = []
    for k, image in enumerate(path.images):
        frames.append(image.copy())
        frames[-1].info = {key: v for key, v in image.info.items() if key in ("charge", "spin")} | {"image": k}
    table = xr.Dataset(data, coords={"temperature": ("temperature", list(s.temperatures), {"units": "K"})})
    for name in table.data_vars:
        table[name].attrs["units"] = UNITS.get(str(name), "1")
    return table, frames


def _rates(path: Path, calculator: Any, evaluate: Evaluate, data: dict[str, object], s: Settings) -> dict[str, object]:
    """Modes, attempt frequencies and ln k of both directions; NaN where the path has no saddle."""
    nothing = np.full((2, len(s.temperatures)), np.nan)
    if not path.has_saddle(s.same_place):
        none = {"n_imaginary": ((), -1), "imaginary": ((), np.nan), "attempt": ("direction", [np.nan, np.nan])}
        return none | {
            "log_rate": (("direction", "temperature"), nothing),
            "log_rate_std": (("direction", "temperature"), nothing),
        }
    saddle = vibrate(path.images[path.top], evaluate)
    minima = [_minimum(path.images[k], calculator, s.path_fmax) for k in (0, -1)]
    attempts = [log_prefactor(vibrate(minimum, evaluate), saddle) for minimum in minima]
    barriers = [float(path.energies[path.top] - path.energies[k]) for k in (0, -1)]
    stds = [float(data[name][1]) for name in ("barrier_std", "reverse_std")]  # type: ignore[index]
    rates = [log_rates(b, a, s.temperatures) for b, a in zip(barriers, attempts, strict=True)]
    return {
        "n_imaginary": ((), n_imaginary(saddle)),
        "imaginary": ((), saddle.min(initial=np.inf)),
        "attempt": ("direction", np.exp(attempts) / 1e12),
        "log_rate": (("direction", "temperature"), rates),
        "log_rate_std": (("direction", "temperature"), [log_rate_std(std, s.temperatures) for std in stds]),
    }


def _minimum(end: Atoms, calculator: Any, fmax: float) -> Atoms:
    """``end`` at rest where it is measured: the labeller's minimum is near it, and may be none."""
    try:
        return relax_end(end, calculator, fmax / 2, "an end")[-1]
    except PathError:
        return end


def _labels(path: Path, evaluate: Evaluate, training: Sequence[Atoms], s: Settings) -> dict[str, object]:
    """The label of the saddle: of those in its place, the one with the least force; and those along the path."""
    same = [atoms for atoms in training if is_same_system(atoms, path.images[0])]
    found = {"label_force": ((), np.nan), "label_energy": ((), np.nan), "label_error": ((), np.nan)}
    gaps = np.array([[farthest(image, atoms) for atoms in same] for image in path.images])
    here = [atoms for atoms, gap in zip(same, gaps[path.top], strict=True) if gap < s.same_place]
    if here and gaps[0].min() < s.same_place and path.has_saddle(s.same_place):
        best, first = min(here, key=_largest_force), same[int(gaps[0].argmin())]
        energy = labelled_energy(best) - labelled_energy(first)
        predicted, base = (result[0] for result in evaluate([best, first]))
        found["label_force"] = ((), _largest_force(best))
        found["label_energy"] = ((), energy)
        found["label_error"] = ((), abs(predicted - base - energy))
    return found | {"n_labels": ((), len(same)), "label_distance": ("image", gaps.min(axis=1, initial=np.inf))}


def is_same_system(atoms: Atoms, other: Atoms) -> bool:
    """Whether both have the same atoms in the same order and cell."""
    return (
        len(atoms) == len(other)
        and bool((atoms.numbers == other.numbers).all())
        and bool(np.allclose(atoms.cell, other.cell, atol=1e-4))
    )


def farthest(atoms: Atoms, other: Atoms) -> float:
    """How far the farthest atom of one is from its place in the other, Å."""
    return float(np.linalg.norm(displacement(atoms, other), axis=1).max())


def _largest_force(atoms: Atoms) -> float:
    """Of the label on an atom, in the coordinates that may move, eV/Å."""
    movable = movable_mask(atoms)
    forces = labelled_forces(atoms) * (1 if movable is None else movable)
    return float(np.linalg.norm(forces, axis=1).max())
