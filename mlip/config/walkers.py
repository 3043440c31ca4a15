"""The plan of an iteration's walkers; light enough to be made while Snakemake parses."""

from __future__ import annotations

from collections.abc import Sequence

from mlip.config.base import Section
from mlip.config.loop import MOST_EXPLORED_ATOMS, Stage, Walker, pressures_of
from mlip.config.structures import StartingStructure, Triple
from mlip.config.system import Config


class WalkerPlan(Section):
    """One walker: which structure, which ensemble, which rung of the ladder.

    Attributes:
        source_number: its place among the starting structures; energies compare only within one.
        temperature: K.
        volume: relative change of the starting volume.
        pressure: GPa; NPT only.
        max_atoms: atoms of the supercell beyond which it is refused.
        n_steps: MD steps; None for those of the section ``explore``.
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
    max_atoms: int = MOST_EXPLORED_ATOMS
    n_steps: int | None = None


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
            max_atoms=group.max_atoms,
            n_steps=group.n_steps,
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
        max_atoms: atoms that its supercell may have.
    """

    source_number: int
    ensemble: str
    repeat: Triple
    is_pressed: bool
    max_atoms: int = MOST_EXPLORED_ATOMS

    @classmethod
    def of(cls, plan: WalkerPlan) -> Demand:
        """What ``plan`` asks."""
        pressures = [plan.pressure, *(stage.pressure for stage in plan.schedule)]
        is_pressed = plan.ensemble != "nvt" and any(pressures)
        return cls(
            is_pressed=is_pressed, **plan.model_dump(include={"source_number", "ensemble", "repeat", "max_atoms"})
        )


def list_demands(plans: Sequence[WalkerPlan]) -> list[Demand]:
    """What ``plans`` ask of their structures, each once, in a fixed order."""
    demands = {(d.source_number, d.ensemble, d.repeat, d.is_pressed, d.max_atoms): d for d in map(Demand.of, plans)}
    return [demands[key] for key in sorted(demands)]


def list_all_demands(config: Config) -> list[Demand]:
    """What walkers of any iteration ask of the starting structures."""
    changes = {0, *(override.from_iteration for override in config.overrides if override.explore)}
    groups = [config.at_iteration(iteration).explore.walkers for iteration in sorted(changes)]
    return list_demands([plan for walkers in groups for plan in plan_walkers(config.structures, walkers)])
