"""Section ``studies.diffusion`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mlip.config.base import Positive
from mlip.config.study import StudySettings


class Settings(StudySettings):
    """Self-diffusion: coefficient from dynamics, and the force error that it allows."""

    relative_error: float = Field(
        0.05, gt=0, lt=1, description="Wanted relative error of the diffusion coefficient; the force target follows."
    )
    max_force_ratio: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="Largest force RMSE over the RMS force, whatever the diffusion coefficient would allow: "
        "1 is what predicting no forces would reach.",
    )
    temperature: Positive = Field(300.0, description="Temperature, K.")
    melt_temperature: Positive | None = Field(
        None, description="Temperature of a melting run before the equilibration, K; null for none."
    )
    volume: Annotated[float, Field(gt=-0.7, le=3)] = Field(
        0.0, description="Relative volume change of the first starting structure."
    )
    n_atoms: int = Field(108, ge=2, le=100_000, description="Least number of atoms; the structure is repeated.")
    timestep: Positive = Field(1.0, le=10, description="MD time step, fs.")
    sample_every: int = Field(5, ge=1, description="Steps between samples of positions and velocities.")
    equilibration: Positive = Field(4000.0, description="Length of the (melting and) equilibrating runs, fs each.")
    n_blocks: int = Field(8, ge=4, le=1000, description="Independent blocks, each at constant energy.")
    block_length: Positive = Field(8000.0, description="Length of a block, fs.")
    decorrelation: float = Field(500.0, ge=300, description="Length of the Langevin run before each block, fs.")
    window: Positive | None = Field(
        None, description="Time from which the integral of the velocity autocorrelation is flat, fs; found if absent."
    )
    viscosity: Positive | Literal["stress"] | None = Field(
        None,
        description="Shear viscosity for the finite-size correction, mPa·s, or `stress` to compute it from the "
        "stress of the same runs; null for no correction.",
    )
    reference: Positive | Literal["labeller"] | None = Field(
        None,
        description="Diffusion coefficient to compare with, cm²/s, before any finite-size correction, or `labeller` "
        "for dynamics with the labeller itself.",
    )
    member_blocks: int = Field(
        4,
        ge=0,
        le=1000,
        description="Blocks run with each member of a committee, for the model error; below 2 for none.",
    )
    n_error_samples: int = Field(
        400, ge=20, description="Successive samples on which the correlation time of the force error is measured."
    )
    n_frames: int = Field(64, ge=1, description="Frames kept for the acquisition.")

    @model_validator(mode="after")
    def _long_enough(self) -> Settings:
        interval = self.timestep * self.sample_every
        samples = self.block_length / interval
        if samples < 40:
            raise ValueError(
                f"a block of {self.block_length:g} fs holds {samples:.0f} samples, but needs at least 40; "
                "raise block_length or lower sample_every"
            )
        if self.member_blocks == 1:
            raise ValueError("member_blocks must be 0 or at least 2: one block has no error")
        if self.window is not None and 2 * round(self.window / interval) > round(samples) // 2:
            raise ValueError(
                f"window ({self.window:g} fs) must not exceed a quarter of block_length ({self.block_length:g} fs)"
            )
        return self
