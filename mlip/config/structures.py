"""Sections ``structures`` and ``prepare``: what a system starts from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from mlip.config.base import Section

RelativeVolume = Annotated[float, Field(gt=-0.7, le=3)]
Triple = tuple[int, int, int]
# Bounds that no sensible value exceeds: a value beyond them is in another unit.
Temperature = Annotated[float, Field(ge=1, le=50_000)]  # K; not eV
Pressure = Annotated[float, Field(ge=-1000, le=10_000)]  # GPa; not bar or Pa
Displacement = Annotated[float, Field(gt=0, le=2)]  # Å; not pm


class Bulk(Section):
    """A bulk crystal built by ``ase.build.bulk``."""

    name: str = Field(max_length=40, description="Chemical symbol or formula, e.g. `Si`, `NaCl`.")
    crystalstructure: str | None = Field(None, description="`diamond`, `fcc`, `rocksalt`, …; ASE's default if absent.")
    a: Annotated[float, Field(ge=1, le=100)] | None = Field(
        None, description="Lattice constant in Å; ASE's reference value if absent."
    )
    cubic: bool = Field(True, description="Conventional cubic cell instead of the primitive one.")


class StartingStructure(Section):
    """One starting structure: a file or a bulk crystal, optionally repeated."""

    file: str | None = Field(
        None, description="Structure file that ASE or pymatgen reads, relative to the working directory."
    )
    bulk: Bulk | None = Field(None, description="Bulk crystal, instead of a file.")
    repeat: Triple = Field((1, 1, 1), description="Supercell repeats along the three cell vectors.")

    @model_validator(mode="after")
    def _exactly_one_source(self) -> StartingStructure:
        if (self.file is None) == (self.bulk is None):
            raise ValueError("give exactly one of `file` and `bulk`")
        if min(self.repeat) < 1:
            raise ValueError(f"repeat must be at least 1 along each vector, got {self.repeat}")
        if self.file is not None and not _is_file_name(self.file):
            raise ValueError("`file` is no name that a file can have; give a path relative to the working directory")
        return self


def _is_file_name(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and max(len(os.fsencode(part)) for part in Path(text).parts) < 256


class Prepare(Section):
    """Iteration 0: perturbed copies of the starting structures."""

    n_structures: int = Field(
        24, ge=4, le=100_000, description="Structures kept after deduplication, over all starting structures."
    )
    volume_range: tuple[float, float] = Field((-0.10, 0.10), description="Relative volume change of the volume scan.")
    max_strain: float = Field(0.04, ge=0, le=0.3, description="Largest component of the random symmetric strains.")
    rattle: tuple[Displacement, ...] = Field(
        (0.03, 0.08, 0.16), min_length=1, description="Standard deviations of the random displacements, Å."
    )
    vacancies: bool = Field(True, description="Include structures with one atom removed.")

    @field_validator("volume_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not -0.5 <= value[0] < value[1] <= 1.0:
            raise ValueError(f"need -0.5 <= low < high <= 1.0 (relative volume change), got {value}")
        return value
