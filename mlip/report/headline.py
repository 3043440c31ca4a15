"""The one number of a loop: which of its force errors to show first, and what that one rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlip.io.partial import mapping, number_or_none, whole

if TYPE_CHECKING:
    from mlip.report.sources import LoopRecord

Basis = Literal["audit", "test", "fresh"]

FEW = 3
"""Structures below which an error is shown first only where nothing rests on more."""

ENOUGH = 10
"""Structures from which an unbiased error is shown first whatever the new labels say, which overstate it."""

DISAGREE = 2.0
"""Ratio of two errors from which they disagree, and the page says so."""

TOO_FEW = (
    "Neither rests on enough to tell why: count on the larger error, and set select.n_audit and collect.test_fraction"
    f" so that {ENOUGH} or more are held out."
)

NAMES: dict[Basis, str] = {"audit": "audit frame", "test": "test structure", "fresh": "newly labelled structure"}


@dataclass(frozen=True)
class ForceError:
    """A force RMSE with what it was measured on.

    Attributes:
        rmse: eV/Å, per component.
        interval: Ends of its confidence interval, eV/Å, where there is one.
        confidence: Of the interval.
        basis: ``audit``: frames of MD drawn at random; ``test``: data set aside before training; ``fresh``: all
            structures labelled after training, most of them chosen for their uncertainty.
        n_structures: Structures it rests on; 0 where that is not known.
        iteration: Whose assessment says so.
    """

    rmse: float
    interval: tuple[float, float] | None
    confidence: float | None
    basis: Basis
    n_structures: int
    iteration: int

    @property
    def rests_on(self) -> str:
        """Such as ``12 test structures``."""
        return rests_on(self.basis, self.n_structures)

    def exceeds(self, other: ForceError) -> bool:
        """Whether it is ``DISAGREE`` times ``other`` or more, and beyond its interval where there is one."""
        beyond = other.interval is None or self.rmse > other.interval[1]
        return beyond and self.rmse >= DISAGREE * other.rmse


def rests_on(basis: Basis, n_structures: int) -> str:
    """In words; without a number where ``n_structures`` is 0."""
    count = f"{n_structures} " if n_structures else ""
    return f"{count}{NAMES[basis]}{'' if n_structures == 1 else 's'}"


def choose_force_error(loop: LoopRecord) -> ForceError | None:
    """The error of ``loop`` to show first; see :func:`choose_of_assessments`."""
    return choose_of_assessments(loop.history)


def choose_of_assessments(history: Sequence[Mapping[str, Any]]) -> ForceError | None:
    """The latest error of audit frames or of the test set, whichever rests on more structures, else the larger.

    Both are unbiased, each for what it was drawn from. The structures chosen for their uncertainty overstate the
    error, so they count only where the others are too few, or none, or where the others, fewer than ``ENOUGH``, are
    contradicted by them: a handful of easy frames must not hide what more structures say.
    """
    audit, test, fresh = (_latest(history, basis) for basis in ("audit", "test", "fresh"))
    unbiased = [error for error in (audit, test) if error is not None]
    best = max(unbiased, key=lambda error: (error.n_structures, error.rmse), default=None)
    if best is None or fresh is None or fresh.n_structures <= best.n_structures:
        return best or fresh
    few = 0 < best.n_structures < FEW
    # Without an interval of its own, as in assessments of older versions, an error outweighs no unbiased one.
    outweighed = 0 < best.n_structures < ENOUGH and fresh.interval is not None and fresh.exceeds(best)
    return fresh if few or outweighed else best


def latest_error(loop: LoopRecord, basis: Basis) -> ForceError | None:
    """The last error on ``basis`` that an assessment has."""
    return _latest(loop.history, basis)


def _latest(history: Sequence[Mapping[str, Any]], basis: Basis) -> ForceError | None:
    for place in reversed(range(len(history))):
        entry = mapping(dict(history[place]), basis)
        if number_or_none(entry.get("force_rmse")) is not None:
            number = history[place].get("iteration")
            return _read(entry, basis, place if number is None else whole(number))
    return None


def _read(entry: Mapping[str, Any], basis: Basis, iteration: int) -> ForceError:
    ends = entry.get("interval")
    low, high = map(number_or_none, ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    interval = None if low is None or high is None else (low, high)
    confidence = number_or_none(entry.get("confidence")) if interval else None
    count = whole(entry.get("n_structures"))
    return ForceError(float(entry["force_rmse"]), interval, confidence, basis, count, iteration)


def find_disagreement(loop: LoopRecord) -> str:
    """In words, which errors of ``loop`` are far apart; see :func:`compare_errors`."""
    return compare_errors(loop.history)


def compare_errors(history: Sequence[Mapping[str, Any]]) -> str:
    """How far audit frames and test set are apart, or few of either and the new labels; empty where they agree."""
    audit, test, fresh = (_latest(history, basis) for basis in ("audit", "test", "fresh"))
    if audit is not None and test is not None and min(audit.rmse, test.rmse) > 0:
        ratio = max(audit.rmse, test.rmse) / min(audit.rmse, test.rmse)
        if ratio >= DISAGREE:
            too_few = max(audit.n_structures, test.n_structures) < FEW
            return _tell(audit, test) + (TOO_FEW if too_few else _explain(audit, test))
    few = [e for e in (audit, test) if e is not None and 0 < e.n_structures < ENOUGH]
    best = max(few, key=lambda error: (error.n_structures, error.rmse), default=None)
    enough = any(e is not None and e.n_structures >= ENOUGH for e in (audit, test))
    if best is None or fresh is None or enough or fresh.n_structures <= best.n_structures or not fresh.exceeds(best):
        return ""
    return _tell(best, fresh) + (
        "Most new labels were chosen because the potential was unsure, so they overstate its usual error, but"
        f" {best.rests_on} cannot tell by how much: count on the larger error, and set select.n_audit or"
        f" collect.test_fraction so that {ENOUGH} or more are held out."
    )


def _tell(one: ForceError, other: ForceError) -> str:
    """Both errors and their ratio."""
    low, high = sorted((one.rmse, other.rmse))
    ratio = high / low if low > 0 else float("inf")
    return (
        f"Errors disagree: {one.rmse:.2g} eV/Å on {one.rests_on}, {other.rmse:.2g} eV/Å on {other.rests_on},"
        f" {'more than 100' if ratio > 100 else f'{ratio:.2g}'} times apart. "
    )


def _explain(audit: ForceError, test: ForceError) -> str:
    """What it means that audit frames and test set disagree."""
    if audit.rmse < test.rmse:
        return (
            "The walkers stay in easier places than the data hold, or the audit frames are too few to tell"
            " (select.n_audit): count on the larger error."
        )
    return (
        "The walkers go where the potential knows less than on its data: count on the larger error, and let the loop"
        " label more of what they meet (max_iterations, select.n_structures)."
    )
