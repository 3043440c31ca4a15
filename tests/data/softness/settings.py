"""Section ``studies.softness`` of the configuration."""

from __future__ import annotations

from pydantic import Field

from mlip.config.base import Positive
from mlip.config.study import StudySettings


class Settings(StudySettings):
    """Energy that compression costs."""

    compression: Positive = Field(0.1, lt=1, description="Share of the volume.")
    tolerance: Positive = Field(10.0, description="Allowed relative error of the energy.")
    squeezes: dict[str, float] = Field({"little": 0.02, "much": 0.2}, description="Parts of the experiment.")
