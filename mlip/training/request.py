"""What a training is asked to do, the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlip.jobs.progress import Progress

if TYPE_CHECKING:
    from ase import Atoms

    from mlip.config.train import Train


@dataclass(frozen=True)
class TrainingRequest:
    """Data, settings and places of one training.

    Attributes:
        train: labelled structures; one with stress labels contributes them.
        valid: labelled structures for calibration and early stopping; may be empty.
        audits: labelled structures for calibration alone; neither weights nor the end of training depend on them.
        settings: section ``train`` of the configuration.
        out: output folder.
        seed: of initial weights, batches and the structures each member leaves out.
        device: torch device to train on.
        isolated_energies: E0 per element in eV; None fits them to compositions.
        previous: folder of the potential to start from, with ``settings.restart: previous``; where its
            elements or architecture do not fit, training starts from scratch with a warning.
        checkpoint: file to write checkpoints to, and to continue from when it fits data,
            settings and seed; removed when training is complete.
        max_seconds: train for this long (CPU time on a CPU) instead of ``settings.n_steps`` steps.
        progress: called with each entry of the history.
    """

    train: Sequence[Atoms]
    valid: Sequence[Atoms]
    settings: Train
    out: Path
    seed: int
    device: str = "cpu"
    isolated_energies: dict[str, float] | None = None
    previous: Path | None = None
    checkpoint: Path | None = None
    max_seconds: float | None = None
    progress: Progress | None = None
    audits: Sequence[Atoms] = ()

    @property
    def held_out(self) -> list[Atoms]:
        """What calibrates: validation structures and audits."""
        return [*self.valid, *self.audits]

    @property
    def start_from(self) -> Path | None:
        """The folder of the potential to go on from, where the settings say so."""
        wanted = self.previous is not None and self.settings.restart == "previous"
        return Path(self.previous) if wanted and self.previous is not None else None
