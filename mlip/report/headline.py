"""The one number of a loop: which of its force errors to show first, and what that one rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mlip.report.sources import LoopRecord

Basis = Literal["audit", "test", "fresh"]

FEW = 3
"""Structures below which an error is shown first only where nothing rests on more."""

DISAGREE = 2.0
"""Ratio of the errors of audit frames and test set from which the page says that they disagree."""

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


def rests_on(basis: Basis, n_structures: int) -> str:
    """In words; without a number where ``n_structures`` is 0."""
    count = f"{n_structures} " if n_structures else ""
    return f"{count}{NAMES[basis]}{'' if n_structures == 1 else 's'}"


def choose_force_error(loop: LoopRecord) -> ForceError | None:
    """The latest error of audit frames or of the test set, whichever rests on more structures.

    Both are unbiased, each for what it was drawn from. The structures chosen for their uncertainty overstate the
    error, so they count only where the others are too few, or none.
    """
    audit, test, fresh = (latest_error(loop, basis) for basis in ("audit", "test", "fresh"))
    unbiased = [error for error in (audit, test) if error is not None]
    best = max(unbiased, key=lambda error: error.n_structures, default=None)
    if best is None or (best.n_structures and best.n_structures < FEW and fresh is not None):
        return fresh if best is None or (fresh and fresh.n_structures > best.n_structures) else best
    return best


def latest_error(loop: LoopRecord, basis: Basis) -> ForceError | None:
    """The last error on ``basis`` that an assessment has."""
    for record in reversed(loop.iterations):
        entry = record.assessment.get(basis) or {}
        if entry.get("force_rmse") is not None:
            return _read(entry, basis, record.number)
    return None


def _read(entry: Mapping[str, Any], basis: Basis, iteration: int) -> ForceError:
    low, high = entry.get("interval") or (None, None)
    interval = None if low is None or high is None else (float(low), float(high))
    count = int(entry.get("n_structures") or 0)
    confidence = entry.get("confidence")
    return ForceError(float(entry["force_rmse"]), interval, confidence if interval else None, basis, count, iteration)


def find_disagreement(loop: LoopRecord) -> str:
    """In words, how far audit frames and test set are apart; empty where they agree or one is missing."""
    audit, test = latest_error(loop, "audit"), latest_error(loop, "test")
    if audit is None or test is None or min(audit.rmse, test.rmse) <= 0:
        return ""
    ratio = max(audit.rmse, test.rmse) / min(audit.rmse, test.rmse)
    if ratio < DISAGREE:
        return ""
    text = (
        f"Errors disagree: {audit.rmse:.2g} eV/Å on {audit.rests_on}, {test.rmse:.2g} eV/Å on {test.rests_on},"
        f" {'more than 100' if ratio > 100 else f'{ratio:.2g}'} times apart. "
    )
    if audit.rmse < test.rmse:
        return text + (
            "The walkers stay in easier places than the data hold, or the audit frames are too few to tell"
            " (select.n_audit): count on the larger error."
        )
    return text + (
        "The walkers go where the potential knows less than on its data: count on the larger error, and let the loop"
        " label more of what they meet (max_iterations, select.n_structures)."
    )
