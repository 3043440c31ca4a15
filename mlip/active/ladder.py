"""Where the walkers of a starting structure stand on their ladder, and whether they climb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mlip.config.ladder import DEFAULT_FIRST, Ladder, Rung, list_rungs

SHORTEST = 1 / 16
"""Share of their time that walkers which stop early keep at least."""
MOLTEN_SHARE = 0.5
"""Walkers at the present rung that have molten, beyond which there is nothing to climb to."""
FIRST_SHARE, EASY_SHARE, TOP_FACTOR = 0.25, 1 / 3, 3.0
"""Of the temperature at which Lindemann's rule has the structure melt: the first rung's, that up to which rungs may be
left out, and the top."""


@dataclass(frozen=True)
class Climb:
    """What an iteration's walkers of one starting structure follow.

    Attributes:
        rung: Number of the present rung, from 0.
        first: Temperature of the first rung, K; None until there was a potential to ask.
        top: Temperature that no rung exceeds, K; likewise.
        easy: Temperature up to which rungs may be left out, K; likewise.
        melts_at: Lowest rung at which half of the walkers have molten; later ones may begin in the crystal again.
        length: Share of their steps that walkers at the present rung run.
        done: Whether the top has been reached and its errors are small enough.
        reason: Why the walkers climbed, or not.
    """

    rung: int = 0
    first: float | None = None
    top: float | None = None
    easy: float = 0.0
    melts_at: int | None = None
    length: float = 1.0
    done: bool = False
    reason: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Climb:
        """Inverse of :meth:`as_dict`."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def settled(self, ladder: Ladder, lindemann: float) -> Climb:
        """With first and top temperature, on a rung that there is.

        ``lindemann``, K, is what the potential says of melting, or NaN; it is asked once.
        """
        known = lindemann > 0
        mild = min(DEFAULT_FIRST, FIRST_SHARE * lindemann) if known else DEFAULT_FIRST
        easy = self.easy or (EASY_SHARE * lindemann if known else 0.0)
        first = ladder.first or self.first or mild
        top = ladder.top or self.top or (TOP_FACTOR * lindemann if known else first)
        n_rungs = len(list_rungs(ladder, first, max(first, top)))
        return replace(self, first=first, top=max(first, top), easy=easy, rung=min(self.rung, n_rungs - 1))

    def rungs(self, ladder: Ladder) -> tuple[Rung, ...]:
        """All rungs; for those of temperatures first and top must be settled."""
        first = self.first or DEFAULT_FIRST
        return list_rungs(ladder, first, self.top or first)


@dataclass(frozen=True)
class Observed:
    """What an iteration has shown of the present rung.

    Attributes:
        n_walkers: Walkers there.
        n_stopped: Those that stopped early, uncertain or exploded.
        n_exploded: Those of them that exploded.
        n_molten: Those that ended molten.
        expected: Expected error of their frames over the RMS force of the labels; None without frames.
        audited: Error of audits over their RMS force; None without any.
        n_audits: How many audits.
        audited_rung: Of which rung they are: the highest up to the present one that has some.
    """

    n_walkers: int
    n_stopped: int = 0
    n_exploded: int = 0
    n_molten: int = 0
    expected: float | None = None
    audited: float | None = None
    n_audits: int = 0
    audited_rung: int | None = None


def climb(state: Climb, seen: Observed, ladder: Ladder) -> Climb:
    """Where the next iteration's walkers stand.

    They climb when no walker of the present rung stopped early and both errors are at most ``ladder.max_error``; by two
    rungs where both are at most half of it and the structure is far from melting, for what is easy needs no labels.
    At the last rung, or, where rungs are temperatures of no given end, where half of the walkers have molten, the
    ladder is done instead, once audits of that rung have been heard where there are any at all. Walkers that stop
    early run half as long next time, then longer again; a melt that explodes goes on a rung lower.
    """
    if not seen.n_walkers:
        return replace(state, done=False, reason="no walker at this rung")
    length = max(SHORTEST, state.length / 2) if seen.n_stopped else min(1.0, 2 * state.length)
    melts = ladder.rungs is None and seen.n_molten >= MOLTEN_SHARE * seen.n_walkers
    known = [rung for rung in (state.melts_at, state.rung if melts else None) if rung is not None]
    stays = replace(state, length=length, done=False, melts_at=min(known, default=None))
    molten = melts or (stays.melts_at is not None and stays.melts_at <= state.rung)
    if seen.n_stopped:
        told = f"{seen.n_stopped} of {seen.n_walkers} walkers stopped early"
        down = molten and seen.n_exploded > 0 and state.rung > 0
        return replace(stays, rung=state.rung - down, reason=f"a melt too hot: {told}" if down else told)
    name, error = _find_worst(seen)
    if error is None:
        return replace(stays, reason=name)
    told = f"{name} {error:.2g} of the RMS force"
    if error > ladder.max_error:
        return replace(stays, reason=f"{told}, limit {ladder.max_error:g}")
    rungs = state.rungs(ladder)
    if molten or state.rung == len(rungs) - 1:
        what = "molten" if molten else "the last rung"
        heard = seen.audited_rung in (None, state.rung)
        return replace(
            stays, length=1.0, done=heard, reason=f"{what}; {told}" + ("" if heard else ", no audit here yet")
        )
    above = rungs[min(state.rung + 2, len(rungs) - 1)]
    is_easy = ladder.rungs is None and error <= ladder.max_error / 2 and above.temperature <= state.easy
    rung = min(state.rung + (2 if is_easy else 1), len(rungs) - 1)
    return replace(stays, rung=rung, length=1.0, reason=f"climbs; {told}")


def _find_worst(seen: Observed) -> tuple[str, float | None]:
    """The larger of the errors and what it is called; None, and why, without any."""
    if seen.expected is None:
        return "no frame to judge by", None
    audits = f"error of {seen.n_audits} audits at rung {seen.audited_rung}"
    if seen.audited is not None and seen.audited > seen.expected:
        return audits, seen.audited
    return "expected error", seen.expected


def place_below(rung: int, iteration: int) -> int:
    """The rung of a walker that is to stay below the present one: one after the other."""
    return iteration % rung if rung else 0
