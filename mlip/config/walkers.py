"""The plan of an iteration's walkers; light enough to be made while Snakemake parses."""

from __future__ import annotations

from collections.abc import Sequence

from mlip.config.base import Section
from mlip.config.loop import Stage, Walker, pressures_of
from mlip.config.structures import StartingStructure, Triple


class WalkerPlan(Section):
    """One walker: which structure, which ensemble, which rung of the ladder.

    Attributes:
        source_number: its place among the starting structures; energies compare only within one.
        temperature: K.
        volume: relative change of the starting volume.
        pressure: GPa; NPT only.
    """

    source: StartingStructure
    source_number: int = 0
    ensemble: str
    temperature: float
    volume: float
    pressure: float
    repeat: Triple = (1, 1, 1)
    schedule: tuple[Stage, ...] = ()
    start: str = "ideal"


def plan_walkers(sources: Sequence[StartingStructure], groups: Sequence[Walker]) -> list[WalkerPlan]:
    """Every walker of an iteration: sources × groups × temperatures × volumes × pressures, in a fixed order."""
    return [
        WalkerPlan(
            source=source,
            source_number=number,
            ensemble=group.ensemble,
            temperature=temperature,
            volume=volume,
            pressure=pressure,
            repeat=group.repeat,
            schedule=group.schedule,
            start=group.start,
        )
        for number, source in enumerate(sources)
        for group in groups
        if group.structures is None or number in group.structures
        for temperature in group.temperatures
        for volume in group.volumes
        for pressure in pressures_of(group)
    ]


def walkers_before(number: int, plans: Sequence[WalkerPlan], earlier: Sequence[WalkerPlan]) -> list[int]:
    """Walkers of the previous iteration of one of whose last frames walker ``number`` starts.

    They explored the same supercell of the same structure. Where the walker of the same number is one of them, it alone
    is continued.
    """
    if plans[number].start != "last":
        return []
    place = (plans[number].source_number, plans[number].repeat)
    same_place = [other for other, plan in enumerate(earlier) if (plan.source_number, plan.repeat) == place]
    return [number] if number in same_place else same_place


class Demand(Section):
    """What walkers ask of a starting structure that it may not be able to give.

    Attributes:
        is_pressed: whether a pressure other than 0 acts on its cell.
    """

    source_number: int
    ensemble: str
    repeat: Triple
    is_pressed: bool

    @classmethod
    def of(cls, plan: WalkerPlan) -> Demand:
        """What ``plan`` asks."""
        pressures = [plan.pressure, *(stage.pressure for stage in plan.schedule)]
        is_pressed = plan.ensemble != "nvt" and any(pressures)
        return cls(source_number=plan.source_number, ensemble=plan.ensemble, repeat=plan.repeat, is_pressed=is_pressed)


def list_demands(plans: Sequence[WalkerPlan]) -> list[Demand]:
    """What ``plans`` ask of their structures, each once, in a fixed order."""
    demands = {(d.source_number, d.ensemble, d.repeat, d.is_pressed): d for d in map(Demand.of, plans)}
    return [demands[key] for key in sorted(demands)]
