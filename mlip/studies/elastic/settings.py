"""Section ``studies.elastic`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mlip.config.base import Positive
from mlip.config.study import StudySettings

FAULTS = ("wrong_labels", "short_cutoff", "missing_shear")
"""What the target `faults` can plant."""
PRESENT = "present"
"""The ablation's variant without changes."""
Amplitude = Annotated[float, Field(gt=0, lt=0.1)]


class Settings(StudySettings):
    """Elastic constants, clamped and relaxed, with a diagnosis of their errors."""

    amplitudes: tuple[Amplitude, ...] = Field(
        (0.004, 0.008, 0.012), min_length=1, description="Strains, of both signs, of every strain path."
    )
    fmax: Positive = Field(1e-5, description="Force at which relaxation by a potential ends, eV/Å.")
    reference_fmax: Positive = Field(0.005, description="The same for the labeller, whose forces have noise.")
    max_labels: int = Field(200, ge=1, description="Labels that the reference may ask for.")
    tolerance: Positive = Field(
        0.1, description="Allowed relative error of every constant, clamped and relaxed, and of its committee's."
    )
    agreement: Positive = Field(
        0.02, description="Allowed relative difference between constants from energies and from stresses."
    )
    acquire_strain: Amplitude = Field(0.04, description="Largest strain of the structures offered for labelling.")
    rattle: Positive = Field(0.03, description="Displacements of their atoms, Å.")
    attribute: bool = Field(True, description="Rank the training structures by their influence (backend ace).")
    ablation: dict[str, dict[str, Any]] = Field(
        {
            "short_cutoff": {"cutoff": 4.0},
            "long_cutoff": {"cutoff": 6.5},
            "low_angular": {"l_max": 1},
            "few_radial": {"n_radial": 4},
        },
        description="Variants of `train` that the ablation trains and measures, by name.",
    )
    n_omitted: int = Field(
        12, ge=3, description="Structures left out by retraining, to check influences (target `influence`)."
    )
    omission_seeds: int = Field(3, ge=1, description="Seeds of these trainings.")
    wrong_parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Changes of `label.parameters` that make the wrong labels of the target `faults`.",
    )
    ablation_steps: int = Field(600, ge=1, description="Optimiser steps of each of them.")
