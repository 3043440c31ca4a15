"""Sections ``structures`` and ``prepare``: what a system starts from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from mlip.config.base import Section
from mlip.config.indexing import check_index, named_numbers

RelativeVolume = Annotated[float, Field(gt=-0.7, le=3)]
Triple = tuple[int, int, int]
# Bounds that no sensible value exceeds: a value beyond them is in another unit.
Temperature = Annotated[float, Field(ge=1, le=50_000)]  # K; not eV
Pressure = Annotated[float, Field(ge=-1000, le=10_000)]  # GPa; not bar or Pa
Displacement = Annotated[float, Field(gt=0, le=2)]  # Å; not pm


MOST_OF_A_FILE = 100
"""Starting structures that one file may give."""


class Bulk(Section):
    """A bulk crystal built by ``ase.build.bulk``."""

    name: str = Field(max_length=40, description="Chemical symbol or formula, e.g. `Si`, `NaCl`.")
    crystalstructure: str | None = Field(None, description="`diamond`, `fcc`, `rocksalt`, …; ASE's default if absent.")
    a: Annotated[float, Field(ge=1, le=100)] | None = Field(
        None, description="Lattice constant in Å; ASE's reference value if absent."
    )
    cubic: bool = Field(True, description="Conventional cubic cell instead of the primitive one.")


class Fixed(Section):
    """Atoms that neither `prepare` nor MD moves; labels keep the forces on them."""

    below: float | None = Field(
        None, ge=-10_000, le=10_000, description="Atoms lower than this along the third axis, Å."
    )
    layers: int | None = Field(None, ge=0, description="Lowest layers; 0 frees all atoms.")
    indices: tuple[int, ...] | None = Field(None, description="Atoms by number, from 0, before `repeat`.")

    @model_validator(mode="after")
    def _exactly_one_rule(self) -> Fixed:
        if sum(value is not None for value in (self.below, self.layers, self.indices)) != 1:
            raise ValueError("give exactly one of `below`, `layers` and `indices`")
        return self


class StartingStructure(Section):
    """One starting structure: a file or a bulk crystal, optionally repeated."""

    file: str | None = Field(
        None, description="Structure file that ASE or pymatgen reads, relative to the working directory."
    )
    index: str | None = Field(
        None,
        description="Of a file of several structures: `0` takes one; `:10` takes ten, each a starting structure.",
    )
    sample: int | None = Field(
        None, ge=1, description="So many drawn at random from the file, or from `index`, by `seed`."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="Of `sample`, where it is to be another than the whole run's."
    )
    member: int | None = Field(None, ge=0, description="Of the structures that `sample` draws this one alone, from 0.")
    elements: tuple[str, ...] | None = Field(
        None, description="Of a POSCAR of VASP 4, which names none: in the order of its counts, e.g. `[Si, O]`."
    )
    bulk: Bulk | None = Field(None, description="Bulk crystal, instead of a file.")
    repeat: Triple = Field((1, 1, 1), description="Supercell repeats along the three cell vectors.")
    fixed: Fixed | None = Field(
        None, description="Fixed atoms, in place of those that the file fixes (selective dynamics, `move_mask`)."
    )

    @model_serializer(mode="wrap")
    def _without_idle_seed(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Where nothing is drawn there is no seed to tell, and no change for jobs that have run."""
        values: dict[str, Any] = handler(self)
        if values.get("seed", 0) is None:
            del values["seed"]
        return values

    @field_validator("index", mode="before")
    @classmethod
    def _index(cls, value: object) -> str | None:
        return None if value is None else check_index(value)

    @model_validator(mode="after")
    def _part_of_a_file(self) -> StartingStructure:
        if self.file is None and (self.index is not None or self.sample is not None):
            raise ValueError("`index` and `sample` choose structures of a `file`")
        if self.file is None and self.elements is not None:
            raise ValueError("`elements` are those of a POSCAR; give its name as `file`")
        if self.seed is not None and self.sample is None:
            raise ValueError("`seed` belongs to `sample`, which draws structures at random")
        if self.member is not None and not self.member < (self.sample or 0):
            raise ValueError(f"member {self.member} is none of those that sample ({self.sample}) draws")
        return self

    @model_validator(mode="after")
    def _exactly_one_source(self) -> StartingStructure:
        if (self.file is None) == (self.bulk is None):
            raise ValueError("give exactly one of `file` and `bulk`")
        if min(self.repeat) < 1:
            raise ValueError(f"repeat must be at least 1 along each vector, got {self.repeat}")
        if self.file is not None and not _is_file_name(self.file):
            raise ValueError("`file` is no name that a file can have; give a path relative to the working directory")
        return self


def expand_structures(sources: Sequence[StartingStructure], seed: int) -> tuple[StartingStructure, ...]:
    """``sources`` with one entry for each structure of a file of which several are taken.

    Args:
        sources: section ``structures``.
        seed: of the configuration, by which they are drawn where there is ``sample``.

    Raises:
        ValueError: when they are too many, or how many cannot be told without the file.
    """
    return tuple(member for source in sources for member in _members(source, seed))


def _members(source: StartingStructure, seed: int) -> list[StartingStructure]:
    if source.member is not None or (source.sample is None and source.index is None):
        return [source]
    numbers = range(source.sample) if source.sample is not None else named_numbers(source.index or "")
    if numbers is None or not numbers:
        raise ValueError(
            f"index {source.index!r} of {source.file} does not say how many structures it takes; name the end, as in"
            " `:10` or `0:100:10`, or have some drawn: `sample: 10`"
        )
    if len(numbers) > MOST_OF_A_FILE:
        raise ValueError(
            f"{len(numbers)} starting structures of {source.file}, each with walkers of its own: at most"
            f' {MOST_OF_A_FILE}; take fewer, e.g. `index: ":{10 * MOST_OF_A_FILE}:{MOST_OF_A_FILE}"` or `sample: 10`.'
            " Labelled structures to learn from belong into `data`"
        )
    if source.sample is None:
        return [source.model_copy(update={"index": str(k)}) for k in numbers]
    drawn_by = seed if source.seed is None else source.seed
    return [source.model_copy(update={"seed": drawn_by, "member": k}) for k in numbers]


def _is_file_name(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and max(len(os.fsencode(part)) for part in Path(text).parts) < 256


Weight = Annotated[float, Field(ge=0, le=1000)]


class PrepareKinds(Section):
    """Weights of the kinds of structures; 0 is off, and a kind that a structure does not allow is left out."""

    volume_scan: Weight = Field(0.2, description="Bulk at other volumes.")
    strain: Weight = Field(0.3, description="Random strains; of slabs in the plane, of wires along the axis.")
    rattle: Weight = Field(0.35, description="Random displacements; molecules as their bonds allow.")
    vacancy: Weight = Field(0.15, description="One atom removed; never a part of a molecule, fixed or adsorbed.")
    swap: Weight = Field(0.15, description="Atoms of an alloy exchanged between like sites.")
    interstitial: Weight = Field(0.0, description="An atom more, in one of the largest voids of a bulk.")
    surface: Weight = Field(0.0, description="Low-index slabs cut from a bulk.")
    cluster: Weight = Field(0.0, description="Clusters of 2 to 24 atoms, or of a few molecules, cut from a bulk.")
    close_pair: Weight = Field(
        0.0, description="Two neighbours of a bulk pushed together, to 0.75 to 0.9 times their covalent radii."
    )
    dimer: Weight = Field(0.0, description="Two atoms, alone or in their bulk, from 0.7 times their covalent radii on.")
    random: Weight = Field(0.0, description="Random positions at the density and composition of a bulk.")
    melt: Weight = Field(0.0, description="Bulk disordered by large displacements, atoms then pushed apart.")
    mode: Weight = Field(0.0, description="Displacements along one soft mode.")
    phase: Weight = Field(0.0, description="Other phases, from `phases`.")

    @model_validator(mode="after")
    def _any(self) -> PrepareKinds:
        if not any(getattr(self, kind) for kind in type(self).model_fields):
            raise ValueError("every weight is 0; give one kind a weight, e.g. `rattle: 1`")
        return self


class Prepare(Section):
    """Iteration 0: perturbed copies of the starting structures."""

    n_structures: int = Field(
        24,
        ge=0,
        le=100_000,
        description="Structures kept after deduplication, over all starting structures; 4 or more, or 0 where `data`"
        " are enough to begin with.",
    )
    volume_range: tuple[float, float] = Field((-0.10, 0.10), description="Relative volume change of the volume scan.")
    max_strain: float = Field(0.04, ge=0, le=0.3, description="Largest component of the random symmetric strains.")
    rattle: tuple[Displacement, ...] = Field(
        (0.03, 0.08, 0.16), min_length=1, description="Standard deviations of the random displacements, Å."
    )
    vacancies: bool = Field(True, description="Include structures with one atom removed.")
    temperature: Temperature = Field(
        600.0, description="Highest temperature of the displacements within molecules, K: stiff bonds move little."
    )
    kinds: PrepareKinds = Field(default_factory=PrepareKinds, description="What there is of each kind.")
    phases: tuple[StartingStructure, ...] = Field(
        (), description="Other phases of the first structure's composition, brought to its volume per atom."
    )

    @field_validator("n_structures")
    @classmethod
    def _some_or_none(cls, value: int) -> int:
        if 0 < value < 4:
            raise ValueError("need at least 4, or 0 where `data` are enough to begin with")
        return value

    @field_validator("volume_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not -0.5 <= value[0] < value[1] <= 1.0:
            raise ValueError(f"need -0.5 <= low < high <= 1.0 (relative volume change), got {value}")
        return value

    @model_validator(mode="after")
    def _phases_named(self) -> Prepare:
        if bool(self.kinds.phase) != bool(self.phases):
            raise ValueError("`kinds.phase` and `phases` need each other: give phases and their weight, or neither")
        return self
