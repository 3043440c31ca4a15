"""Experiment of study ``softness``."""

from __future__ import annotations

from mlip.studies.softness.settings import Settings

from mlip.studies.experiments import Experiment, Part


def _squeezes(settings: Settings) -> list[Part]:
    needs = ("dataset", "potential", "reference", "labels", "isolated_atoms")
    return [Part(name, {"compression": compression}, needs) for name, compression in settings.squeezes.items()]


EXPERIMENTS = (Experiment("squeezing", f"{__name__}.squeezing", _squeezes, one_page=True),)
