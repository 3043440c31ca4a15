"""Does the acquisition beat labelling at uniform densities, at equal labels? An experiment with several seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config import Train
from mlip.potential import Potential, load_potential
from mlip.seeds import derive_rng, derive_seed
from mlip.studies.eos.acquisition import apportion, score_states
from mlip.studies.eos.isotherms import member_pressures
from mlip.studies.interface import Progress, silent

ARMS = {"uniform": None, "uncertainty": 0.0, "uncertainty and deviation": 1.0}
"""λ of each way to choose; None spreads the labels evenly over the densities."""

Label = Callable[[Atoms], Atoms]


@dataclass(frozen=True)
class Plan:
    """The experiment.

    Attributes:
        n_seeds: repetitions, with other frames, weights and choices.
        n_rounds: rounds of labelling.
        n_labels: labels of a round.
        n_start: labels to begin with, all at the density nearest to that of the starting structure.
        n_densities: densities, evenly spaced between the lowest and the highest of the study's.
        n_test: frames of each density that are labelled for the error alone.
    """

    n_seeds: int = 5
    n_rounds: int = 3
    n_labels: int = 4
    n_start: int = 6
    n_densities: int = 8
    n_test: int = 8


def calculator_label(calculator: Any) -> Label:
    """A function that labels a structure with an ASE ``calculator``."""

    def label(atoms: Atoms) -> Atoms:
        copy = atoms.copy()
        copy.calc = calculator
        values = {"energy": copy.get_potential_energy(), "forces": copy.get_forces(), "stress": copy.get_stress()}
        copy.calc = SinglePointCalculator(copy, **values)
        return copy

    return label


def compare_acquisitions(
    frames: Sequence[Atoms],
    label: Label,
    train: Train,
    plan: Plan,
    *,
    seed: int,
    scratch: Path,
    isolated: dict[str, float] | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Learning curves of the pressure for every arm of :data:`ARMS`.

    Every arm of a seed begins with the same labels at one density and chooses ``plan.n_labels`` a
    round from the same pool of frames. The error is the RMS over the densities of the mean pressure
    error on frames that are never trained on: at fixed configurations, so that the labels' own
    pressures are exact and no statistical error blurs the comparison.

    Args:
        frames: of all densities, with ``density`` in ``info``; at least ``plan.n_test`` + some for the pool each.
        label: labels a structure.
        train: section ``train`` of the configuration; each training starts from scratch.
        plan: the experiment.
        seed: seed of the configuration.
        scratch: folder for potentials.
        isolated: energies of isolated atoms, eV; None fits them.
        progress: called after each training.

    Returns:
        ``pressure_rmse`` (seed, arm, round; GPa), ``pressure_error`` (seed, arm, round, density; GPa),
        ``labels`` (seed, arm, round, density: how many so far) and ``n_labels`` (round).
    """
    densities = sorted({float(frame.info["density"]) for frame in frames})
    pools, tests = split_pool(frames, densities, plan.n_test)
    tests = {rho: [label(frame) for frame in group] for rho, group in tests.items()}
    shape = (plan.n_seeds, len(ARMS), plan.n_rounds + 1, len(densities))
    errors, labels = np.zeros(shape), np.zeros(shape, int)
    for s in range(plan.n_seeds):
        for a, weight in enumerate(ARMS.values()):
            own = _Arm(pools, densities, plan, derive_seed(seed, "compare", s))
            for r in range(plan.n_rounds + 1):
                potential = own.fit(label, train, scratch, isolated)
                errors[s, a, r] = pressure_errors(potential, tests)
                labels[s, a, r] = own.counts
                rmse = float(np.sqrt(np.mean(errors[s, a, r] ** 2)))
                progress({"seed": s, "arm": list(ARMS)[a], "round": r, "pressure_rmse_gpa": round(rmse, 6)})
                if r < plan.n_rounds:
                    own.choose(potential, tests, weight)
    rounds = np.arange(plan.n_rounds + 1)
    return xr.Dataset(
        {
            "pressure_error": (("seed", "arm", "round", "density"), errors, {"units": "GPa"}),
            "pressure_rmse": (("seed", "arm", "round"), np.sqrt((errors**2).mean(-1)), {"units": "GPa"}),
            "labels": (("seed", "arm", "round", "density"), labels, {"units": "1"}),
            "n_labels": ("round", plan.n_start + plan.n_labels * rounds, {"units": "1"}),
        },
        coords={"arm": list(ARMS), "density": ("density", densities, {"units": "1"}), "round": rounds},
    )


def split_pool(
    frames: Sequence[Atoms], densities: Sequence[float], n_test: int
) -> tuple[dict[float, list[Atoms]], dict[float, list[Atoms]]]:
    """Frames to choose from and frames to test on, by density: the first ``n_test`` of each in time are tests.

    Raises:
        ValueError: where a density has too few frames.
    """
    pools, tests = {}, {}
    for rho in densities:
        own = [frame for frame in frames if frame.info["density"] == rho]
        if len(own) < 2 * n_test:
            raise ValueError(f"density {rho:g} has {len(own)} frames; need {2 * n_test}: raise studies.eos.n_frames")
        tests[rho], pools[rho] = own[:n_test], own[n_test:]
    return pools, tests


def pressure_errors(potential: Potential, tests: dict[float, list[Atoms]]) -> np.ndarray:
    """Mean virial pressure of the potential less the labels', [n_densities] GPa."""
    found = []
    for group in tests.values():
        predicted = [np.asarray(p.stress)[:3].mean() for p in potential.predict(group)]
        labelled = [a.get_stress()[:3].mean() for a in group]
        found.append(-np.mean(np.subtract(predicted, labelled)) / units.GPa)
    return np.array(found)


class _Arm:
    """One seed's data of one arm, and its choices."""

    def __init__(self, pools: dict[float, list[Atoms]], densities: Sequence[float], plan: Plan, seed: int) -> None:
        self.densities, self.plan, self.seed = list(densities), plan, seed
        self.rng = derive_rng(seed, "frames")
        self.left = {rho: [group[k] for k in self.rng.permutation(len(group))] for rho, group in pools.items()}
        self.known: list[Atoms] = []
        self.counts = np.zeros(len(self.densities), int)
        start = int(np.argmin(np.abs(np.array(densities) - 1)))
        self._take(np.eye(len(self.densities), dtype=int)[start] * plan.n_start)
        self.turn = 0

    def _take(self, counts: np.ndarray) -> None:
        for rho, n in zip(self.densities, counts, strict=True):
            for _ in range(n):
                self.known.append(self.left[rho].pop())
        self.counts = self.counts + counts

    def fit(self, label: Label, train: Train, scratch: Path, isolated: dict[str, float] | None) -> Potential:
        """A committee of the labels so far, from scratch."""
        from mlip.training import train_committee

        labelled = [label(frame) for frame in self.known]
        # Every fifth label calibrates, the same ones in all arms to begin with.
        valid = labelled[::5] if len(labelled) > 5 else []
        chosen = [atoms for k, atoms in enumerate(labelled) if not valid or k % 5]
        train_committee(chosen, valid, train, scratch, seed=self.seed % 2**31, isolated_energies=isolated)
        return load_potential(scratch)

    def choose(self, potential: Potential, tests: dict[float, list[Atoms]], weight: float | None) -> None:
        """Take ``plan.n_labels`` more frames from the pool."""
        n, n_states = self.plan.n_labels, len(self.densities)
        if weight is None:
            counts = np.zeros(n_states, int)
            order = derive_rng(self.seed, "uniform").permutation(n_states)
            for k in range(n):
                counts[order[(self.turn + k) % n_states]] += 1
            self.turn += n
        else:
            available = np.array([len(self.left[rho]) for rho in self.densities])
            counts = apportion(self._scores(potential, tests, weight), available, n)
        self._take(counts)

    def _scores(self, potential: Potential, tests: dict[float, list[Atoms]], weight: float) -> np.ndarray:
        """Scores of the densities as the study has them, with fixed configurations in place of dynamics."""
        spread, mean, reference = [], [], []
        for group in tests.values():
            members = member_pressures(potential, group)[0].mean(0)
            spread.append(members.std(ddof=1) * np.mean(list(potential.calibration.force_scale.values())))
            mean.append(members.mean())
            reference.append(-np.mean([a.get_stress()[:3].mean() for a in group]) / units.GPa)
        grid = ("density", "temperature")

        def column(values: Sequence[float]) -> tuple[tuple[str, str], np.ndarray]:
            return grid, np.array(values)[:, None]

        data = xr.Dataset({"pressure": column(mean), "pressure_model_std": column(spread)})
        data["stable"] = xr.ones_like(data.pressure)
        return score_states(data, xr.Dataset({"pressure": column(reference)}), weight).score.values.ravel()


def summarise_comparison(data: xr.Dataset) -> list[dict[str, Any]]:
    """For each arm and round: labels, geometric mean of the RMS errors over the seeds (GPa), and against ``uniform``
    the geometric mean of the ratio, its 95 % interval (Student) and in how many seeds it was lower.
    """
    from scipy.stats import t as student

    logs = np.log(data.pressure_rmse)
    rows = []
    for arm in data.arm.values:
        for r in data["round"].values:
            own, other = (logs.sel(arm=name, round=r).values for name in (arm, "uniform"))
            ratio, n = own - other, len(own)
            wide = float(student.ppf(0.975, n - 1) * ratio.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
            rows.append(
                {
                    "arm": str(arm),
                    "labels": int(data.n_labels.sel(round=r)),
                    "pressure_rmse_gpa": float(np.exp(own.mean())),
                    "ratio": float(np.exp(ratio.mean())),
                    "ratio_interval": [float(np.exp(ratio.mean() - wide)), float(np.exp(ratio.mean() + wide))],
                    "lower_in": f"{int((ratio < 0).sum())} of {n}",
                }
            )
    return rows
