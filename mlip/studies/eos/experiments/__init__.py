"""Experiment of study ``eos``: does its acquisition beat labels at uniform densities? No heavy imports.

snakemake --configfile config/argon.yaml results/argon/studies/eos/comparison/comparison.md
"""

from __future__ import annotations

from mlip.studies.eos.settings import Settings
from mlip.studies.experiments import Experiment, Need, Part

PLAN = {"n_seeds": 5, "n_rounds": 3, "n_labels": 4, "n_start": 6, "n_densities": 8}


def _comparison(settings: Settings) -> list[Part]:
    labeller_drives = settings.reference == "dynamics"
    # With DFT half the test frames: some hundred labels in all.
    plan = PLAN | {"n_test": 8 if labeller_drives else 4}
    driver: tuple[Need, ...] = () if labeller_drives else ("potential",)
    given = {"settings": settings.model_dump(mode="json"), "plan": plan}
    return [Part("comparison", given, ("labels", "isolated_atoms", *driver))]


EXPERIMENTS = (Experiment("comparison", f"{__name__}.experiment", _comparison),)
