"""What every optimisation shares, whatever its step: schedule, clock, averaged weights, history, checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mlip.config.train import Train
from mlip.jobs.progress import Progress
from mlip.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mlip.training.parallel import SINGLE, Processes

WAIT, PATIENCE = 1000, 1.5
"""A training turns to its end when forces on validation data have been no better for WAIT steps, and not before this
multiple of the steps that the best ones took. One member's on held-out silicon were best after 2600 of 20 000 steps,
and 22 % worse in the end (tests/benchmarks/try_constants.py)."""
TAIL = 0.5
"""Length of that end, in which the rates anneal, relative to what went before."""


class WeightAverage:
    """Running average of ``parameters``; young averages forget faster, so that the first weights do not stay.

    Attributes:
        weights: the average of each parameter.
        decay: per step, in the end.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step ``step``, counted from 0."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, parameter in self.parameters.items():
            self.weights[name].lerp_(parameter, 1.0 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The averages in place of the parameters, for a while."""
        trained = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(trained[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the parameters by their averages."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.weights[name])


@dataclass
class Schedule(ABC):
    """A run of optimiser steps that can be stopped and continued; every random choice is a function of seed and step.

    Args:
        settings: section ``train`` of the configuration.
        seed: of all random choices.
        identity: names data and settings; a checkpoint of another identity is not continued.
        max_seconds: when given, the schedule follows the elapsed time (CPU time on a CPU) instead of the steps.
        checkpoint: file to write checkpoints to, and to continue from.
        progress: called with each entry of the history.
        start: share of the schedule that is skipped: training from earlier weights runs its end.
        keys: digest of each structure, by which it is nearly left out by the same member in every iteration.
        processes: those that share the batches.

    Attributes:
        turned: share that was done when the training turned to its end.
        rate_key: the setting that a diverging training asks to lower.
    """

    _: KW_ONLY
    settings: Train
    seed: int
    identity: str
    max_seconds: float | None = None
    checkpoint: Path | None = None
    progress: Progress | None = None
    start: float = 0.0
    keys: Sequence[str] | None = None
    processes: Processes = SINGLE
    history: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    turned: float = math.inf

    rate_key: ClassVar[str] = "train.learning_rate"

    @abstractmethod
    def _device(self) -> torch.device:
        """Where the steps run."""

    @abstractmethod
    def _averages(self) -> list[WeightAverage]:
        """The averages that training leaves in the weights."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Everything that changes from step to step; restored in place."""

    @abstractmethod
    def _advance(self, fraction: float) -> Tensor:
        """One step at ``fraction`` of the schedule; RMS errors of energies, forces and virials, [3]."""

    def _validate(self) -> dict[str, float]:
        """RMS errors of the averaged weights on validation data, ``valid_force_rmse`` (eV/Å) among them, if any."""
        return {}

    def run(self) -> None:
        """Train to the end of the schedule and leave the averaged weights in place.

        The schedule is cut short where validation errors stop falling (:func:`find_turn`).

        Raises:
            FloatingPointError: when training diverges.
        """
        self._restore()
        # CPU time on a CPU: a busy machine must not shorten the training.
        clock = time.process_time if self._device().type == "cpu" else time.perf_counter
        began = clock() - self.seconds
        while (fraction := self._fraction()) < 1.0:
            errors = self._advance(fraction)
            self.step += 1
            self.seconds = clock() - began
            if self.max_seconds is not None:
                self.seconds = self.processes.agree(self.seconds, self._device())
            if self.step % self.settings.checkpoint_every == 0 or self._fraction() >= 1.0:
                self.processes.copy_(self._state().values())  # round-off must not drive the processes apart
                self._record(errors)
                self._save()
        for average in self._averages():
            average.apply()

    def _fraction(self) -> float:
        """Place in the schedule, from ``start`` to 1."""
        done, turned = self._done(self.step, self.seconds), self.turned
        if done > turned:
            done = max(done, turned + (1.0 - turned) * (done - turned) / (TAIL * turned))
        return self.start + (1.0 - self.start) * done if done < 1.0 else 1.0

    def _done(self, step: int, seconds: float) -> float:
        """Share of the planned steps, or of the planned time, that has passed."""
        n_steps = math.ceil((1.0 - self.start) * self.settings.n_steps)
        return step / n_steps if self.max_seconds is None else seconds / self.max_seconds

    def _record(self, errors: Tensor) -> None:
        energy, force, virial = (1e3 * float(v) for v in errors)
        entry = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "energy_rmse": energy,
            "force_rmse": force,
            "virial_rmse": virial,
            **{name: 1e3 * error for name, error in self._validate().items()},
        }
        if not math.isfinite(energy + force):
            raise FloatingPointError(
                f"training diverged at step {self.step} (seed {self.seed}); lower {self.rate_key}, or look for "
                "unphysical labels"
            )
        self.history.append(entry)
        self._note_turn()
        if self.progress is not None and self.processes.first:
            self.progress(entry)

    def _save(self) -> None:
        if self.checkpoint is not None and self.processes.first:
            state = Checkpoint(self.step, self.seconds, self.identity, self.history, self._state())
            write_checkpoint(self.checkpoint, state)

    def _restore(self) -> None:
        """Continue from the checkpoint that the first process finds."""
        reads = self.checkpoint is not None and self.processes.first
        restored = read_checkpoint(self.checkpoint, self.identity) if reads and self.checkpoint is not None else None
        if restored is not None:
            self.step, self.seconds, self.history = restored.step, restored.seconds, restored.history
            with torch.no_grad():
                for name, tensor in self._state().items():
                    tensor.copy_(restored.tensors[name])
        self.step = round(self.processes.agree(self.step, self._device()))
        self.seconds = self.processes.agree(self.seconds, self._device())
        self.processes.copy_(self._state().values())
        self._note_turn()

    def _note_turn(self) -> None:
        """Where the first process's history turns; others lack what it read from a checkpoint."""
        entry = find_turn(self.history) if self.settings.early_stopping else None
        share = math.inf if entry is None else self._done(entry["step"], entry["seconds"])
        self.turned = self.processes.agree(share, self._device())


def find_turn(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry of ``history`` at which forces on validation data had been no better for long enough, if any."""
    best: Mapping[str, Any] | None = None
    for entry in history:
        if not math.isfinite(entry.get("valid_force_rmse", math.nan)):
            continue
        if best is None or entry["valid_force_rmse"] < best["valid_force_rmse"]:
            best = entry
        elif entry["step"] >= max(best["step"] + WAIT, PATIENCE * best["step"]):
            return entry
    return None
