"""Sections of the loop's steps: ``collect``, ``explore``, ``select``, ``assess`` and ``budget``."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from mlip.config.base import Fraction, Positive, Section
from mlip.config.structures import Pressure, RelativeVolume, Temperature
from mlip.config.study import study_names

AnySection = TypeVar("AnySection", bound=Section)


class Collect(Section):
    """Train/validation/test split, by a hash of each structure."""

    valid_fraction: float = Field(
        0.15, gt=0, lt=0.5, description="Share of the data for early stopping and calibration."
    )
    test_fraction: float = Field(0.10, ge=0, lt=0.5, description="Share of the data never seen in training.")


class Walker(Section):
    """A group of MD walkers: one walker per temperature and volume change."""

    ensemble: Literal["nvt", "npt", "npt-flexible"] = Field(
        "nvt", description="Langevin NVT, NPT with a breathing volume, or NPT with a fully flexible cell (solids only)."
    )
    temperatures: tuple[Temperature, ...] = Field((300.0, 600.0), min_length=1, description="Temperatures, K.")
    volumes: tuple[RelativeVolume, ...] = Field(
        (0.0,), min_length=1, description="Relative volume changes of the starting structure."
    )
    pressure: Pressure = Field(0.0, description="Pressure of NPT walkers, GPa.")


class Explore(Section):
    """Exploration MD driven by the committee."""

    walkers: tuple[Walker, ...] = Field(
        (Walker(ensemble="nvt"), Walker(ensemble="npt")), min_length=1, description="Walker groups, each a ladder."
    )
    timestep: float = Field(1.0, ge=0.02, le=10, description="MD time step, fs.")
    n_steps: int = Field(1000, ge=1, description="MD steps of a walker.")
    sample_every: int = Field(20, ge=1, description="Steps between kept frames.")
    friction: Positive = Field(0.01, le=1, description="Langevin friction, 1/fs.")
    max_uncertainty: Positive = Field(1.0, description="Calibrated force uncertainty at which a walker stops, eV/Å.")


class Select(Section):
    """What goes to DFT next."""

    n_structures: int = Field(12, ge=1, description="Structures chosen per iteration, audit frames included.")
    n_audit: int = Field(3, ge=0, description="Of these, frames drawn at random for an unbiased error estimate.")
    min_uncertainty: Annotated[float, Field(ge=0)] = Field(
        0.02, description="Frames below this force uncertainty are left, eV/Å."
    )
    max_uncertainty: Positive = Field(1.5, description="Frames above it are taken for broken and left, eV/Å.")
    max_energy: Positive = Field(
        2.0, description="Frames further above the training set's lowest energy are left, eV/atom."
    )
    min_novelty: Annotated[float, Field(ge=0)] = Field(
        0.02, description="Descriptor distance below which two frames are duplicates."
    )

    @model_validator(mode="after")
    def _audit_fits(self) -> Select:
        if self.n_audit > self.n_structures:
            raise ValueError(f"n_audit ({self.n_audit}) cannot exceed n_structures ({self.n_structures})")
        if self.min_uncertainty >= self.max_uncertainty:
            raise ValueError(
                f"min_uncertainty ({self.min_uncertainty}) must be below max_uncertainty ({self.max_uncertainty})"
            )
        return self


class Assess(Section):
    """When the loop has converged. Every criterion must pass."""

    force_rmse: Positive = Field(
        0.15, description="Force RMSE of the old potential on the newly labelled structures, eV/Å."
    )
    audit_force_rmse: Positive | None = Field(
        0.15, description="Upper confidence bound of the force RMSE on audit frames, eV/Å; null for no such criterion."
    )
    relative_force_rmse: Positive = Field(
        0.3, description="The same over the RMS force of those structures: 1 is what predicting no forces would reach."
    )
    confidence: float = Field(0.9, gt=0.5, lt=1, description="Confidence level of the audit interval.")
    min_coverage: Fraction = Field(0.8, description="Share of new force errors that the 95 % uncertainty must cover.")
    lattice_constant: Positive = Field(
        0.003,
        description="Allowed relative error of the lattice constant (cube root of the conventional cell's volume).",
    )
    bulk_modulus: Positive = Field(0.05, description="Allowed relative error of the bulk modulus.")
    eos_rmse: Positive = Field(0.005, description="Allowed RMSE of the equation of state, eV/atom.")
    max_unstable_fraction: Fraction = Field(
        0.0, description="Allowed share of walkers that stopped early, uncertain or exploded."
    )
    eos_volumes: tuple[RelativeVolume, ...] = Field(
        (-0.08, -0.05, -0.025, 0.0, 0.025, 0.05, 0.08),
        description="Relative volumes of the first structure for the equation of state; `[]` for slabs and molecules.",
    )

    studies: tuple[str, ...] = Field(
        (), description="Studies measured in every iteration whose criteria count, too, e.g. `[eos]` (docs/studies.md)."
    )

    @field_validator("studies")
    @classmethod
    def _studies_exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in study_names()]
        if unknown or len(set(value)) < len(value):
            raise ValueError(f"need different ones of {', '.join(study_names())}, got {', '.join(value)}")
        return value

    @field_validator("eos_volumes")
    @classmethod
    def _both_sides(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (len(set(value)) < 5 or min(value) >= 0 or max(value) <= 0):
            raise ValueError("need at least 5 different volumes on both sides of 0, or [] for no equation of state")
        return value


class Budget(Section):
    """What the loop may spend: no iteration is begun that would exceed it, and the report says so."""

    labels: int | None = Field(None, ge=1, description="Labels, failed ones included.")
    core_hours: Positive | None = Field(
        None, description="Core-hours of all steps: cores held times hours, failed attempts included."
    )
    gpu_hours: Positive | None = Field(None, description="GPU-hours of all steps, likewise.")
