"""What temperature and pressure a walker is held at over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlip.config.walkers import WalkerPlan


@dataclass(frozen=True)
class Targets:
    """Temperature (K) and pressure (GPa) piecewise linear in time (fs), constant after the last point."""

    times: tuple[float, ...]
    temperatures: tuple[float, ...]
    pressures: tuple[float, ...]

    @classmethod
    def of(cls, plan: WalkerPlan) -> Targets:
        """Those of ``plan``: what its schedule leaves open stays as it begins."""
        if not plan.schedule:
            return cls((0.0,), (plan.temperature,), (plan.pressure,))
        return cls(
            tuple(stage.time for stage in plan.schedule),
            tuple(plan.temperature if s.temperature is None else s.temperature for s in plan.schedule),
            tuple(plan.pressure if s.pressure is None else s.pressure for s in plan.schedule),
        )

    @property
    def are_constant(self) -> bool:
        """Whether nothing changes over time."""
        return len(self.times) == 1

    def temperature(self, time: float) -> float:
        """Temperature at ``time``, K."""
        return float(np.interp(time, self.times, self.temperatures))

    def pressure(self, time: float) -> float:
        """Pressure at ``time``, GPa."""
        return float(np.interp(time, self.times, self.pressures))

    def hottest(self, time: float) -> float:
        """Highest temperature up to ``time``, K: what was heated needs time to cool."""
        past = [value for when, value in zip(self.times, self.temperatures, strict=True) if when <= time]
        return max([*past, self.temperature(time)])
