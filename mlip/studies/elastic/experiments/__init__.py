"""Experiments of study ``elastic``: what they are. No heavy imports, for the Snakefile reads this.

- ``ablation``: other cutoffs and resolutions, trained and measured;
- ``influence``: influences of training structures against trainings without the structure;
- ``faults``: a planted fault is found, named and mended (cheap labellers).
"""

from __future__ import annotations

from typing import Any

from mlip.studies.elastic.settings import FAULTS, PRESENT, Settings
from mlip.studies.experiments import Experiment, Need, Part


def _variants(settings: Settings) -> list[Part]:
    steps = {"n_steps": settings.ablation_steps, "tolerance": settings.tolerance}
    variants: dict[str, dict[str, Any]] = {PRESENT: {}} | settings.ablation
    needs: tuple[Need, ...] = ("dataset", "isolated_atoms", "reference")
    return [Part(name, {"change": change} | steps, needs) for name, change in variants.items()]


def _omissions(settings: Settings) -> list[Part]:
    plan = {"n": settings.n_omitted, "n_seeds": settings.omission_seeds}
    return [Part("influence", plan, ("dataset", "isolated_atoms"))]


def _faults(settings: Settings) -> list[Part]:
    plan = {"wrong_parameters": settings.wrong_parameters, "n_labels": settings.n_labels}
    return [Part(fault, plan, ("labels",)) for fault in FAULTS]


EXPERIMENTS = (
    Experiment("ablation", f"{__name__}.ablation", _variants, one_page=True),
    Experiment("influence", f"{__name__}.omission", _omissions),
    Experiment("faults", f"{__name__}.demonstration", _faults),
)
