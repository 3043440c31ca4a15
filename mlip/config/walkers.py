"""The plan of an iteration's walkers; light enough to be made while Snakemake parses."""

from __future__ import annotations

from collections.abc import Sequence

from mlip.config.base import Section
from mlip.config.loop import Walker
from mlip.config.structures import StartingStructure


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
