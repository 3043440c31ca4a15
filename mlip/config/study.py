"""What the configuration knows of each study."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from mlip.config.base import Section

STUDIES = Path(__file__).parents[1] / "studies"
"""Every package in it with a module ``settings`` is a study."""


class StudySettings(Section):
    """What all studies have in common."""

    rounds: int = Field(
        1, ge=0, le=99, description="Rounds of labelling and training after the first measurement; 0 only measures."
    )
    n_labels: int = Field(8, ge=1, description="Structures labelled in a round.")


@cache
def study_names() -> tuple[str, ...]:
    """The packages in ``mlip/studies`` that have settings, sorted."""
    return tuple(sorted(path.parent.name for path in STUDIES.glob("*/settings.py")))
