"""Which training structures made an elastic constant what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from ase import Atoms, units
from scipy.stats import theilslopes

from mlip.config.train import Train
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.calculator import MLIPCalculator
from mlip.properties.elastic.constants import Elasticity, IonState, measure_elasticity, powers_of
from mlip.properties.elastic.strains import ISOTROPIC, PathSamples, energy_rows, polynomial_term
from mlip.structures.labelled import labelled_forces
from mlip.training.ace.readout import Readout, build_readout, evaluate_columns

SUSPECT = 5.0
"""Robust standard deviations by which a left-out structure's error must exceed that of its like."""
VOLUME_STEP = 0.01
KEPT, STARTS, PASSES = 0.7, 5, 6
"""Share of structures that the screening fits, random starts, and passes from each."""


def constant_functional(elasticity: Elasticity, potential: ACEPotential) -> tuple[list[Atoms], np.ndarray]:
    """Frames, and every constant's derivative by their energies, [n_states * n_constants, n_frames] GPa/eV.

    By energy, with the shift of the equilibrium volume for cubic crystals. At relaxed positions the
    energy does not change to first order when they move: the derivative at fixed positions is the whole one.
    """
    paths_of_states = [(state, samples) for state, paths in elasticity.samples.items() for samples in paths]
    ends = np.cumsum([len(samples.frames) for _, samples in paths_of_states])
    frames = [atoms for _, samples in paths_of_states for atoms in samples.frames]
    unit = np.split(np.eye(len(frames)), ends[:-1])
    slopes = _volume_slopes(elasticity, potential)
    parts = [
        _state_gradient(
            elasticity, state, [e for (s, _), e in zip(paths_of_states, unit, strict=True) if s == state], slopes
        )
        for state in elasticity.samples
    ]
    return frames, np.concatenate(parts)


def _state_gradient(
    elasticity: Elasticity, state: IonState, energies: Sequence[np.ndarray], slopes: dict[IonState, np.ndarray]
) -> np.ndarray:
    """[n_constants, D] from the derivatives [n_amplitudes, D] of the energies along each path."""
    samples, volume = elasticity.samples[state], elasticity.crystal.get_volume()
    inverse = np.linalg.pinv(energy_rows(elasticity.basis, [path.path for path in samples]))
    curvatures = [_term(path, e, 2) for path, e in zip(samples, energies, strict=True)]
    gradient = inverse @ (2 * np.array(curvatures) / volume / units.GPa)
    if state in slopes:
        isotropic = [path.path for path in samples].index(ISOTROPIC)
        pressure = -_term(samples[isotropic], energies[isotropic], 1) / (3 * volume) / units.GPa
        gradient = gradient + slopes[state][:, None] * pressure / _bulk_modulus(elasticity, state)
    return np.asarray(gradient)


def _term(samples: PathSamples, energies: np.ndarray, power: int) -> np.ndarray:
    """Coefficient [D] of the amplitude's ``power`` in energies [n_amplitudes, D]."""
    return polynomial_term(
        samples.amplitudes, energies - energies.mean(0), powers_of(samples.path, samples.amplitudes), power
    )[0]


def _bulk_modulus(elasticity: Elasticity, state: IonState) -> float:
    tensor = elasticity.basis.tensor(elasticity.by_energy[state].values)
    return float(tensor[:3, :3].mean())


def _volume_slopes(elasticity: Elasticity, potential: ACEPotential) -> dict[IonState, np.ndarray]:
    """dC/d(ln V), GPa, [n], by state; empty for crystals that are not cubic."""
    if elasticity.basis.crystal_system != "cubic":
        return {}
    calculator = MLIPCalculator(potential, uncertainty=False)
    amplitudes = [a for a in elasticity.samples["clamped"][0].amplitudes.tolist() if a > 0]
    ends = []
    for sign in (1, -1):
        crystal = elasticity.crystal.copy()
        crystal.set_cell(crystal.cell.array * np.exp(sign * VOLUME_STEP / 3), scale_atoms=True)
        relaxed = "relaxed" in elasticity.samples
        ends.append(measure_elasticity(crystal, calculator, amplitudes=amplitudes, relax=relaxed).by_energy)
    return {s: (ends[0][s].values - ends[1][s].values) / (2 * VOLUME_STEP) for s in elasticity.samples}


@dataclass(frozen=True)
class Attribution:
    """Training structures and the constants they shape.

    Attributes:
        influenced: e.g. "C44 relaxed", [n_influenced].
        influence: change of the constant if a structure is left out, exact for the last layer, [n_influenced, n] GPa.
        plain: the same by the influence function, without leverage.
        surprise: error of each structure when left out, over the median, of energies, forces and virials, [3, n].
        suspicion: how far, in robust standard deviations, that exceeds what forces of that size should have, [n].
        posterior: standard deviation of each constant by the last layer's fit, [n_influenced] GPa.
        readouts: the problems of the members.
        gradients: of the members, [n_members, n_influenced, D].
    """

    influenced: tuple[str, ...]
    influence: np.ndarray
    plain: np.ndarray
    surprise: np.ndarray
    suspicion: np.ndarray
    posterior: np.ndarray
    readouts: tuple[Readout, ...]
    gradients: np.ndarray

    @property
    def suspects(self) -> np.ndarray:
        """Structures whose labels do not fit the others', [k], most suspicious first."""
        order = np.argsort(-self.suspicion)
        return order[self.suspicion[order] > SUSPECT]

    def without(self, dropped: Sequence[int]) -> np.ndarray:
        """Change of every constant if the structures ``dropped`` are left out together, [n_influenced] GPa."""
        kept = np.setdiff1d(np.arange(len(self.suspicion)), np.asarray(dropped, dtype=int))
        changes = [g @ (r.refit(kept) - r.weights) for g, r in zip(self.gradients, self.readouts, strict=True)]
        return np.sum(changes, axis=0)

    def table(self, structures: Sequence[Atoms]) -> xr.Dataset:
        """As variables of the study's data set."""
        names = [str(a.info.get("structure_id", k)) for k, a in enumerate(structures)]
        dims = ("influenced", "structure")
        return xr.Dataset(
            {
                "influence": (dims, self.influence, {"units": "GPa", "long_name": "change if left out, exact"}),
                "influence_plain": (dims, self.plain, {"units": "GPa", "long_name": "the same, influence function"}),
                "surprise": (("label", "structure"), self.surprise, {"units": "1"}),
                "suspicion": ("structure", self.suspicion, {"units": "1"}),
                "suspect": ("structure", (self.suspicion > SUSPECT).astype(np.int8), {"units": "1"}),
                "posterior_error": ("influenced", self.posterior, {"units": "GPa"}),
            },
            {"influenced": list(self.influenced), "structure": names, "label": ["energy", "forces", "virial"]},
        )


def attribute(
    potential: ACEPotential, training: Sequence[Atoms], settings: Train, elasticity: Elasticity
) -> Attribution:
    """Influence of every structure of ``training`` on every constant of ``elasticity``, clamped and relaxed.

    Args:
        potential: whose constants ``elasticity`` holds.
        training: labelled structures.
        settings: with the weights of the loss.
        elasticity: the constants, measured with ``potential``.
    """
    frames, functional = constant_functional(elasticity, potential)
    members = range(potential.n_members)
    columns = [evaluate_columns(potential, frames, m).energies[:, 1:] for m in members]
    stacked = np.array([functional @ member_columns for member_columns in columns]) / len(columns)
    readouts = [build_readout(potential, training, settings, m) for m in members]
    exact = sum(g @ r.leave_out().T for g, r in zip(stacked, readouts, strict=True))
    plain = sum(g @ r.leave_out(exact=False).T for g, r in zip(stacked, readouts, strict=True))
    surprise, suspicion = screen_labels(readouts, training)
    count = len(readouts)
    variances = [
        [r.variance(count * g) for g in member_columns] for member_columns, r in zip(stacked, readouts, strict=True)
    ]
    return Attribution(
        influenced=tuple(f"{name} {state}" for state in elasticity.samples for name in elasticity.basis.names),
        influence=np.asarray(exact),
        plain=np.asarray(plain),
        surprise=surprise,
        suspicion=suspicion,
        posterior=np.sqrt(np.mean(variances, axis=0)),
        readouts=tuple(readouts),
        gradients=stacked,
    )


def screen_labels(readouts: Sequence[Readout], training: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Surprise [3, n] and suspicion [n] of every structure, by a fit that wrong labels do not bend.

    Least trimmed squares by structures: fit the KEPT share that is least suspect, judge all by it, repeat
    (P. J. Rousseeuw and K. Van Driessen, Technometrics 41, 212 (1999)); several structures with the same
    fault would hide each other from single omissions.
    """
    n = len(training)
    forces = np.log([max(float(np.sqrt(np.mean(labelled_forces(a) ** 2))), 1e-3) for a in training])
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for start in range(STARTS):
        order = np.random.default_rng([start, n]).permutation(n) if start else np.arange(n)
        kept = np.sort(order[: n if start == 0 else max(2, n // 2)])
        for _ in range(PASSES):
            surprise = np.mean([r.surprise(kept) for r in readouts], axis=0)
            suspicion = _suspicion(surprise, forces)
            before, kept = kept, np.sort(np.argsort(suspicion)[: max(2, int(KEPT * n))])
            if np.array_equal(before, kept):
                break
        objective = float(np.nanmean(np.log(surprise[:, kept] + 1e-12)))
        if best is None or objective < best[0]:
            best = objective, surprise, suspicion
    if best is None:
        raise RuntimeError("no start")
    return best[1] / np.nanmedian(best[1], axis=1, keepdims=True).clip(min=1e-12), best[2]


def _suspicion(surprise: np.ndarray, log_forces: np.ndarray) -> np.ndarray:
    """Surprise [3, n] about its trend with the RMS force, over its robust standard deviation; the largest of [3].

    Violent structures are hard to predict: that alone makes no label wrong.
    """
    scores = []
    for values in surprise:
        known = np.isfinite(values)
        if not known.any():
            continue
        logs = np.log(np.maximum(values[known], 1e-12))
        slope = max(0.0, float(theilslopes(logs, log_forces[known])[0])) if np.ptp(log_forces[known]) > 0.1 else 0.0
        rest = np.exp(logs - slope * log_forces[known])
        full = np.zeros(len(values))
        full[known] = rest / max(float(np.median(rest)) / 0.6745, 1e-12)
        scores.append(full)
    return np.max(scores, axis=0)
