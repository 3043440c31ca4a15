"""Sections of the loop's steps: ``collect``, ``explore``, ``select``, ``assess`` and ``budget``."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from mlip.config.base import Fraction, Positive, Section
from mlip.config.ladder import LADDER, Ladder
from mlip.config.structures import Pressure, RelativeVolume, Temperature, Triple
from mlip.config.study import study_names

MOST_EXPLORED_ATOMS = 20_000
"""Atoms of a walker, half an hour for 1000 steps of silicon on a core, beyond which a supercell is likely a mistake."""

AnySection = TypeVar("AnySection", bound=Section)


class Collect(Section):
    """What is held out of training: audits always, of structures that nobody chose a share by their hash."""

    valid_fraction: float = Field(
        0.15,
        gt=0,
        lt=0.5,
        description="Share of prepared structures and existing data for early stopping and calibration. What "
        "selection chose to teach always trains.",
    )
    test_fraction: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of prepared structures and existing data never seen in training. The loop's audits, which "
        "never train either, are tested on in any case.",
    )


class Stage(Section):
    """A point of a schedule; between two points temperature and pressure change linearly."""

    time: float = Field(ge=0, description="Time since the walker began, fs; the first point's is 0.")
    temperature: Temperature | None = Field(None, description="Temperature at that time, K.")
    pressure: Pressure | None = Field(None, description="Pressure at that time, GPa; NPT only.")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            raise ValueError(f"a point needs names: {{time: 0, temperature: 300}}, in fs and K, not {list(value)}")
        return value


class Walker(Section):
    """A group of MD walkers: one per structure, temperature, volume change and pressure."""

    ensemble: Literal["nvt", "npt", "npt-flexible"] = Field(
        "nvt",
        description="Langevin NVT, NPT with a breathing volume, or NPT with a fully flexible cell (solids only). "
        "Cells breathe in the plane of a slab and along a wire; fixed atoms keep their fractional coordinates.",
    )
    structures: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="Starting structures of these walkers by number, from 0; all if absent."
    )
    repeat: Triple = Field(
        (1, 1, 1),
        description="Supercell of the starting structure that is explored; frames larger than `select.max_atoms` are "
        "cut down to it for the label, or left.",
    )
    max_atoms: int = Field(
        MOST_EXPLORED_ATOMS,
        ge=1,
        description="Atoms of the supercell beyond which it is taken for a mistake; raise it for more.",
    )
    n_steps: int | None = Field(None, ge=1, description="MD steps of these walkers; `explore.n_steps` if absent.")
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] | Literal["ladder"] = Field(
        (300.0, 600.0), description="Temperatures, K, or `ladder` for those that `explore.ladder` climbs."
    )
    volumes: tuple[RelativeVolume, ...] = Field(
        (0.0,),
        min_length=1,
        description="Relative volume changes of the ideal starting structure; of slabs and wires the same strain in "
        "the directions of matter.",
    )
    pressure: Pressure = Field(0.0, description="Pressure of NPT walkers, GPa; several in `pressures`.")
    pressures: tuple[Pressure, ...] | None = Field(
        None, min_length=1, description="Pressures of NPT walkers, GPa, instead of `pressure`: one walker for each."
    )
    uncertainty_bias: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="How much walkers are drawn to where the members of the committee disagree: frames are visited "
        "σ^uncertainty_bias times as often, with σ the spread of the members' energies, counted from where the walker "
        "began; 20 is a start, 0 is plain dynamics. Their frames teach and are never audits, so other walkers of the "
        "same structures are needed beside them. NVT and `train.uncertainty: committee` only (docs/selection.md).",
    )
    schedule: tuple[Stage, ...] = Field(
        (),
        description="Temperature, pressure or both over time, in place of `temperatures` and `pressures`: a ramp, or "
        "melt and quench. The last values hold to the end.",
    )
    start: Literal["mixed", "ideal", "last", "uncertain"] = Field(
        "mixed",
        description="Where walkers begin: in the ideal structure, in the last sane frames of the previous iteration's "
        "walkers of the same structure and `repeat`, or in frames chosen there for their uncertainty; `mixed` is "
        "`last`, and `ideal` once in `explore.fresh_every` iterations and with a schedule. In the first iteration, and "
        "where there is none that the potential can be trusted with, in the ideal structure.",
    )

    @model_validator(mode="before")
    @classmethod
    def _begin_as_scheduled(cls, values: Any) -> Any:
        """The first point of a schedule is where the walkers begin."""
        stages = values.get("schedule") if isinstance(values, dict) else None
        first = stages[0] if isinstance(stages, list | tuple) and stages else None
        if not isinstance(first, dict):
            return values
        begin: dict[str, Any] = {}
        if first.get("temperature") is not None:
            begin["temperatures"] = [first["temperature"]]
        if first.get("pressure") is not None and "pressures" not in values:
            begin["pressure"] = first["pressure"]
        return begin | values

    @field_validator("structures")
    @classmethod
    def _different(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError(f"names a structure twice: {list(value)}; name each once")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Walker:
        if min(self.repeat) < 1:
            raise ValueError(f"repeat must be at least 1 along each vector, got {list(self.repeat)}")
        if self.pressures is not None and self.pressure != 0:
            raise ValueError(f"give pressure ({self.pressure:g}) or pressures ({list(self.pressures)}), not both")
        if self.ensemble == "nvt" and (len(pressures_of(self)) > 1 or any(pressures_of(self))):
            raise ValueError(f"pressures {list(pressures_of(self))} do nothing in nvt; set ensemble: npt")
        if self.uncertainty_bias and self.ensemble != "nvt":
            raise ValueError(
                f"uncertainty_bias {self.uncertainty_bias:g} has no stress that the cell of {self.ensemble} could feel;"
                " set ensemble: nvt, with `volumes`, or uncertainty_bias: 0"
            )
        _check_schedule(self)
        return self

    def count_walkers(self, n_structures: int, ladder: Ladder) -> int:
        """Walkers of the group where there are ``n_structures`` starting structures."""
        explored = n_structures if self.structures is None else len(self.structures)
        n_temperatures = ladder.n_walkers if self.temperatures == LADDER else len(self.temperatures)
        return explored * n_temperatures * len(self.volumes) * len(pressures_of(self))


def pressures_of(walker: Walker) -> tuple[float, ...]:
    """Pressures of a group's walkers, GPa."""
    return (walker.pressure,) if walker.pressures is None else walker.pressures


def _check_schedule(walker: Walker) -> None:
    """Refuse a schedule that does not say what holds when."""
    stages = walker.schedule
    if not stages:
        return
    times = [stage.time for stage in stages]
    if len(stages) < 2 or times[0] != 0 or any(after <= before for before, after in pairwise(times)):
        raise ValueError(f"schedule needs two points or more whose times (fs) rise from 0, got {times}")
    if walker.temperatures == LADDER and stages[0].temperature is not None:
        raise ValueError("schedule sets the temperature, and so does `temperatures: ladder`; remove one")
    for name, begin in (("temperature", walker.temperatures), ("pressure", pressures_of(walker))):
        values = [getattr(stage, name) for stage in stages]
        given = [value is not None for value in values]
        if any(given) and not all(given):
            missing = times[given.index(False)]
            raise ValueError(f"schedule has no {name} at {missing:g} fs; give it at every point or at none")
        if all(given) and begin != (values[0],):
            raise ValueError(f"schedule sets the {name}, {name}s {list(begin)} do too; remove `{name}s`")
    if stages[0].temperature is None and stages[0].pressure is None:
        raise ValueError("schedule has neither temperatures nor pressures; give one, e.g. {time: 0, temperature: 300}")
    if stages[0].pressure is not None and walker.ensemble == "nvt":
        raise ValueError("schedule sets a pressure, which does nothing in nvt; set ensemble: npt, or remove it")


class Explore(Section):
    """Exploration MD driven by the committee."""

    walkers: tuple[Walker, ...] = Field(
        (Walker(ensemble="nvt", temperatures="ladder"), Walker(ensemble="npt", temperatures="ladder")),
        min_length=1,
        description="Walker groups.",
    )
    ladder: Ladder = Field(default_factory=Ladder, description="What walkers of `temperatures: ladder` climb.")
    fresh_every: int = Field(
        4, ge=1, description="Walkers of `start: mixed` begin in the ideal structure once in so many iterations."
    )
    timestep: float = Field(1.0, ge=0.02, le=10, description="MD time step, fs.")
    n_steps: int = Field(
        1000, ge=1, description="MD steps of a walker; a group of walkers may have `n_steps` of its own."
    )
    sample_every: int = Field(20, ge=1, description="Steps between kept frames.")
    friction: Positive = Field(0.01, le=1, description="Langevin friction, 1/fs.")
    max_relative_error: Positive | None = Field(
        1.0,
        description="Expected error of a frame's forces over the RMS force of its structure's labels at which a walker "
        "stops: at 1, predictions are worth nothing. Null for no such limit.",
    )
    max_uncertainty: Positive | None = Field(
        None,
        description="Largest calibrated force uncertainty over atoms at which a walker stops, eV/Å, which grows with "
        "the cell; null for no such limit.",
    )

    @model_validator(mode="after")
    def _schedules_end_in_time(self) -> Explore:
        for number, walker in enumerate(self.walkers):
            length = (walker.n_steps or self.n_steps) * self.timestep
            end = walker.schedule[-1].time if walker.schedule else 0.0
            if end > length * (1 + 1e-9):
                raise ValueError(
                    f"walkers.{number}.schedule ends at {end:g} fs, but walkers run n_steps x timestep = {length:g} fs;"
                    f" raise n_steps to {math.ceil(end / self.timestep)}, or shorten it"
                )
        return self


SelectionMethod = Literal["log-determinant", "clusters", "farthest", "random", "trust-levels"]
"""Rules of :data:`mlip.active.acquisition.METHODS` that look at environments, or at none."""


class Carve(Section):
    """Labels of smaller cells carved out of large frames."""

    core: Positive = Field(
        3.0,
        description="Atoms within this distance of the most unknown one, Å, keep all their neighbours within the "
        "potential's cutoff as they are in the frame.",
    )
    max_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Largest share of a frame's atoms that its carved cell may have; frames that leave more are "
        "labelled whole.",
    )


class Select(Section):
    """What goes to DFT next."""

    n_structures: int = Field(12, ge=1, description="Structures chosen per iteration, audit frames included.")
    n_audit: int = Field(
        4,
        ge=0,
        description="Of these, frames drawn at random, with known chances, to judge potentials by: they never train. A "
        "certificate takes 16 of each starting structure.",
    )
    method: SelectionMethod = Field(
        "log-determinant",
        description="How a batch is chosen: by what its environments add to the last layer's knowledge over "
        "the label's cost (`log-determinant`); of each worst represented cluster the farthest "
        "member (`clusters`); the `farthest` environments; or, to compare with, at `random`, or by DP-GEN's "
        "`trust-levels`.",
    )
    min_uncertainty: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Frames below this force uncertainty are left, eV/Å; null for no such limit."
    )
    max_uncertainty: Positive | None = Field(
        None, description="Frames above this force uncertainty are left, eV/Å; null for no such limit."
    )
    max_energy: Positive = Field(
        2.0,
        description="Frames further above, or below, the lowest energy that the training set has of the same starting "
        "structure and composition are left, eV/atom.",
    )
    max_atoms: int | None = Field(
        None,
        ge=1,
        description="Most atoms of a label; null for as many as the starting structure has. Of larger frames, which "
        "come of a walker's `repeat`, whole cells around the most uncertain atom are cut out; what cannot be cut is "
        "left.",
    )
    carve: Carve | None = Field(
        None,
        description="Carve smaller cells out of frames that would be labelled whole (`{}` for the defaults); null to "
        "label whole frames. Audits always are.",
    )
    min_novelty: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Frames whose every environment is nearer than this to a known one are left, in spreads of the "
        "known ones; null for no limit but that for duplicates.",
    )

    @model_validator(mode="after")
    def _audit_fits(self) -> Select:
        if self.n_audit > self.n_structures:
            raise ValueError(f"n_audit ({self.n_audit}) cannot exceed n_structures ({self.n_structures})")
        low, high = self.min_uncertainty, self.max_uncertainty
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"min_uncertainty ({self.min_uncertainty}) must be below max_uncertainty ({self.max_uncertainty})"
            )
        return self


class Assess(Section):
    """When the loop has converged. Every criterion must pass."""

    relative_force_rmse: Positive = Field(
        0.15,
        description="Force RMSE of the old potential on the newly labelled structures over their RMS force: 1 is what "
        "predicting no forces would reach.",
    )
    force_rmse: Positive | None = Field(None, description="The same error in eV/Å, as a further criterion.")
    audit_force_rmse: Positive | Literal["relative"] | None = Field(
        "relative",
        description="Upper bound of the force RMSE on the frames that walkers make, certified by all audits so far "
        "(docs/selection.md), eV/Å; `relative` is `relative_force_rmse` of the RMS force of each starting structure; "
        "null for no such criterion, e.g. in loops with fewer than 16 audits.",
    )
    max_unseen: Fraction | None = Field(
        None,
        description="Largest share of a structure's frames that might be of a kind no audit met (95 %: 0.34 after 16 "
        "audits, 0.18 after 32, 0.07 after 80); null for no such criterion.",
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="Confidence that the audits' bounds hold in all iterations together."
    )
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
        description="Relative volumes for the equation of state; `[]` for slabs and molecules.",
    )
    eos_structures: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,),
        min_length=1,
        description="Numbers of the starting structures, from 0, whose equations of state are labelled; the worst "
        "counts. Each costs as many labels as there are `eos_volumes`.",
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

    @field_validator("eos_structures")
    @classmethod
    def _once_each(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"need different structures, got {', '.join(map(str, value))}")
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
