"""How large is the force error of a potential on the frames it makes, at a stated confidence, and may one say so?

Equations, assumptions and what was measured: docs/selection.md, "The certificate".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv, chdtri, ndtri
from scipy.stats import mannwhitneyu

from mlip.active.audits import FLOOR

FEWEST_AUDITS = 16
"""Audits before which no bound is given, and no confidence is spent."""
FEWEST_EFFECTIVE = 8.0
"""Audits that the weighted ones must be worth."""
LARGEST_SHARE = 0.5
"""Share of the estimated squared error that one audit may carry."""
LARGEST_SCATTER = 1.0
"""Standard deviation of log(squared error / predicted) above which predictions do not tell errors."""
BLIND_RATIO = 100.0
"""Squared error over predicted, relative to the geometric mean, that makes an audit one of a blind spot."""
DRIFT_SIGNIFICANCE = 0.005
"""Chance that the newest audits look worse predicted than the earlier ones although they are not."""
SHIFT = 0.1
"""Of the ratios before their logarithm, in geometric means: chosen by simulation, see docs/selection.md."""
LARGEST_FAILED = 0.1
"""Share of the audits that may be without a label: a labeller that fails more often leaves too much unsaid."""
CLEAN_SHARE = 0.05
"""Share of frames that a statement without any assumption may leave out."""


@dataclass(frozen=True)
class AuditedIteration:
    """One iteration's audits of one system as the present potential sees them.

    Attributes:
        squared_errors: mean squared force error per component of the present potential on each audit, (eV/Å)², [m];
            NaN where the label failed. Audits never train, so earlier ones are as good as new ones.
        predicted_squared: what the present potential expects it to be, (eV/Å)², positive, [m].
        probability: that the draw took the frame, from :class:`mlip.active.audits.Audits`, [m].
        n_frames: frames that were drawn from.
        mean_predicted: mean over all of these of what the present potential expects, (eV/Å)².
    """

    squared_errors: np.ndarray
    predicted_squared: np.ndarray
    probability: np.ndarray
    n_frames: int
    mean_predicted: float


@dataclass(frozen=True)
class Certificate:
    """What is known of a system's force error, and why it may be nothing.

    Attributes:
        estimate: RMSE over all frames of the given iterations, eV/Å per component; None without an audit.
        upper: upper bound of it; None where refused.
        upper_latest: upper bound for the frames of the latest iteration alone, if these are as well predicted as the
            earlier ones; None where refused.
        confidence: that all bounds of all looks hold together.
        alpha: chance of error spent on this look; 0 before there are enough audits.
        look: number of this look, from 1; 0 before there are enough audits.
        n_audits: labelled audits.
        n_failed: audits without a label; the bounds are of the frames that the labeller can label.
        n_frames: frames that the estimate is of.
        n_effective: equally weighted audits that these are worth (Kish).
        largest_share: of the estimated squared error that a single audit carries.
        ratio: error over expected error, root of the ratio of squares; 1 is calibrated.
        scatter: standard deviation of log(squared error / predicted).
        unseen: share of the frames that might err more than every audit did, at ``confidence`` and without assumptions:
            a class of frames below that share may have been missed altogether.
        unlabelled: share of the frames that the labeller may be unable to label, of which nothing is said, likewise; 0
            where no audit failed.
        clean_below: error that at least 95 % of the frames do not exceed, eV/Å, at ``confidence`` and without
            assumptions; None with too few audits (59 uniform ones).
        refused: why there is no bound; empty if there is one.
    """

    estimate: float | None
    upper: float | None
    upper_latest: float | None
    confidence: float
    alpha: float
    look: int
    n_audits: int
    n_failed: int
    n_frames: int
    n_effective: float
    largest_share: float
    ratio: float | None
    scatter: float | None
    unseen: float
    unlabelled: float
    clean_below: float | None
    refused: str

    def as_dict(self) -> dict[str, Any]:
        """As plain values for a JSON file."""
        return dataclasses.asdict(self)


def certify(
    iterations: Sequence[AuditedIteration],
    *,
    surprises: Sequence[float] = (),
    confidence: float = 0.95,
    floor: float = FLOOR,
) -> Certificate:
    """The certificate of one system from its audits of all ``iterations`` so far, the latest last.

    It is of the frames of these iterations together: what walkers never visited is not covered. All iterations since
    the first must be given, as their number tells how often has been looked.

    Args:
        iterations: every iteration's audits, judged by the present potential; one may have none.
        surprises: squared error over predicted of this iteration's other new labels, by the potential that had not
            seen them. They are no fair sample, so they do not count for the error, but they do look into corners.
        confidence: that the bounds of all looks hold together.
        floor: uniform share of the chances with which audits were drawn.

    Raises:
        ValueError: for arrays that do not fit, errors that are negative, predictions or probabilities out of range.
    """
    for number, iteration in enumerate(iterations):
        _check_iteration(iteration, number)
    sample = _Sample.join(iterations)
    look = int(np.sum(np.cumsum([len(i.squared_errors) for i in iterations]) >= FEWEST_AUDITS))
    counted: dict[str, Any] = {
        "confidence": confidence,
        "alpha": spend_confidence(1 - confidence, look) if look else 0.0,
        "look": look,
        "n_audits": len(sample.ratios),
        "n_failed": sample.n_failed,
        "n_frames": sum(iteration.n_frames for iteration in iterations),
        "unseen": unseen_share(len(sample.ratios), confidence, floor),
        "unlabelled": failing_share(sample.n_failed, len(sample.ratios) + sample.n_failed, confidence, floor),
    }
    if not len(sample.ratios):
        return Certificate(**counted, **NOTHING, refused="no audit has a label")
    refused = _find_refusal(sample, look, surprises)
    bound = None if refused else bound_ratio(sample.ratios, sample.weights, counted["alpha"])
    return Certificate(
        **counted,
        **_judge(sample, iterations, bound),
        clean_below=_clean_below(sample, counted["unseen"]),
        refused=refused,
    )


NOTHING: dict[str, Any] = {
    **dict.fromkeys(("estimate", "upper", "upper_latest", "ratio", "scatter", "clean_below")),
    "n_effective": 0.0,
    "largest_share": 0.0,
}
"""What is known without an audit."""


def _judge(sample: _Sample, iterations: Sequence[AuditedIteration], bound: float | None) -> dict[str, Any]:
    """The certificate's errors, from the ``bound`` of the ratio of squared errors over predicted ones."""
    expected = sum(i.mean_predicted * i.n_frames for i in iterations) / sum(i.n_frames for i in iterations)
    return {
        "estimate": math.sqrt(sample.ratio * expected),
        "upper": None if bound is None else math.sqrt(bound * expected),
        "upper_latest": None if bound is None else math.sqrt(bound * iterations[-1].mean_predicted),
        "n_effective": sample.n_effective,
        "largest_share": sample.largest_share,
        "ratio": math.sqrt(sample.ratio),
        "scatter": sample.scatter,
    }


def _clean_below(sample: _Sample, unseen: float) -> float | None:
    """The largest audited RMSE, where enough audits and no failed one allow to speak of the other frames, too."""
    if unseen > CLEAN_SHARE or sample.n_failed:
        return None
    return math.sqrt(float(np.max(sample.ratios * sample.predicted)))


def spend_confidence(alpha: float, look: int) -> float:
    """The part of ``alpha`` for look number ``look``, from 1: alpha / (k (k + 1)).

    The parts of all looks sum to ``alpha`` however many there will be, so a loop may be extended; by Bonferroni's
    inequality all bounds hold together with 1 - alpha. Each look has another potential, so looks are different
    questions and no sequential test of one hypothesis applies.
    """
    if look < 1:
        raise ValueError(f"look {look} does not exist; the first is 1")
    return alpha / (look * (look + 1))


def unseen_share(n: int, confidence: float, floor: float = FLOOR) -> float:
    """Largest share u of frames that ``n`` audits miss with probability 1 - ``confidence``: (1 - floor u)^n.

    S. S. Wilks, Ann. Math. Stat. 12, 91 (1941), for uniform draws: .05 at 95 % needs n = 59. A frame's chance of
    being drawn is at least ``floor`` times that of a uniform draw, whatever was predicted of it.
    """
    return min(1.0, (1 - (1 - confidence) ** (1 / n)) / floor) if n else 1.0


def failing_share(n_failed: int, n: int, confidence: float, floor: float = FLOOR) -> float:
    """Largest share of frames without a label of which ``n_failed`` or fewer of ``n`` audits meet one that often.

    The upper limit of C. J. Clopper and E. S. Pearson, Biometrika 26, 404 (1934), over ``floor`` as in
    :func:`unseen_share`; 0 where no audit failed.
    """
    if not n_failed:
        return 0.0
    return min(1.0, float(betaincinv(n_failed + 1, n - n_failed, confidence)) / floor) if n > n_failed else 1.0


def bound_ratio(ratios: np.ndarray, weights: np.ndarray, alpha: float) -> float:
    """Upper bound at 1 - ``alpha`` of the weighted mean of ``ratios`` in the population that they were drawn from.

    The ratios, shifted by :data:`SHIFT` geometric means, count as log-normal: then the logarithms tell how heavy the
    tail is before its members were drawn, which no bound from the seen squares alone can. Bound of a log-normal mean
    by G. Y. Zou, C. Y. Huo and J. Taleban, Environmetrics 20, 172 (2009), with weighted moments and Kish's effective
    number of audits.

    Args:
        ratios: squared error over predicted, [n], not negative.
        weights: of each, [n], positive.
        alpha: chance that the bound is below the truth.
    """
    geometric = _geometric_mean(ratios, weights)
    n_effective = _kish(weights)
    mean, variance = _log_moments(ratios / geometric + SHIFT, weights)
    normal, chi = -ndtri(alpha), chdtri(n_effective - 1, 1 - alpha)
    spread = (variance / 2 * ((n_effective - 1) / chi - 1)) ** 2 + normal**2 * variance / n_effective
    # Beyond 700 the exponential overflows; the audits know nothing then.
    return float(geometric * (math.exp(min(mean + variance / 2 + math.sqrt(spread), 700.0)) - SHIFT))


@dataclass(frozen=True)
class _Sample:
    """All labelled audits side by side, [n]; ``newest`` marks those of the latest iteration."""

    ratios: np.ndarray
    predicted: np.ndarray
    weights: np.ndarray
    newest: np.ndarray
    n_failed: int

    @classmethod
    def join(cls, iterations: Sequence[AuditedIteration]) -> _Sample:
        """A ratio's weight is its frame's predicted squared error over the chance of having been drawn."""
        empty = np.zeros(0)
        squared = np.concatenate([empty, *(np.asarray(i.squared_errors, float) for i in iterations)])
        predicted = np.concatenate([empty, *(np.asarray(i.predicted_squared, float) for i in iterations)])
        probability = np.concatenate([empty, *(np.asarray(i.probability, float) for i in iterations)])
        numbers = np.repeat(np.arange(len(iterations)), [len(i.squared_errors) for i in iterations])
        labelled = np.isfinite(squared)
        ratios, weights = squared[labelled] / predicted[labelled], predicted[labelled] / probability[labelled]
        newest = numbers[labelled] == len(iterations) - 1
        return cls(ratios, predicted[labelled], weights, newest, int(np.sum(~labelled)))

    @property
    def ratio(self) -> float:
        """Ratio estimator of the mean squared error over the mean predicted one."""
        return float(np.sum(self.weights * self.ratios) / np.sum(self.weights))

    @property
    def n_effective(self) -> float:
        return _kish(self.weights)

    @property
    def largest_share(self) -> float:
        carried = self.weights * self.ratios
        return float(carried.max() / carried.sum()) if carried.sum() > 0 else 1.0

    @property
    def scatter(self) -> float:
        _, variance = _log_moments(self.ratios / _geometric_mean(self.ratios, self.weights) + SHIFT, self.weights)
        return math.sqrt(variance)


def _find_refusal(sample: _Sample, look: int, surprises: Sequence[float]) -> str:
    """Why there is no bound; empty if nothing speaks against one."""
    n, typical = len(sample.ratios), _geometric_mean(sample.ratios, sample.weights)
    worst, strangest = float(sample.ratios.max()) / typical, max(surprises, default=0.0) / typical
    if sample.n_failed > LARGEST_FAILED * (n + sample.n_failed):
        return f"{sample.n_failed} of {n + sample.n_failed} audits have no label, and may be the worst"
    if not look:
        return f"{n} audits, {FEWEST_AUDITS} are needed"
    if worst > BLIND_RATIO:
        return f"blind spot: an audit's error is {math.sqrt(worst):.0f} times what others let expect"
    if strangest > BLIND_RATIO:
        return f"blind spot: a new label's error is {math.sqrt(strangest):.0f} times what audits let expect"
    if sample.n_effective < FEWEST_EFFECTIVE:
        return f"{n} audits are worth {sample.n_effective:.1f} equal ones, {FEWEST_EFFECTIVE:g} are needed"
    if sample.largest_share > LARGEST_SHARE:
        return f"one audit carries {100 * sample.largest_share:.0f} % of the squared error"
    if sample.scatter > LARGEST_SCATTER:
        factor = math.exp(sample.scatter / 2)
        return f"predictions do not tell errors: they scatter by a factor of {factor:.1f} about what was predicted"
    if _drifted(sample):
        return "the newest audits err more than was predicted, compared with the earlier ones"
    return ""


def _drifted(sample: _Sample) -> bool:
    """Whether the newest audits' ratios are larger than those of the earlier ones: Mann and Whitney's rank test."""
    newest, earlier = sample.ratios[sample.newest], sample.ratios[~sample.newest]
    if len(newest) < 2 or len(earlier) < 2:
        return False
    tested = mannwhitneyu(newest, earlier, alternative="greater", method="asymptotic")
    return bool(tested.pvalue < DRIFT_SIGNIFICANCE)


def _kish(weights: np.ndarray) -> float:
    return float(weights.sum() ** 2 / np.sum(weights**2))


def _geometric_mean(ratios: np.ndarray, weights: np.ndarray) -> float:
    """Weighted; errors that are exactly zero count as a millionth of the mean ratio."""
    mean = float(np.sum(weights * ratios) / weights.sum())
    floor = 1e-6 * mean if mean > 0 else 1e-300
    return math.exp(float(np.sum(weights * np.log(np.maximum(ratios, floor))) / weights.sum()))


def _log_moments(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Weighted mean and unbiased variance of the logarithms."""
    logs, total = np.log(values), weights.sum()
    mean = float(np.sum(weights * logs) / total)
    n_effective = _kish(weights)
    variance = float(np.sum(weights * (logs - mean) ** 2) / total)
    return mean, variance * n_effective / (n_effective - 1) if n_effective > 1 else 0.0


def _check_iteration(iteration: AuditedIteration, number: int) -> None:
    squared, predicted, probability = (
        np.asarray(values, float)
        for values in (iteration.squared_errors, iteration.predicted_squared, iteration.probability)
    )
    if not squared.shape == predicted.shape == probability.shape or squared.ndim != 1:
        shapes = f"{squared.shape}, {predicted.shape}, {probability.shape}"
        raise ValueError(f"iteration {number}: audits have errors, predictions and probabilities of shapes {shapes}")
    if (squared < 0).any():
        raise ValueError(f"iteration {number}: squared error {squared.min()} is negative")
    if not np.isfinite(predicted).all() or (predicted <= 0).any() or not iteration.mean_predicted > 0:
        raise ValueError(f"iteration {number}: predicted squared errors must be positive, got {predicted}")
    if not ((probability > 0) & (probability <= 1)).all():
        raise ValueError(f"iteration {number}: probabilities of a draw must be in (0, 1], got {probability}")
    if len(squared) > iteration.n_frames:
        raise ValueError(f"iteration {number}: {len(squared)} audits of {iteration.n_frames} frames")
