"""Section ``studies.eos`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mlip.config.base import Positive
from mlip.config.study import StudySettings

RelativeDensity = Annotated[float, Field(gt=0.05, le=3)]


class Settings(StudySettings):
    """Equation of state P(ρ, T): isotherms from NVT dynamics, and the static curve."""

    densities: tuple[RelativeDensity, ...] = Field(
        (0.92, 0.96, 1.0, 1.04, 1.08), min_length=2, description="Densities over that of the first starting structure."
    )
    temperatures: tuple[Positive, ...] = Field((300.0,), min_length=1, description="Temperatures of the isotherms, K.")
    n_atoms: int = Field(32, ge=1, description="Least number of atoms; the starting structure is repeated.")
    timestep: Positive = Field(2.0, le=20, description="MD time step, fs.")
    friction: Positive = Field(0.005, description="Langevin friction, 1/fs.")
    n_steps: int = Field(2000, ge=100, description="MD steps of a state; the first part is left out as it turns out.")
    sample_every: int = Field(5, ge=1, description="Steps between values of the pressure.")
    n_frames: int = Field(24, ge=2, description="Frames of a state that committee error and acquisition look at.")
    melt_temperature: Positive | None = Field(
        None, description="Temperature of a run before, half as long, that melts the crystal, K; null for none."
    )
    reference: Literal["none", "dynamics"] = Field(
        "none",
        description="Reference isotherms: `dynamics` with the labeller itself, for cheap ones only; else static alone.",
    )
    deviation_weight: float = Field(
        1.0, ge=0, description="Weight λ of the deviation from the reference in the acquisition."
    )
    pressure_error: Positive = Field(
        0.03,
        description="Allowed RMS error of the pressure over its span; of the committee's error without reference.",
    )
    bulk_modulus: Positive = Field(0.05, description="Allowed relative error of the static bulk modulus.")
    volume: Positive = Field(0.01, description="Allowed relative error of the static equilibrium volume.")
