"""The configuration of one system: typed, strict, and free of heavy imports.

These models are the single source of the defaults, of the JSON schema
(``workflow/schemas/config.schema.yaml``) and of ``config/README.md``; ``mlip config-docs``
rewrites both, and a test fails when they drift. Section ``label`` is in :mod:`mlip.config_labels`,
``train`` in :mod:`mlip.config_training`, a study's section in the study. The Snakefile validates before it
includes any rule, so none of these modules imports torch or ASE.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from mlip.config_labels import Guards, Label  # noqa: F401 - every section is had from here
from mlip.config_section import Fraction, Positive, Section
from mlip.config_training import Mace, Train  # noqa: F401 - every section is had from here
from mlip.studies import study_names
from mlip.studies.sections import Studies
from mlip.values import ConfigError, describe_problems, is_bounded, merge_deeply, read_yaml

RelativeVolume = Annotated[float, Field(gt=-0.7, le=3)]
Triple = tuple[int, int, int]
# Bounds that no sensible value exceeds: a value beyond them is in another unit.
Temperature = Annotated[float, Field(ge=1, le=50_000)]  # K; not eV
Pressure = Annotated[float, Field(ge=-1000, le=10_000)]  # GPa; not bar or Pa
Displacement = Annotated[float, Field(gt=0, le=2)]  # Å; not pm
AnySection = TypeVar("AnySection", bound=Section)


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


class Override(Section):
    """Settings that change from one iteration on."""

    from_iteration: int = Field(ge=0, description="First iteration that the settings apply to.")
    label: dict[str, Any] = Field(
        default_factory=dict, description="Keys of `label`; settings that alter label values are refused."
    )
    train: dict[str, Any] = Field(default_factory=dict, description="Keys of `train`.")
    explore: dict[str, Any] = Field(default_factory=dict, description="Keys of `explore`.")
    select: dict[str, Any] = Field(default_factory=dict, description="Keys of `select`.")
    assess: dict[str, Any] = Field(default_factory=dict, description="Keys of `assess`.")


class Config(Section):
    """One system and everything the loop needs to know about it."""

    system: str = Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="Name of the system; results go to `results/<system>/`.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed from which every random choice is derived.")
    max_iterations: int = Field(5, ge=1, le=999, description="Iterations planned at most, the first included.")
    min_iterations: int = Field(2, ge=1, description="Iterations run at least before the loop may converge.")
    structures: tuple[StartingStructure, ...] = Field(min_length=1, description="Starting structures.")
    prepare: Prepare = Field(default_factory=Prepare, description="Structures of iteration 0.")
    label: Label = Field(default_factory=Label, description="Labeller.")
    collect: Collect = Field(default_factory=Collect, description="Data set.")
    train: Train = Field(default_factory=Train, description="Committee.")
    explore: Explore = Field(default_factory=Explore, description="Exploration MD.")
    select: Select = Field(default_factory=Select, description="Batch selection.")
    assess: Assess = Field(default_factory=Assess, description="Convergence.")
    budget: Budget = Field(default_factory=Budget, description="Limits.")
    studies: Studies = Field(default_factory=Studies, description="Studies of properties.")
    overrides: tuple[Override, ...] = Field((), description="Settings that change from a given iteration on.")

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.min_iterations > self.max_iterations:
            raise ValueError(f"min_iterations ({self.min_iterations}) exceeds max_iterations ({self.max_iterations})")
        self._check_iteration(0)
        for override in self.overrides:
            for (section, key), why in FIXED.items():
                if key in getattr(override, section):
                    raise ValueError(f"overrides: {section}.{key} cannot change between iterations: {why}")
            self._check_iteration(override.from_iteration)
        return self

    def _check_iteration(self, iteration: int) -> None:
        try:
            current = self.at_iteration(iteration)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise ValueError(f"overrides at iteration {iteration}: {error.title}.{key}: {problem['msg']}") from None
        if current.assess.audit_force_rmse is not None and current.select.n_audit < 2:
            raise ValueError(
                f"select.n_audit is {current.select.n_audit} at iteration {iteration}, but assess.audit_force_rmse "
                "needs at least 2 audit frames for an interval (4 or more are wise); or set it to null"
            )

    @property
    def n_walkers(self) -> int:
        """Walkers of an iteration: structures × groups × temperatures × volumes."""
        return len(self.structures) * sum(len(g.temperatures) * len(g.volumes) for g in self.explore.walkers)

    def at_iteration(self, iteration: int) -> Config:
        """The configuration with every override up to ``iteration`` applied."""
        applied = [o for o in sorted(self.overrides, key=lambda o: o.from_iteration) if o.from_iteration <= iteration]
        if not applied:
            return self
        sections = {}
        for name in OVERRIDABLE:
            section = getattr(self, name)
            values = section.model_dump()
            for override in applied:
                values = merge_deeply(values, getattr(override, name))
            sections[name] = type(section).model_validate(values)
        return self.model_copy(update=sections)


OVERRIDABLE = ("label", "train", "explore", "select", "assess")
FIXED = {
    ("label", "calculator"): "labels of two settings do not mix",
    ("label", "parameters"): "labels of two settings do not mix",
    ("label", "isolated_atoms"): "every potential shares them",
    ("label", "isolated_atom_parameters"): "every potential shares them",
    ("assess", "eos_volumes"): "the reference is labelled once",
    ("assess", "studies"): "convergence means the same all along",
    ("train", "backend"): "the steps of one run share an environment",
}


def parse_config(values: dict[str, Any], source: str = "config") -> Config:
    """Validate ``values``; ``source`` names their file in the message.

    Raises:
        ConfigError: listing every offending key with its value and the remedy.
    """
    return validate_section(Config, values, source)


def validate_section(section: type[AnySection], values: Any, source: str) -> AnySection:
    """The section that ``values`` describe, e.g. ``Train`` alone; ``source`` names their file in the message.

    Raises:
        ConfigError: listing every offending key with its value and the remedy.
    """
    if not is_bounded(values):
        raise ConfigError(f"{source}: too many, too deeply nested or endless values; a configuration is a short text")
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_problems(error, source, _descriptions(section), _keys())) from None


def load_config(path: str | Path) -> Config:
    """Read and validate a YAML configuration.

    Raises:
        ConfigError: when the file is missing, is not YAML or does not validate.
    """
    return parse_config(read_yaml(path), str(path))


def _keys() -> set[str]:
    """Every key of every section, for suggestions."""
    waiting, keys = [Section], set()
    while waiting:
        section = waiting.pop()
        keys |= set(section.model_fields)
        waiting += section.__subclasses__()
    return keys


def _descriptions(section: type[Section], path: str = "") -> dict[str, str]:
    """What each key of ``section`` means, by its dotted path without list positions."""
    found: dict[str, str] = {}
    for name, field in section.model_fields.items():
        found[f"{path}{name}"] = field.description or ""
        for child in _sections_in(field.annotation):
            found |= _descriptions(child, f"{path}{name}.")
    return found


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
