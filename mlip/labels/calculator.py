"""An ASE calculator that labels: every structure goes through the label store and the child process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.label import Label
from mlip.jobs.progress import Progress
from mlip.labels.labeller import Labeller, Outcome
from mlip.structures.labelled import labelled_energy, labelled_forces, labelled_stress

LabelFunction = Callable[[Atoms], Atoms]
"""Gives a labelled copy of a structure."""


class FailedLabelError(ValueError):
    """A structure that has no label although one is needed; the message says why and what to do."""


class StoredCalculator(Calculator):
    """The labeller as an ASE calculator: nothing that is in the store is computed again.

    Energy (eV, force-consistent), forces (eV/Å) and, where the labeller has it, stress
    (eV/Å³) are exactly the labels of the loop. Use as a context manager: it owns the
    labeller's child process.

    Args:
        settings: the ``label`` section.
        store: folder of the label store.
        scratch: folder for files of running calculations; a temporary one if None.
        max_labels: how many labels may be asked for, cached ones included; no limit if None. It
            ends relaxations that the noise of the forces keeps from converging.
        progress: called after each label with ``done``, ``structure_id``, ``cached``, ``core_seconds``.

    Attributes:
        n_requests: labels asked for so far.
        costs: CPU seconds of every different label among them, by key, whenever it was computed.
        n_computed: labels that were not in the store.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(
        self,
        settings: Label,
        store: Path,
        *,
        scratch: Path | None = None,
        max_labels: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self.max_labels = max_labels
        self.n_requests = self.n_computed = 0
        self.costs: dict[str, float] = {}
        self._progress = progress
        self._labeller = Labeller(settings, store, scratch)

    def __enter__(self) -> StoredCalculator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._labeller.__exit__(kind, error, trace)

    @property
    def settings_id(self) -> str:
        """Short hash of calculator, parameters and versions, as labelled structures carry it."""
        return self._labeller.settings_id

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Label ``atoms``.

        Raises:
            FailedLabelError: when the label failed or ``max_labels`` is used up.
            LabelError: when the settings are at fault.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        identity = str(self.atoms.info.get("structure_id", self.atoms.get_chemical_formula()))
        if self.max_labels is not None and self.n_requests >= self.max_labels:
            raise FailedLabelError(
                f"{identity}: more than {self.max_labels} labels would be needed; if this is a relaxation, its force"
                " limit may lie below the noise of the labeller's forces: converge the SCF further or raise the limit"
            )
        outcome = self._labeller.label(self.atoms)
        if outcome.status != "ok":
            raise FailedLabelError(
                f"{identity}: label {outcome.key[:16]} {outcome.status}: {outcome.reason}; log, if there is one:"
                f" {self._labeller.store.log_path(outcome.key)}"
            )
        if outcome.settings_id != self.settings_id:
            raise FailedLabelError(
                f"{identity}: label {outcome.key[:16]} converged only with {outcome.record['changed']}, which may alter"
                " its value; change `label.parameters` or `label.escalations`"
            )
        self._count(identity, outcome)
        results = outcome.record["results"]
        self.results = {"energy": results["energy"], "free_energy": results["energy"]}
        self.results |= {name: np.array(results[name]) for name in ("forces", "stress") if results[name] is not None}

    def _count(self, identity: str, outcome: Outcome) -> None:
        self.n_requests += 1
        self.n_computed += not outcome.cached
        self.costs[outcome.key] = float(outcome.record["core_seconds"])
        if self._progress is not None:
            event = {"done": self.n_requests, "structure_id": identity, "cached": outcome.cached}
            self._progress(event | {"core_seconds": self.costs[outcome.key]})


def label_with(calculator: Any) -> LabelFunction:
    """A function that labels a copy of a structure with an ASE ``calculator``, in this process.

    The label has energy (eV) and forces (eV/Å), and stress (eV/Å³) where the calculator has it. With a
    :class:`StoredCalculator` it comes from the label store or goes there.
    """

    def label(atoms: Atoms) -> Atoms:
        labelled = atoms.copy()
        labelled.calc = calculator
        labelled.get_potential_energy()  # computes, so that the calculator then has what it has
        values = {"energy": labelled_energy(labelled), "forces": labelled_forces(labelled)}
        with contextlib.suppress(NotImplementedError):
            values["stress"] = labelled_stress(labelled)
        labelled.calc = SinglePointCalculator(labelled, **values)
        return labelled

    return label
