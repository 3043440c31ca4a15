"""What the configuration knows of each study."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mlip.config.base import Section

STUDIES = Path(__file__).parents[1] / "studies"
"""Every package in it with a module ``settings`` is a study."""


Rounds = Annotated[
    int,
    Field(
        ge=0,
        le=99,
        description="Rounds of labelling and training after the first measurement, at most: they end when every"
        " criterion is met. 0 only measures.",
    ),
]
BatchSize = Annotated[int, Field(ge=1, description="Structures labelled in a round, at most.")]


class StudySettings(Section):
    """What all studies have in common."""

    rounds: Rounds = 1
    n_labels: BatchSize = 8
    train: dict[str, Any] = Field(
        default_factory=dict,
        description="Keys of `train` that the study's own trainings have otherwise, e.g. `{energy_weight: 10}`.",
    )

    def files(self) -> tuple[str, ...]:
        """Structure files that the study reads beside those of section ``structures``."""
        return ()

    def measures_from_reference(self) -> bool:
        """Whether a measurement begins with the reference (:attr:`mlip.studies.interface.Subject.reference`)."""
        return False

    def without_loop(self) -> bool:
        """Whether round 0 is trained on the reference's labels alone: the loop's potential is not needed."""
        return False


@cache
def study_names() -> tuple[str, ...]:
    """The packages in ``mlip/studies`` that have settings, sorted."""
    return tuple(sorted(path.parent.name for path in STUDIES.glob("*/settings.py")))
