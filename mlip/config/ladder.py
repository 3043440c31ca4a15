"""Section ``explore.ladder``: the conditions that walkers climb, from mild to harsh."""

from __future__ import annotations

from pydantic import Field, model_validator

from mlip.config.base import Positive, Section
from mlip.config.structures import Pressure, RelativeVolume, Temperature, Triple


class Rung(Section):
    """Conditions of walkers; what is left out is that of their group."""

    temperature: Temperature = Field(description="Temperature, K.")
    pressure: Pressure | None = Field(None, description="Pressure of NPT walkers, GPa.")
    volume: RelativeVolume | None = Field(
        None, description="Change of the starting volume, of NVT walkers; those that go on from earlier frames, too."
    )
    repeat: Triple | None = Field(None, description="Supercell; a new one begins in the ideal structure.")


class Ladder(Section):
    """Rungs for walkers of `temperatures: ladder`, and when they climb (docs/selection.md)."""

    rungs: tuple[Rung, ...] | None = Field(
        None,
        min_length=1,
        description="Conditions from mild to harsh. If absent, temperatures from `first` to `top`, each `factor` times "
        "the one before, that end where the walkers have molten.",
    )
    first: Temperature | None = Field(
        None,
        description="Temperature of the first rung, K; null for 300, or a quarter of the melting temperature that "
        "Lindemann's rule gives for the potential of iteration 0 where that is lower.",
    )
    factor: float = Field(1.5, gt=1, le=10, description="Temperature of a rung over that of the one before.")
    top: Temperature | None = Field(
        None,
        description="Temperature that no rung exceeds, K; null for three times what Lindemann's rule gives.",
    )
    n_walkers: int = Field(
        3,
        ge=1,
        description="Walkers of each group, structure, volume and pressure: every third below the present rung.",
    )
    max_error: Positive = Field(
        0.3,
        description="Error over RMS force, expected and of audits, below which walkers climb; below half of it by "
        "two rungs, far from melting.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Ladder:
        for rung in self.rungs or ():
            if rung.repeat is not None and min(rung.repeat) < 1:
                raise ValueError(f"repeat must be at least 1 along each vector, got {list(rung.repeat)}")
        if self.first is not None and self.top is not None and self.top < self.first:
            raise ValueError(f"top ({self.top:g} K) is below first ({self.first:g} K); raise it")
        return self


LADDER = "ladder"
"""What a group of walkers has for temperatures when it climbs."""
DEFAULT_FIRST = 300.0
"""K, of rungs that say nothing else."""


def list_rungs(ladder: Ladder, first: float, top: float) -> tuple[Rung, ...]:
    """The rungs that are given, else temperatures from ``first`` (K) upwards, ``top`` (K) the limit."""
    if ladder.rungs is not None:
        return ladder.rungs
    temperatures = [first]
    while temperatures[-1] * ladder.factor <= top:
        temperatures.append(temperatures[-1] * ladder.factor)
    return tuple(Rung(temperature=temperature) for temperature in temperatures)


def first_temperature(ladder: Ladder) -> float:
    """What a plan says before there is a potential, K."""
    return ladder.rungs[0].temperature if ladder.rungs else ladder.first or DEFAULT_FIRST
