"""Section ``studies.neb`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mlip.config.base import Positive, Section
from mlip.config.structures import StartingStructure
from mlip.config.study import BatchSize, Rounds, StudySettings

Index = Annotated[int, Field(ge=0)]


class Vacancy(Section):
    """A vacancy that a neighbour hops into."""

    removed: Index = Field(description="Atom of the starting structure, from 0, that is missing.")
    moved: Index = Field(description="Atom that hops to its place.")


class Hop(Section):
    """Atoms, such as an adsorbate's, that are moved as a whole."""

    atoms: tuple[Index, ...] = Field(min_length=1, description="Atoms of the starting structure, from 0.")
    by: tuple[float, float, float] = Field(description="Displacement that leads to the other end of the path, Å.")


class Inversion(Section):
    """Atoms that go through a plane."""

    atoms: tuple[Index, ...] = Field(min_length=1, description="Atoms of the starting structure, from 0.")
    plane: tuple[Index, Index, Index] = Field(description="Three atoms, through which the mirror plane goes.")


class EndPoints(Section):
    """The two ends of a path: files of both, or a starting structure and what happens to it."""

    initial: StartingStructure | None = Field(None, description="First end, as in `structures`; needs `final`.")
    final: StartingStructure | None = Field(None, description="Second end: the same atoms in the same order.")
    structure: Index = Field(0, description="Starting structure that `vacancy`, `hop` or `inversion` begins with.")
    vacancy: Vacancy | None = Field(None, description="An atom missing, and one that hops to its place.")
    hop: Hop | None = Field(None, description="Atoms moved along a vector.")
    inversion: Inversion | None = Field(None, description="Atoms mirrored by a plane through three others.")

    @model_validator(mode="after")
    def _one_way(self) -> EndPoints:
        if (self.initial is None) != (self.final is None):
            raise ValueError("`initial` and `final` need each other: give the files of both ends")
        ways = [self.initial, self.vacancy, self.hop, self.inversion]
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give exactly one of `initial` with `final`, `vacancy`, `hop` and `inversion`")
        return self


class Settings(StudySettings):
    """Barriers between stable structures, and the rates that follow from them."""

    rounds: Rounds = 12
    n_labels: BatchSize = 1
    paths: dict[str, EndPoints] = Field(default_factory=dict, description="Paths by name, such as `hop`.")
    start: Literal["loop", "reference"] = Field(
        "loop",
        description="Begin with the potential of the loop, or with one trained on the labels that relax the ends.",
    )
    n_images: int = Field(7, ge=3, le=51, description="Images of a path, both ends included.")
    relax_fmax: Positive = Field(0.05, description="Force at which the labeller's relaxation of the ends stops, eV/Å.")
    max_labels: int = Field(200, ge=1, description="Labels that the relaxation of the ends may take.")
    path_fmax: Positive = Field(0.02, description="Force at which the band on the potential stops, eV/Å.")
    n_steps: int = Field(300, ge=1, description="Steps of the band at most.")
    fmax: Positive = Field(0.05, description="Allowed force of the label at the saddle, eV/Å.")
    energy_std: Positive = Field(0.05, description="Allowed uncertainty of energies along the path, eV.")
    barrier_error: Positive = Field(
        0.01, description="Allowed difference of the potential's and the labelled energy at the saddle, eV."
    )
    same_place: Positive = Field(
        0.1, description="Farthest that an atom of the label may be from where it is in the saddle, Å."
    )
    temperatures: tuple[Positive, ...] = Field(
        (300.0,), min_length=1, description="Temperatures of the rates, K; the first is that of the acquisition."
    )
    acquisition: Literal["barrier", "uncertainty", "top"] = Field(
        "barrier",
        description="Label what the barrier depends on, what is most uncertain, or always the highest image.",
    )
    force_weight: float = Field(
        10.0, ge=0, description="Weight α of the variance of the force across the path in the acquisition, (Å/eV)²."
    )
    focus: Positive = Field(0.05, description="Energy below the highest image at which an image's weight is 1/e, eV.")

    n_seeds: int = Field(5, ge=1, description="Seeds of the experiment `comparison`.")

    @field_validator("paths")
    @classmethod
    def _names(cls, value: dict[str, EndPoints]) -> dict[str, EndPoints]:
        for name in value:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"the path {name!r} has a name that no file can carry; use letters, digits, - and _")
        return value

    def files(self) -> tuple[str, ...]:
        """Files of the ends."""
        ends = [end for path in self.paths.values() for end in (path.initial, path.final)]
        return tuple(end.file for end in ends if end is not None and end.file is not None)

    def measures_from_reference(self) -> bool:
        """The labeller's relaxed ends."""
        return True

    def without_loop(self) -> bool:
        """Whether round 0 is trained on the labels of the relaxation alone."""
        return self.start == "reference"
