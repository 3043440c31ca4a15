"""Section ``studies.eos`` of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mlip.studies.sections import StudySettings

RelativeDensity = Annotated[float, Field(gt=0.2, le=3)]


class Settings(StudySettings):
    """Equation of state P(ρ, T): isotherms from NVT dynamics, and the static curve."""

    densities: tuple[RelativeDensity, ...] = Field(
        (0.92, 0.96, 1.0, 1.04, 1.08), description="Densities over that of the first starting structure."
    )
