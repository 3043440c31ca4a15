"""Experiment of study ``neb``: labels until the verdict, by acquisition and seed, beside bands on the labeller itself.

snakemake --configfile config/gold-on-aluminium.yaml results/gold-on-aluminium/studies/neb/comparison/comparison.md
"""

from __future__ import annotations

from mlip.studies.experiments import Experiment, Part
from mlip.studies.neb.settings import Settings

ARMS = ("barrier", "uncertainty", "top")
LABELLER = "labeller"
"""The part that runs bands on the labeller, without any potential."""


def _comparison(settings: Settings) -> list[Part]:
    given = settings.model_dump(mode="json")
    parts = [
        Part(f"{arm}-{seed}", {"settings": given | {"acquisition": arm}, "seed": seed}, ("labels", "isolated_atoms"))
        for arm in ARMS
        for seed in range(settings.n_seeds)
    ]
    return [*parts, Part(LABELLER, {"settings": given}, ("labels",))]


EXPERIMENTS = (Experiment("comparison", f"{__name__}.comparison", _comparison, one_page=True),)
