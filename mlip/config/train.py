"""Sections ``train`` and ``deploy`` of the configuration; :mod:`mlip.config.system` holds the others."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mlip.config.base import Positive, Section


class Mace(Section):
    """Architecture and options of `backend: mace`; cutoff, steps, batches and loss weights stay in `train`."""

    hidden_irreps: str = Field(
        "32x0e", description="Irreps of the hidden features, scalars first, e.g. `64x0e` or `32x0e + 32x1o`."
    )
    max_ell: int = Field(3, ge=0, le=6, description="Largest angular momentum of the edges' spherical harmonics.")
    correlation: int = Field(3, ge=1, le=4, description="Neighbours in a product: body order less one.")
    num_interactions: int = Field(2, ge=1, le=6, description="Message-passing layers.")
    num_radial_basis: int = Field(8, ge=1, le=32, description="Bessel functions.")
    learning_rate: Positive | None = Field(
        None, description="Peak learning rate, for `train.learning_rate`; 0.01, or 0.0005 for fine-tuning, if absent."
    )
    foundation_model: str | None = Field(
        None,
        description="MACE file to fine-tune, which sets architecture and cutoff; relative to the working directory.",
    )
    foundation_head: str | None = Field(None, description="Head of a foundation model that has several.")
    dtype: Literal["float32", "float64"] = Field(
        "float64", description="Precision of MD and predictions; training is in float32."
    )
    cueq: bool = Field(True, description="Use cuEquivariance where it is installed and the device is a GPU.")

    @field_validator("hidden_irreps")
    @classmethod
    def _scalars_first(cls, value: str) -> str:
        terms = [re.fullmatch(r"([1-9]\d*)x(\d)([eo])", term.strip()) for term in value.split("+")]
        parts = [match.groups() for match in terms if match is not None]
        channels = {count for count, _, _ in parts}
        if len(parts) != len(terms) or parts[0][1:] != ("0", "e") or len(channels) != 1:
            raise ValueError(
                f"{value!r} is no list of irreps such as `32x0e + 32x1o`: 0e first, as many channels of each"
            )
        return " + ".join(f"{count}x{degree}{parity}" for count, degree, parity in parts)


class Train(Section):
    """The committee: model size, loss and schedule."""

    backend: Literal["ace", "mace"] = Field(
        "ace", description="The project's own potential, or MACE, which has an environment of its own (docs/mace.md)."
    )
    cutoff: Annotated[float, Field(ge=1.5, le=12)] | Literal["auto"] = Field(
        "auto",
        description="Radius of an atom's environment, Å; `auto` is 2.1 nearest-neighbour distances, from 5 to 7 Å.",
    )
    n_radial: int = Field(8, ge=2, le=64, description="Radial basis functions.")
    l_max: int = Field(3, ge=0, le=8, description="Largest angular momentum of the density expansion.")
    n_channels: int = Field(32, ge=1, le=512, description="Channels in which products of the density are formed.")
    body_order: int = Field(4, ge=2, le=5, description="Largest body order of the invariants.")
    hidden: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (32, 32), description="Widths of the readout's hidden layers."
    )
    committee_size: int = Field(
        4, ge=1, le=64, description="Members of the committee; 1 only with `uncertainty: last_layer`."
    )
    short_range: Literal["zbl", "fitted"] = Field(
        "fitted",
        description="Backend ace nearer than the data: a repulsion of each pair fitted to the labels' forces, with an "
        "uncertainty that grows with the depth (docs/potential.md), or ZBL, whose uncertainty does not.",
    )
    uncertainty: Literal["committee", "last_layer"] = Field(
        "committee",
        description="What makes the raw uncertainty: the members' spread, or the last layer's posterior of one model.",
    )
    consistency: Literal["error", "warn", "off"] = Field(
        "error", description="What inconsistent labels (units, signs, mixed settings) do; `off` skips the check."
    )
    restart: Literal["previous", "scratch"] = Field(
        "previous", description="Start an iteration's training from the previous iteration's weights, or anew."
    )
    initial: str | None = Field(
        None,
        description="Folder of a potential that iteration 0 starts from, of the same elements and architecture, e.g."
        " `results/other/potential`; for `backend: mace` there is `mace.foundation_model`.",
    )
    restart_fraction: float = Field(
        0.3, gt=0, le=1, description="Share of the schedule, its end, that a training from previous weights runs."
    )
    n_layers: int = Field(
        1, ge=1, le=4, description="Message-passing layers: 2 see the neighbours' neighbours, at 2.5 times the cost."
    )
    n_steps: int = Field(1500, ge=1, description="Optimiser steps; the learning rate anneals over them.")
    early_stopping: bool = Field(
        True, description="Anneal at once where forces on validation data have been no better for long."
    )
    batch_size: int = Field(4, ge=1, description="Structures per step.")
    learning_rate: Positive = Field(0.004, description="Peak learning rate.")
    energy_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Weight of the energy error per atom.")
    force_weight: Positive = Field(1.0, description="Weight of the force error.")
    stress_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="Weight of the virial error per atom.")
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints.")
    mace: Mace = Field(default_factory=Mace, description="Options of `backend: mace`.")

    @property
    def radius(self) -> float:
        """``cutoff`` as a number, Å; :func:`mlip.training.data.resolve_cutoff` makes it one."""
        if self.cutoff == "auto":
            raise ValueError("train.cutoff is auto and has not been resolved for a data set")
        return self.cutoff

    @model_validator(mode="after")
    def _mace_has_a_committee(self) -> Train:
        if self.backend == "mace" and (self.committee_size < 2 or self.uncertainty != "committee"):
            raise ValueError("backend mace needs a committee of 2 or more members and `uncertainty: committee`")
        if self.backend == "mace" and self.initial is not None:
            raise ValueError(f"backend mace starts from mace.foundation_model; initial ({self.initial}) is for ace")
        return self

    @model_validator(mode="after")
    def _some_uncertainty(self) -> Train:
        if self.committee_size < 2 and self.uncertainty == "committee":
            raise ValueError(
                "committee_size 1 has no spread to tell uncertainty from; use 2 or more, or `uncertainty: last_layer`"
            )
        return self


class Deploy(Section):
    """The potential that the loop leaves."""

    retrain: Literal["none", "all"] = Field(
        "none",
        description="`all` trains the last committee once more on every label, audits included, before it is deployed. "
        "Certificate, errors and calibration are then those of the potential before, as the report and the files say.",
    )
