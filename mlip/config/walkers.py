"""The plan of an iteration's walkers; light enough to be made while Snakemake parses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mlip.config.base import Section
from mlip.config.ladder import LADDER, Ladder, Rung, first_temperature
from mlip.config.loop import MOST_EXPLORED_ATOMS, Stage, Walker, pressures_of
from mlip.config.structures import StartingStructure, Triple
from mlip.config.system import Config


class WalkerPlan(Section):
    """One walker: which structure, which ensemble, which conditions.

    Attributes:
        source_number: its place among the starting structures; energies compare only within one.
        climbs: whether the ladder decides its conditions, at the ``present`` rung or ``below``; else empty.
        temperature: K; of one that climbs what holds at the first rung.
        volume: relative change of the starting volume.
        pressure: GPa; NPT only.
        max_atoms: atoms of the supercell beyond which it is refused.
        n_steps: MD steps; None for those of the section ``explore``.
        uncertainty_bias: power of the members' spread by which frames are visited more often; 0 for plain dynamics.
    """

    source: StartingStructure
    source_number: int = 0
    ensemble: str
    climbs: Literal["", "present", "below"] = ""
    temperature: float
    volume: float
    pressure: float
    repeat: Triple = (1, 1, 1)
    schedule: tuple[Stage, ...] = ()
    start: str = "ideal"
    max_atoms: int = MOST_EXPLORED_ATOMS
    n_steps: int | None = None
    uncertainty_bias: float = 0.0


def plan_walkers(
    sources: Sequence[StartingStructure],
    groups: Sequence[Walker],
    ladder: Ladder | None = None,
    *,
    iteration: int = 0,
    fresh_every: int = 1,
) -> list[WalkerPlan]:
    """Every walker of an iteration: sources × groups × temperatures × volumes × pressures, in a fixed order.

    Args:
        sources: The starting structures.
        groups: Of walkers.
        ladder: What the walkers of some groups climb.
        iteration: Number of the iteration.
        fresh_every: Iterations, in one of which a walker of ``start: mixed`` begins in the ideal structure.
    """
    plans: list[WalkerPlan] = []
    for number, source in enumerate(sources):
        for group in groups:
            if group.structures is not None and number not in group.structures:
                continue
            for climbs, temperature in _list_temperatures(group, ladder or Ladder()):
                for volume in group.volumes:
                    for pressure in pressures_of(group):
                        fresh = (len(plans) + iteration) % fresh_every == 0
                        conditions = {"temperature": temperature, "volume": volume, "pressure": pressure}
                        plans.append(_plan_walker(group, source, number, conditions, climbs=climbs, fresh=fresh))
    return plans


def _plan_walker(
    group: Walker, source: StartingStructure, number: int, conditions: dict[str, float], *, climbs: str, fresh: bool
) -> WalkerPlan:
    mixed = "ideal" if fresh or group.schedule else "last"
    start = mixed if group.start == "mixed" else group.start
    names = {"ensemble", "repeat", "schedule", "max_atoms", "n_steps", "uncertainty_bias"}
    values = {name: getattr(group, name) for name in names} | conditions
    return WalkerPlan(source=source, source_number=number, climbs=climbs, start=start, **values)


def _list_temperatures(group: Walker, ladder: Ladder) -> list[tuple[Literal["", "present", "below"], float]]:
    """How each walker of a group climbs, and its temperature."""
    if group.temperatures != LADDER:
        return [("", temperature) for temperature in group.temperatures if not isinstance(temperature, str)]
    first = first_temperature(ladder)
    return [("below" if k % 3 == 2 else "present", first) for k in range(ladder.n_walkers)]


def plans_of(config: Config, iteration: int) -> list[WalkerPlan]:
    """The walkers of an iteration of ``config``."""
    current = config.at_iteration(iteration)
    explore = current.explore
    return plan_walkers(
        current.structures, explore.walkers, explore.ladder, iteration=iteration, fresh_every=explore.fresh_every
    )


def walkers_before(number: int, plans: Sequence[WalkerPlan], earlier: Sequence[WalkerPlan]) -> list[int]:
    """Walkers of the previous iteration of one of whose last frames walker ``number`` starts.

    They explored the same supercell of the same structure, with a bias or without as it does. Where the
    walker of the same number is one of them, it alone is continued. Walkers below the present rung go on from those at
    it: what has molten there is followed downwards.
    """
    plan = plans[number]
    if plan.start != "last":
        return []
    if plan.climbs == "below":
        names = ("source_number", "repeat", "ensemble", "volume", "pressure", "uncertainty_bias")
        same = [k for k, p in enumerate(earlier) if all(getattr(p, name) == getattr(plan, name) for name in names)]
        above = [k for k in same if earlier[k].climbs == "present"]
        if above:
            return above
    # What was pushed is no place for plain dynamics to begin: its first frames would not be its own.
    place = (plan.source_number, plan.repeat, plan.uncertainty_bias > 0)
    same_place = [k for k, p in enumerate(earlier) if (p.source_number, p.repeat, p.uncertainty_bias > 0) == place]
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
    return list_demands([plan for iteration in sorted(changes) for plan in _with_rungs(config, iteration)])


def _with_rungs(config: Config, iteration: int) -> list[WalkerPlan]:
    """The walkers of an iteration; of those that climb, one for each rung whose conditions are given."""
    plans, rungs = plans_of(config, iteration), config.at_iteration(iteration).explore.ladder.rungs or ()
    return plans + [put_on_rung(plan, rung) for plan in plans if plan.climbs for rung in rungs]


def put_on_rung(plan: WalkerPlan, rung: Rung) -> WalkerPlan:
    """``plan`` in the conditions of ``rung``."""
    changes: dict[str, Any] = {"temperature": rung.temperature}
    if rung.repeat is not None:
        changes["repeat"] = rung.repeat
    if rung.pressure is not None and plan.ensemble != "nvt":
        changes["pressure"] = rung.pressure
    if rung.volume is not None and plan.ensemble == "nvt":
        changes["volume"] = rung.volume
    return plan.model_copy(update=changes)
