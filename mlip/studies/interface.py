"""What the rest of the package knows of a study."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import xarray as xr
from ase import Atoms

from mlip.config.label import Label
from mlip.config.study import StudySettings
from mlip.criteria import Criterion
from mlip.jobs.progress import Progress, silent
from mlip.potential import Potential

if TYPE_CHECKING:
    from mlip.report.drawing import Picture  # references are made where there is no matplotlib


@dataclass(frozen=True)
class Reference:
    """What a measurement is held against.

    Attributes:
        data: values, with units in the variables' attributes; empty where there are none.
        structures: those that the reference has looked at with the labeller and whose labels the study's first
            training is to have, too; they come from the label store. Labelled where a measurement gets them, with
            their constraints and ``info``.
    """

    data: xr.Dataset = field(default_factory=xr.Dataset)
    structures: Sequence[Atoms] = ()


@dataclass(frozen=True)
class Subject:
    """What a study measures, and on what.

    Attributes:
        calculator: any ASE calculator; of the mean where it is a potential's.
        potential: the potential behind it, whose committee gives model errors; None for other calculators.
        structures: starting structures of the configuration.
        references: equation of state of the first one, labelled in the workflow; may be empty.
        seed: seed of the configuration; derive from it with ``mlip.seeds``.
        progress: called with the state now and then.
        training: labelled structures that the potential was trained on; empty where they are not at hand.
        reference: the study's, where its settings say ``measures_from_reference`` and it is at hand; else empty.
    """

    calculator: Any
    potential: Potential | None
    structures: Sequence[Atoms]
    references: Sequence[Atoms] = ()
    seed: int = 0
    progress: Progress = silent
    training: Sequence[Atoms] = ()
    reference: Reference = field(default_factory=Reference)


@dataclass(frozen=True)
class Labelled:
    """The labeller, for a study's reference.

    Attributes:
        settings: section ``label``.
        store: folder of the label store.
    """

    settings: Label
    store: Path
    progress: Progress = silent

    @contextmanager
    def stored(self, max_labels: int | None = None) -> Iterator[Any]:
        """An ASE calculator whose every result is a label of the store: for DFT, where a label is dear."""
        from mlip.labels.calculator import StoredCalculator

        with StoredCalculator(self.settings, self.store, max_labels=max_labels, progress=self.progress) as calculator:
            yield calculator

    def direct(self) -> Any:
        """The calculator itself, in this process and without the store: for MD, where a label is cheap."""
        from mlip.labels.importing import import_calculator

        return import_calculator(self.settings.calculator)(**self.settings.parameters)


@dataclass(frozen=True)
class Measurement:
    """A measured property: ``data`` has units in the variables' attributes and keeps statistical and model
    errors apart; ``frames`` are structures that the measurement visited, from which the acquisition may pick.
    """

    data: xr.Dataset
    frames: Sequence[Atoms] = ()


@dataclass(frozen=True)
class Acquisition:
    """Structures to label, each with ``structure_id``, ``origin`` (the study's name) and ``reason`` in ``info``,
    and a row per structure or condition considered: what decided and why.
    """

    candidates: Sequence[Atoms]
    decisions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Quantity:
    """One row of a study's table; errors are standard deviations, None where there is none.

    Those of the value are kept apart; the reference's is its statistical one.
    """

    name: str
    value: float | None
    unit: str
    statistical_error: float | None = None
    model_error: float | None = None
    reference: float | None = None
    reference_error: float | None = None


@dataclass(frozen=True)
class Round:
    """A finished round: measurement, decisions of the acquisition after it, labels made before it."""

    number: int
    data: xr.Dataset
    criteria: Sequence[Criterion]
    n_labels: int = 0
    decisions: Sequence[Mapping[str, str]] = field(default_factory=tuple)


class Study(ABC):
    """A study with its settings. Everything is done through these methods, and files between them."""

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, settings: StudySettings) -> None:
        self.settings: Any = settings

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Measure the property with error bars, of a potential or of any ASE calculator."""

    def refer(
        self, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
    ) -> xr.Dataset | Reference:
        """Reference values, by the labeller or from elsewhere; an empty data set where there are none.

        With a :class:`Reference` in place of its data alone, structures join the training data at round 1.
        ``structures``, ``references`` and ``seed`` as in :class:`Subject`.
        """
        return xr.Dataset()

    @abstractmethod
    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        """What must hold for the property to be right.

        ``data.attrs`` has ``test_force_rmse`` and ``test_force_rms`` (eV/Å), the potential's error on labels it was
        not trained on and the labels' own RMS force, where such labels exist.
        """

    @abstractmethod
    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: Potential, seed: int) -> Acquisition:
        """At most ``settings.n_labels`` structures whose labels would improve the property."""

    @abstractmethod
    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        """The rows of the table."""

    @abstractmethod
    def draw(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
        """The pictures of the page; the last round is the newest."""

    def remarks(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[str]:
        """Sentences for the page: verdicts, warnings, diagnoses."""
        return []
