"""The plan of an iteration's walkers; light enough to be made while Snakemake parses."""

from __future__ import annotations

from collections.abc import Sequence

from mlip.config.base import Section
from mlip.config.loop import Walker
from mlip.config.structures import StartingStructure


class WalkerPlan(Section):
    """One walker: which structure, which ensemble, which rung of the ladder."""

    source: StartingStructure
    source_number: int = 0
    """Its place among the starting structures; energies compare only within one."""
    ensemble: str
    temperature: float
    """K."""
    volume: float
    """Relative change of the starting volume."""
    pressure: float
    """GPa; NPT only."""


def plan_walkers(sources: Sequence[StartingStructure], groups: Sequence[Walker]) -> list[WalkerPlan]:
    """Every walker of an iteration: sources × groups × temperatures × volumes, in a fixed order."""
    return [
        WalkerPlan(
            source=source,
            source_number=number,
            ensemble=group.ensemble,
            temperature=temperature,
            volume=volume,
            pressure=group.pressure,
        )
        for number, source in enumerate(sources)
        for group in groups
        for temperature in group.temperatures
        for volume in group.volumes
    ]
