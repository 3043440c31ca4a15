"""Does the certificate hold, and is it of use? Simulated loops of ten looks, from the draw to the bound.

    python tests/benchmarks/selection/simulate_certificate.py --loops 1000 --out certificate

writes ``certificate.md`` and ``certificate.json``. Every iteration makes 200 frames whose squared errors are log-normal
with 72 % of the sum in the worst tenth, draws audits by what the potential of that iteration predicts, and certifies
with errors and predictions of the present one, which share a part with the earlier ones. Correlations are Pearson's
between a frame's RMS error and its expected one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mlip.active.audits import FLOOR, draw_audits
from mlip.active.certificate import AuditedIteration, Certificate, certify
from mlip.seeds import derive_rng

WIDTH = 1.864
"""Standard deviation of the log squared error: the worst tenth of a log-normal then has 72 % of the sum."""
N_FRAMES = 200
N_LOOKS = 10
KEPT_PREDICTION, KEPT_ERROR = 0.8, 0.5
"""Variance of the logarithms of predictions and of ratios that stays with a frame from potential to potential."""
GRID = np.linspace(-7, 7, 4001)
LEVEL = 0.8
"""Of its target that a potential has whose certificate is waited for."""

Look = tuple[list[AuditedIteration], float, float]
"""Audits so far, true RMSE of all frames and of the latest iteration's."""


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Attributes:
        name: for the table.
        audits: of an iteration.
        correlation: of a frame's RMS error with the expected one, where that is calibrated.
        tail: distribution of squared error over expected one: ``lognormal``, ``chi2`` (3 degrees of freedom) or ``F``
            (6 and 5: so heavy that its third moment does not exist).
        noisy: whether the prediction scatters about the expected error as much as the error itself does.
        blind: share of frames whose RMS error is ``blind_factor`` times what is predicted.
        blind_factor: see ``blind``.
        hidden: whether such frames are predicted to be better than most: .3 of the median squared error.
        moved: whether from the sixth iteration on errors are twice what is predicted, as in a region not seen before.
        floor: uniform share of the draw.
    """

    name: str
    audits: int = 8
    correlation: float = 0.9
    tail: str = "lognormal"
    noisy: bool = False
    blind: float = 0.0
    blind_factor: float = 100.0
    hidden: bool = False
    moved: bool = False
    floor: float = FLOOR


SCENARIOS = (
    Scenario("correlation .9"),
    Scenario("correlation .9, 4 audits", audits=4),
    Scenario("correlation .97", correlation=0.97),
    Scenario("correlation .97, 4 audits", audits=4, correlation=0.97),
    Scenario("correlation .9, ratios χ²(3)", tail="chi2"),
    Scenario("correlation .9, ratios F(6, 5)", tail="F"),
    Scenario("correlation .9, noise on predictions", noisy=True),
    Scenario("correlation .5", correlation=0.5),
    Scenario("correlation .5, 4 audits", correlation=0.5, audits=4),
    Scenario("correlation .5, noise on predictions", correlation=0.5, noisy=True),
    *(Scenario(f"blind spot of {100 * share:.0f} %", blind=share) for share in (0.02, 0.05, 0.1, 0.2)),
    *(Scenario(f"hidden blind spot of {100 * share:.0f} %", blind=share, hidden=True) for share in (0.02, 0.1, 0.2)),
    Scenario("blind spot of 10 %, 4 audits", blind=0.1, audits=4),
    Scenario("blind spot of 10 %, error × 10", blind=0.1, blind_factor=10.0),
    Scenario("region of twice the predicted error", moved=True),
)


@dataclass
class Tally:
    """What became of one scenario's loops, one entry each.

    Attributes:
        held: whether all bounds that were given held.
        latest_held: likewise, those of the latest iteration's frames.
        spoken: whether bounds that did not hold at least named an unseen share above that of the blind spot.
        refused: share of looks with enough audits and no bound.
        certified: audits at which a potential at .8 of its target was certified; infinite if it was not.
        false: whether one at 1.05 of its target was certified at any look.
        factors: bound over truth of every look that has one.
    """

    held: list[bool] = field(default_factory=list)
    latest_held: list[bool] = field(default_factory=list)
    spoken: list[bool] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    certified: list[float] = field(default_factory=list)
    false: list[bool] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def add(self, certificates: list[tuple[Certificate, float, float]], blind: float) -> None:
        """Count one loop."""
        looked = [found for found in certificates if found[0].look]
        given = [(c, c.upper / truth, c.upper_latest / latest) for c, truth, latest in looked if c.upper is not None]
        self.held.append(all(factor >= 1 for _, factor, _ in given))
        self.latest_held.append(all(factor >= 1 for _, _, factor in given))
        self.spoken.append(all(factor >= 1 or c.unseen >= blind > 0 for c, factor, _ in given))
        self.refused.append(1 - len(given) / max(len(looked), 1))
        self.certified.append(min((float(c.n_audits) for c, factor, _ in given if factor * LEVEL <= 1), default=np.inf))
        self.false.append(any(factor * 1.05 <= 1 for _, factor, _ in given))
        self.factors += [factor for _, factor, _ in given]

    def as_row(self) -> dict[str, float]:
        """Shares and medians over the loops."""
        certified = np.array(self.certified)
        return {
            "held": float(np.mean(self.held)),
            "latest_held": float(np.mean(self.latest_held)),
            "spoken": float(np.mean(self.spoken)),
            "refused": float(np.mean(self.refused)),
            "factor": float(np.median(self.factors)) if self.factors else math.nan,
            "audits": float(np.median(certified)),
            "by_32": float(np.mean(certified <= 32)),
            "by_end": float(np.mean(np.isfinite(certified))),
            "false": float(np.mean(self.false)),
        }


def simulate_loop(scenario: Scenario, rng: np.random.Generator) -> Iterator[Look]:
    """The looks of one loop."""
    shape = (N_LOOKS * N_FRAMES,)
    kept_prediction, kept_error, noise = (rng.standard_normal(shape) for _ in range(3))
    blind = rng.random(shape) < scenario.blind
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    for look in range(N_LOOKS):
        so_far = (look + 1) * N_FRAMES
        parts = [
            math.sqrt(kept) * old[:so_far] + math.sqrt(1 - kept) * rng.standard_normal(so_far)
            for kept, old in (
                (KEPT_PREDICTION, kept_prediction),
                (KEPT_ERROR, kept_error),
                (KEPT_PREDICTION, noise),
            )
        ]
        squared, predicted = make_errors(scenario, *parts, blind[:so_far])
        latest = slice(look * N_FRAMES, so_far)
        audits = draw_audits(predicted[latest], np.zeros(N_FRAMES, int), scenario.audits, rng, floor=scenario.floor)
        drawn.append((audits.rows + look * N_FRAMES, audits.probability))
        iterations = [
            AuditedIteration(
                squared[rows],
                predicted[rows],
                probability,
                N_FRAMES,
                float(predicted[number * N_FRAMES : (number + 1) * N_FRAMES].mean()),
            )
            for number, (rows, probability) in enumerate(drawn)
        ]
        yield iterations, math.sqrt(squared.mean()), math.sqrt(squared[latest].mean())


def make_errors(
    scenario: Scenario, expectation: np.ndarray, deviation: np.ndarray, noise: np.ndarray, blind: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors and predicted ones from standard normal numbers of each frame."""
    rest = residual_width(scenario.correlation)
    width = math.sqrt(WIDTH**2 - rest**2)
    expected = np.exp(width * expectation)
    predicted = expected * np.exp(rest * noise) if scenario.noisy else expected
    if scenario.hidden:
        predicted = np.where(blind, 0.3 * np.median(predicted), predicted)
        expected = np.where(blind, predicted, expected)
    squared = expected * TAILS[scenario.tail](deviation, rest)
    squared = np.where(blind, squared * scenario.blind_factor**2, squared)
    if scenario.moved:
        squared[N_LOOKS * N_FRAMES // 2 :] *= 4
    return squared, predicted


def residual_width(correlation: float) -> float:
    """Standard deviation of log(squared error / expected) that gives RMS errors this correlation with expected ones."""
    half = WIDTH / 2
    return 2 * math.sqrt(half**2 - math.log1p(correlation**2 * math.expm1(half**2)))


def _lognormal(normal: np.ndarray, width: float) -> np.ndarray:
    return np.exp(width * normal - width**2 / 2)


def _tabulated(quantiles: np.ndarray) -> Callable[[np.ndarray, float], np.ndarray]:
    return lambda normal, _: np.interp(normal, GRID, quantiles)


TAILS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "lognormal": _lognormal,
    "chi2": _tabulated(stats.chi2.isf(stats.norm.sf(GRID), 3) / 3),
    "F": _tabulated(stats.f.isf(stats.norm.sf(GRID), 6, 5) * 3 / 5),
}


def measure(scenario: Scenario, loops: int, seed: int = 0) -> dict[str, float]:
    """Shares and medians of one scenario."""
    tally = Tally()
    for number in range(loops):
        rng = derive_rng(seed, "simulate_certificate", scenario.name, number)
        looks = simulate_loop(scenario, rng)
        tally.add([(certify(i, floor=scenario.floor), truth, latest) for i, truth, latest in looks], scenario.blind)
    return tally.as_row()


COLUMNS = {
    "held": "all bounds hold, %",
    "latest_held": "of the latest frames, %",
    "spoken": "hold, or name the unseen, %",
    "false": "certified at 1.05 × target, %",
    "refused": "looks refused, %",
    "factor": "bound / truth",
    "audits": "audits to a certificate at .8",
    "by_32": "by 32 audits, %",
    "by_end": "by look ten, %",
}


def write_table(rows: dict[str, dict[str, float]]) -> str:
    """The rows in Markdown."""
    lines = ["| simulated | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_format(key, row[key]) for key in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def _format(column: str, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return {"factor": f"{value:.2f}", "audits": f"{value:.0f}"}.get(column, f"{100 * value:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("certificate"))
    parser.add_argument("--only", default="", help="part of the scenarios' names")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for scenario in SCENARIOS:
        if arguments.only in scenario.name:
            begun = time.perf_counter()
            rows[scenario.name] = measure(scenario, arguments.loops, arguments.seed)
            print(write_table({scenario.name: rows[scenario.name]}).splitlines()[-1], end="")
            print(f"  {time.perf_counter() - begun:.0f} s", flush=True)
    record: dict[str, Any] = {"loops": arguments.loops, "seed": arguments.seed, "scenarios": rows}
    arguments.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(write_table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
