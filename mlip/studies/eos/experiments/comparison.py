"""Does the acquisition beat labelling at uniform densities, at equal labels? An experiment with several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms, units

from mlip.config.train import Train
from mlip.jobs.progress import Progress, silent
from mlip.labels.calculator import LabelFunction
from mlip.potential import Potential, load_potential
from mlip.seeds import derive_rng, derive_seed
from mlip.studies.eos.acquisition import apportion, score_states
from mlip.studies.eos.isotherms import member_pressures

ARMS = {"uniform": None, "uncertainty": 0.0, "uncertainty and deviation": 1.0}
"""λ of each way to choose; None spreads the labels evenly over the densities."""


@dataclass(frozen=True)
class Plan:
    """The experiment.

    Attributes:
        n_seeds: repetitions, with other frames, weights and choices.
        n_rounds: rounds of labelling.
        n_labels: labels of a round.
        n_start: labels to begin with, all at the density nearest to that of the starting structure.
        n_densities: densities, evenly spaced between the lowest and the highest of the study's.
        n_test: frames of each density that are labelled for the error alone, and as many for the scores.
    """

    n_seeds: int = 5
    n_rounds: int = 3
    n_labels: int = 4
    n_start: int = 6
    n_densities: int = 8
    n_test: int = 8


def compare_acquisitions(
    frames: Sequence[Atoms],
    label: LabelFunction,
    train: Train,
    plan: Plan,
    *,
    seed: int,
    scratch: Path,
    referred: bool = True,
    isolated: dict[str, float] | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Learning curves of the pressure for every arm of :data:`ARMS`.

    Every arm of a seed begins with the same labels at one density and chooses ``plan.n_labels`` a
    round from the same pool of frames. The error is the RMS over the densities of the mean pressure
    error on frames that are never trained on: at fixed configurations, so that the labels' own
    pressures are exact and no statistical error blurs the comparison. Scores come from frames that
    are neither: the labels' pressures there stand for the reference isotherm of the study.

    Args:
        frames: of all densities, with ``density`` in ``info``; at least ``5 plan.n_test`` of each.
        label: labels a structure.
        train: section ``train`` of the configuration; each training starts from scratch.
        plan: the experiment.
        seed: seed of the configuration.
        scratch: folder for potentials.
        referred: whether there is a reference; without, the last arm is left out and its frames are not labelled.
        isolated: energies of isolated atoms, eV; None fits them.
        progress: called after each training.

    Returns:
        ``pressure_rmse`` (seed, arm, round; GPa), ``pressure_error`` (seed, arm, round, density; GPa),
        ``labels`` (seed, arm, round, density: how many so far) and ``n_labels`` (round).
    """
    densities = sorted({float(frame.info["density"]) for frame in frames})
    tests, scored, pools = split_frames(frames, densities, plan.n_test)
    tests = [[label(frame) for frame in group] for group in tests]
    reference = np.array([labelled_pressure([label(frame) for frame in group]) for group in scored if referred])
    arms = {name: weight for name, weight in ARMS.items() if referred or not weight}
    shape = (plan.n_seeds, len(arms), plan.n_rounds + 1, len(densities))
    errors, labels = np.zeros(shape), np.zeros(shape, int)
    for s in range(plan.n_seeds):
        for a, (arm, weight) in enumerate(arms.items()):
            data = _Arm(pools, densities, plan, derive_seed(seed, "compare", s))
            for r in range(plan.n_rounds + 1):
                potential = data.fit(label, train, scratch, isolated)
                errors[s, a, r] = pressure_errors(potential, tests)
                labels[s, a, r] = data.counts
                rmse = float(np.sqrt(np.mean(errors[s, a, r] ** 2)))
                progress({"seed": s, "arm": arm, "round": r, "pressure_rmse_gpa": round(rmse, 6)})
                if r < plan.n_rounds:
                    data.choose(potential, scored, reference, weight)
    rounds = np.arange(plan.n_rounds + 1)
    return xr.Dataset(
        {
            "pressure_error": (("seed", "arm", "round", "density"), errors, {"units": "GPa"}),
            "pressure_rmse": (("seed", "arm", "round"), np.sqrt((errors**2).mean(-1)), {"units": "GPa"}),
            "labels": (("seed", "arm", "round", "density"), labels, {"units": "1"}),
            "n_labels": ("round", plan.n_start + plan.n_labels * rounds, {"units": "1"}),
        },
        coords={"arm": list(arms), "density": ("density", densities, {"units": "1"}), "round": rounds},
    )


def split_frames(
    frames: Sequence[Atoms], densities: Sequence[float], n_test: int
) -> tuple[list[list[Atoms]], list[list[Atoms]], list[list[Atoms]]]:
    """Frames to test on, to score with and to choose from, by density; interleaved in time, one, one and three in five.

    Raises:
        ValueError: where a density has too few frames.
    """
    groups = [[frame for frame in frames if frame.info["density"] == rho] for rho in densities]
    for rho, group in zip(densities, groups, strict=True):
        if len(group) < 5 * n_test:
            raise ValueError(f"density {rho:g} has {len(group)} frames; need {5 * n_test}: raise studies.eos.n_frames")
    tests, scored = ([group[k::5][:n_test] for group in groups] for k in (0, 1))
    return tests, scored, [[frame for k, frame in enumerate(group) if k % 5 > 1] for group in groups]


def labelled_pressure(labelled: Sequence[Atoms]) -> float:
    """Mean virial pressure of labels, GPa."""
    return -float(np.mean([atoms.get_stress()[:3].mean() for atoms in labelled])) / units.GPa


def pressure_errors(potential: Potential, tests: Sequence[Sequence[Atoms]]) -> np.ndarray:
    """Mean virial pressure of the potential less the labels', [n_densities] GPa."""
    differences = []
    for group in tests:
        predicted = [np.asarray(p.stress)[:3].mean() for p in potential.predict(group)]
        differences.append(-float(np.mean(predicted)) / units.GPa - labelled_pressure(group))
    return np.array(differences)


class _Arm:
    """One seed's data of one arm, and its choices."""

    def __init__(self, pools: Sequence[Sequence[Atoms]], densities: Sequence[float], plan: Plan, seed: int) -> None:
        self.plan, self.seed, self.turn = plan, seed, 0
        rng = derive_rng(seed, "frames")
        self.left = [[group[k] for k in rng.permutation(len(group))] for group in pools]
        self.known: list[Atoms] = []
        self.counts = np.zeros(len(densities), int)
        start = int(np.argmin(np.abs(np.array(densities) - 1)))
        self._take(np.eye(len(densities), dtype=int)[start] * plan.n_start)

    def _take(self, counts: np.ndarray) -> None:
        self.known += [group.pop() for group, n in zip(self.left, counts, strict=True) for _ in range(n)]
        self.counts = self.counts + counts

    def fit(self, label: LabelFunction, train: Train, scratch: Path, isolated: dict[str, float] | None) -> Potential:
        """A committee of the labels so far, from scratch."""
        from mlip.loop.train_committee import TrainingRequest, train_committee

        labelled = [label(frame) for frame in self.known]
        # Every fifth label calibrates, the same ones in all arms to begin with.
        valid = labelled[::5] if len(labelled) > 5 else []
        chosen = [atoms for k, atoms in enumerate(labelled) if not valid or k % 5]
        train_committee(
            TrainingRequest(chosen, valid, train, scratch, seed=self.seed % 2**31, isolated_energies=isolated)
        )
        return load_potential(scratch)

    def choose(
        self, potential: Potential, scored: Sequence[Sequence[Atoms]], reference: np.ndarray, weight: float | None
    ) -> None:
        """Take ``plan.n_labels`` more frames from the pool."""
        n, n_states = self.plan.n_labels, len(self.left)
        if weight is None:
            order = derive_rng(self.seed, "uniform").permutation(n_states)
            counts = np.bincount(order[(self.turn + np.arange(n)) % n_states], minlength=n_states)
            self.turn += n
        else:
            scores = _score(potential, scored, reference if weight else np.zeros(0), weight)
            counts = apportion(scores, np.array([len(group) for group in self.left]), n)
        self._take(counts)


def _score(potential: Potential, scored: Sequence[Sequence[Atoms]], reference: np.ndarray, weight: float) -> np.ndarray:
    """Scores of the densities as the study has them, with fixed configurations in place of dynamics."""
    scale = np.mean(list(potential.calibration.force_scale.values()))
    members = np.array([member_pressures(potential, group)[0].mean(0) for group in scored])
    columns = {"pressure": members.mean(1), "pressure_model_std": scale * members.std(1, ddof=1)}
    grid = ("density", "temperature")
    data = xr.Dataset({name: (grid, values[:, None]) for name, values in columns.items()})
    data["stable"] = xr.ones_like(data.pressure)
    known = xr.Dataset({"pressure": (grid, reference[:, None])} if len(reference) else {})
    return score_states(data, known, weight).score.values.ravel()


def summarise_comparison(data: xr.Dataset) -> list[dict[str, Any]]:
    """For each arm and round: labels, geometric mean of the RMS errors over the seeds (GPa), and against ``uniform``
    the geometric mean of the ratio, its 95 % interval (Student) and in how many seeds it was lower.
    """
    from scipy.stats import t as student

    logs = np.log(data.pressure_rmse)
    rows = []
    for arm in data.arm.values:
        for r in data["round"].values:
            errors, other = (logs.sel(arm=name, round=r).values for name in (arm, "uniform"))
            ratio, n = errors - other, len(errors)
            wide = float(student.ppf(0.975, n - 1) * ratio.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
            rows.append(
                {
                    "arm": str(arm),
                    "labels": int(data.n_labels.sel(round=r)),
                    "pressure_rmse_gpa": float(np.exp(errors.mean())),
                    "ratio": float(np.exp(ratio.mean())),
                    "ratio_interval": [float(np.exp(ratio.mean() - wide)), float(np.exp(ratio.mean() + wide))],
                    "lower_in": f"{int((ratio < 0).sum())} of {n}",
                }
            )
    return rows
