"""Experiments of a study: trainings and measurements beside its rounds, on request.

A study that has any has a package ``experiments`` whose ``EXPERIMENTS`` says of what parts each consists and what
they need. A part is a job of the workflow (rule ``run_experiment``), and so is the page of an experiment
(``report_experiment``). The Snakefile imports this module and those packages: no heavy imports.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlip.config.study import study_names
from mlip.config.train import Train
from mlip.jobs.progress import Progress, silent

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from mlip.report.drawing import Picture
    from mlip.studies.interface import Labelled

Need = Literal["dataset", "isolated_atoms", "potential", "reference", "labels"]
"""What a part may ask for: the loop's last data set, energies of isolated atoms, the deployed potential, the study's
reference, and the labeller."""


@dataclass(frozen=True)
class Part:
    """One job of an experiment.

    Attributes:
        name: letters, digits, ``-`` and ``_``; unlike those of the experiment's other parts.
        plan: plain values that shape the part; a change of them runs it again.
        needs: what it is given beside the starting structures and section ``train``.
    """

    name: str
    plan: Mapping[str, Any]
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """An experiment as a study declares it.

    Attributes:
        name: its folder under ``studies/<study>``; no ``_``.
        module: module with ``run(task: Task) -> dict`` and ``report(results: dict[part, dict]) -> Page``.
        parts: the parts, from the study's settings.
        one_page: whether the page, then called like the experiment, is of all parts; else every part has its own.
    """

    name: str
    module: str
    parts: Callable[[Any], Sequence[Part]]
    one_page: bool = False

    def pages(self, settings: Any) -> dict[str, list[str]]:
        """The parts that each page reports, by the page's name."""
        names = [part.name for part in self.parts(settings)]
        return {self.name: names} if self.one_page else {name: [name] for name in names}


@dataclass(frozen=True)
class Page:
    """What an experiment found: Markdown, and pictures beside it."""

    text: str
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Task:
    """What a part is to do, and with what. Inputs are read when they are asked for.

    Attributes:
        part: its name.
        plan: as in :class:`Part`.
        structures: starting structures.
        train: section ``train``; of the loop's last iteration for parts that need its data set.
        labeller: the labeller, for parts that need labels.
        seed: seed of the configuration; derive from it with ``mlip.seeds``.
        folder: for files that are worth keeping; it has ``result.json`` in the end.
        device: torch device.
        progress: called with the state now and then.
        files: the inputs, by what is needed.
    """

    part: str
    plan: Mapping[str, Any]
    structures: Sequence[Atoms]
    train: Train
    labeller: Labelled
    seed: int
    folder: Path
    device: str = "cpu"
    progress: Progress = silent
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    @cached_property
    def training(self) -> list[Atoms]:
        """The loop's training data."""
        return self._structures("dataset", 0)

    @cached_property
    def valid(self) -> list[Atoms]:
        """The loop's validation data."""
        return self._structures("dataset", 1)

    @cached_property
    def isolated_energies(self) -> dict[str, float] | None:
        """Energies of isolated atoms by element, eV; None where they are to be fitted."""
        from mlip.io.files import read_json

        return read_json(self._file("isolated_atoms")) or None

    @cached_property
    def reference(self) -> xr.Dataset:
        """What ``Study.refer`` returned."""
        from mlip.io.netcdf import read_netcdf

        return read_netcdf(self._file("reference"))

    @property
    def potential(self) -> Path | None:
        """Folder of the deployed potential; None where it is not needed."""
        return self._file("potential").parent if "potential" in self.files else None

    def _structures(self, need: Need, number: int) -> list[Atoms]:
        from mlip.io.extxyz import read_structures

        return read_structures(self._file(need, number))

    def _file(self, need: Need, number: int = 0) -> Path:
        if need not in self.files:
            raise ValueError(f"part {self.part} uses {need!r}: name it in the `needs` of its Part")
        return Path(self.files[need][number])


def experiments_of(study: str) -> dict[str, Experiment]:
    """The experiments that ``study`` declares, by name.

    Raises:
        ValueError: for a name that no study has.
    """
    if study not in study_names():
        raise ValueError(f"no study is called {study!r}; there are {', '.join(study_names())}")
    package = f"mlip.studies.{study}.experiments"
    if importlib.util.find_spec(package) is None:
        return {}
    return {experiment.name: experiment for experiment in importlib.import_module(package).EXPERIMENTS}


def run_experiment(experiment: Experiment, task: Task) -> None:
    """Run a part and write ``result.json`` into its folder."""
    from mlip.io.files import write_json

    result = importlib.import_module(experiment.module).run(task)
    write_json(task.folder / "result.json", result, checked=True)
