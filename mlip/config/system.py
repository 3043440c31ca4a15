"""The configuration of one system: typed, strict, and free of heavy imports.

These models are the single source of the defaults, of the JSON schema
(``workflow/schemas/config.schema.yaml``) and of ``config/README.md``; ``mlip config-docs``
rewrites both, and a test fails when they drift. Section ``label`` is in :mod:`mlip.config.label`,
``train`` and ``deploy`` in :mod:`mlip.config.train`, a study's section in the study. The Snakefile validates before it
includes any rule, so none of these modules imports torch or ASE.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from mlip.config.base import Section
from mlip.config.data import DataSource, check_is_list
from mlip.config.label import Label
from mlip.config.ladder import LADDER
from mlip.config.loop import AnySection, Assess, Budget, Collect, Explore, Select
from mlip.config.merging import merge_deeply
from mlip.config.structures import Prepare, StartingStructure, expand_structures
from mlip.config.study import study_names
from mlip.config.study_section import Studies
from mlip.config.train import Deploy, Train
from mlip.config.values import ConfigError, describe_problems, find_number_text, is_bounded, read_yaml


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
    structures: tuple[StartingStructure, ...] = Field(
        min_length=1, description="Starting structures, counted from 0; several of one file count one by one."
    )
    prepare: Prepare = Field(default_factory=Prepare, description="Structures of iteration 0.")
    data: tuple[DataSource, ...] = Field((), description="Labelled structures that exist already.")
    label: Label = Field(default_factory=Label, description="Labeller.")
    collect: Collect = Field(default_factory=Collect, description="Data set.")
    train: Train = Field(default_factory=Train, description="Committee.")
    explore: Explore = Field(default_factory=Explore, description="Exploration MD.")
    select: Select = Field(default_factory=Select, description="Batch selection.")
    assess: Assess = Field(default_factory=Assess, description="Convergence.")
    deploy: Deploy = Field(default_factory=Deploy, description="What the loop leaves.")
    budget: Budget = Field(default_factory=Budget, description="Limits.")
    studies: Studies = Field(default_factory=Studies, description="Studies of properties.")
    overrides: tuple[Override, ...] = Field((), description="Settings that change from a given iteration on.")

    @field_validator("structures")
    @classmethod
    def _one_by_one(cls, value: tuple[StartingStructure, ...], info: ValidationInfo) -> tuple[StartingStructure, ...]:
        return expand_structures(value, info.data.get("seed", 0))  # without one that is valid nothing is drawn

    @field_validator("data", mode="before")
    @classmethod
    def _data_is_a_list(cls, value: Any) -> Any:
        check_is_list(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.prepare.n_structures == 0 and not self.data:
            raise ValueError("prepare.n_structures is 0 without `data`: iteration 0 would have nothing to learn")
        if self.min_iterations > self.max_iterations:
            raise ValueError(
                f"min_iterations ({self.min_iterations}) exceeds max_iterations ({self.max_iterations});"
                f" set min_iterations: {self.max_iterations}, or raise max_iterations"
            )
        for number in self.assess.eos_structures:
            if number >= len(self.structures):
                raise ValueError(
                    f"assess.eos_structures: no starting structure {number}; there are {len(self.structures)},"
                    " counted from 0"
                )
        self._check_iteration(0)
        for override in self.overrides:
            for (section, key), why in FIXED.items():
                if key in getattr(override, section):
                    raise ValueError(f"overrides: {section}.{key} cannot change between iterations: {why}")
            self._check_iteration(override.from_iteration)
        for study in study_names():
            self._check_study(study)
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

        n_structures = len(self.structures)
        for number, group in enumerate(current.explore.walkers):
            absent = [index for index in group.structures or () if index >= n_structures]
            if absent:
                raise ValueError(
                    f"explore.walkers.{number}.structures at iteration {iteration}: there is no structure {absent[0]}; "
                    f"the {n_structures} of `structures` are counted from 0"
                )
        _check_bias(current, iteration)

    def _check_study(self, name: str) -> None:
        changes = getattr(self.studies, name).train
        if "backend" in changes:
            raise ValueError(f"studies.{name}.train.backend cannot change: the steps of one run share an environment")
        number_text = find_number_text(changes)
        if number_text:
            raise ValueError(f"studies.{name}.train: {number_text} is text to YAML; write a number, e.g. 1.0e-6")
        try:
            self.train_of_study(name, 0)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise ValueError(f"studies.{name}.train.{key}: {problem['msg']}; config/README.md lists the keys") from None

    def train_of_study(self, name: str, iteration: int) -> Train:
        """Section ``train`` at ``iteration`` with the changes that the study ``name`` makes to it.

        Raises:
            pydantic.ValidationError: for keys or values that ``train`` does not have.
        """
        changes = getattr(self.studies, name).train
        current = self.at_iteration(iteration).train
        return Train.model_validate(merge_deeply(current.model_dump(), changes)) if changes else current

    @property
    def n_walkers(self) -> int:
        """Walkers of an iteration: structures × groups × temperatures × volumes × pressures."""
        return sum(group.count_walkers(len(self.structures), self.explore.ladder) for group in self.explore.walkers)

    def n_shards_at(self, iteration: int) -> int:
        """Label jobs of an iteration: one, which has nothing to do, where existing data are all that it begins with."""
        nothing = iteration == 0 and self.prepare.n_structures == 0
        return 1 if nothing else self.at_iteration(iteration).label.n_shards

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


def _check_bias(current: Config, iteration: int) -> None:
    """Refuse biased walkers that have no members to disagree, or no plain ones beside them to draw audits from."""
    groups, everything = current.explore.walkers, range(len(current.structures))
    for number, group in enumerate(groups):
        if not group.uncertainty_bias:
            continue
        where = f"explore.walkers.{number}.uncertainty_bias is {group.uncertainty_bias:g} at iteration {iteration}, but"
        if current.train.uncertainty != "committee":
            raise ValueError(
                f"{where} train.uncertainty: {current.train.uncertainty} has no members that could disagree; set "
                "train.uncertainty: committee, or uncertainty_bias: 0"
            )
        # One that climbs goes where plain ones on the ladder have led.
        plain = [
            g for g in groups if not g.uncertainty_bias and (g.temperatures == LADDER or group.temperatures != LADDER)
        ]
        explored = {index for g in plain for index in (everything if g.structures is None else g.structures)}
        alone = [index for index in group.structures or everything if index not in explored]
        if alone:
            climbing = " with `temperatures: ladder`" if group.temperatures == LADDER else ""
            raise ValueError(
                f"{where} no other group{climbing} explores structure {alone[0]}, and frames of biased walkers are no "
                "audits; add a group without uncertainty_bias"
            )


OVERRIDABLE = ("label", "train", "explore", "select", "assess")
FIXED = {
    ("label", "calculator"): "labels of two settings do not mix",
    ("label", "parameters"): "labels of two settings do not mix",
    ("label", "isolated_atoms"): "every potential shares them",
    ("label", "isolated_atom_parameters"): "every potential shares them",
    ("label", "stress_agreement"): "the reference is labelled once",
    ("assess", "eos_volumes"): "the reference is labelled once",
    ("assess", "eos_structures"): "the reference is labelled once",
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
    texts: dict[str, str] = {}
    for name, field in section.model_fields.items():
        texts[f"{path}{name}"] = field.description or ""
        for child in _sections_in(field.annotation):
            texts |= _descriptions(child, f"{path}{name}.")
    return texts


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
