"""Section ``studies.validation`` of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mlip.config.base import Positive
from mlip.config.study import StudySettings

Strain = Annotated[float, Field(gt=0, lt=0.1)]


class Settings(StudySettings):
    """Can a potential be trusted? Elastic constants, dynamics at constant energy, and short distances."""

    rounds: int = Field(0, ge=0, le=99, description="Rounds of labelling and training; 0 only measures.")
    strain: Strain = Field(
        0.01,
        description="Strain of the elastic constants: above the noise of stresses, and still linear.",
    )
    fmax: Positive = Field(1e-4, description="Force at which relaxation by a potential ends, eV/Å.")
    reference_fmax: Positive = Field(0.005, description="The same for the labeller, whose forces have noise.")
    max_labels: int = Field(
        60, ge=1, description="Labels that the reference may ask for; a diamond crystal needs about ten."
    )
    lattice_constant: Positive = Field(0.003, description="Allowed relative error of the lattice constant.")
    bulk_modulus: Positive = Field(0.05, description="Allowed relative error of the bulk modulus.")
    shear_modulus: Positive = Field(0.15, description="Allowed relative error of C44, clamped and relaxed.")
    n_atoms: int = Field(64, ge=1, description="Least number of atoms of the dynamics; the crystal is repeated.")
    temperature: Positive = Field(600.0, description="Temperature that the dynamics starts from, K.")
    timestep: Positive = Field(1.0, le=20, description="MD time step, fs.")
    equilibration: float = Field(2000.0, ge=0, description="Length of the Langevin run before, fs.")
    duration: Positive = Field(50_000.0, description="Length at constant energy, fs.")
    drift: Positive = Field(1.0, description="Allowed drift of the total energy over the run, meV/atom.")
    fluctuation: Positive = Field(
        0.5, description="Allowed relative deviation of the temperature's fluctuation from a harmonic crystal's."
    )
    hole: Positive = Field(1e-3, description="Allowed fall of the energy on the way to short distances, eV.")
    acquire_strain: Strain = Field(0.03, description="Largest strain of the structures offered for labelling.")
    rattle: Positive = Field(0.05, description="Displacements of their atoms, Å.")
