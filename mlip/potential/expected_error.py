"""How large errors are expected to be, in units that compare between systems and do not grow with the cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlip.io.files import read_json
from mlip.potential.certification import error_ratios


def read_training(path: Path) -> dict[str, Any]:
    """What ``training.json`` says; nothing without the file."""
    return read_json(path) if path.exists() else {}


@dataclass(frozen=True)
class ErrorScale:
    """What turns calibrated uncertainties of one starting structure's frames into relative expected errors.

    Attributes:
        ratio: Error over expected error on held-out data.
        rms_force: RMS force component of the training labels, eV/Å.
    """

    ratio: float
    rms_force: float

    @classmethod
    def read(cls, training: Path, source: int) -> ErrorScale | None:
        """That of ``source`` in ``training.json``; None without one, or where it is of a version without RMS forces."""
        return cls.of(read_training(training), source)

    @classmethod
    def of(cls, trained: Mapping[str, Any], source: int) -> ErrorScale | None:
        """The same from what the file says."""
        forces = trained.get("rms_force", {})
        rms = float(forces.get("structures", {}).get(str(source), forces.get("all", 0.0)))
        ratios = error_ratios(trained)
        return cls(ratios.get(source, ratios[None]), rms) if rms > 0 else None

    def relative_error(self, force_uncertainty: np.ndarray) -> float:
        """Expected RMS error of a frame's force components over the RMS force.

        A mean over atoms: the largest uncertainty, which grows with the number of atoms, would stop walkers of large
        cells in what those of small ones pass.

        Args:
            force_uncertainty: Calibrated standard deviation of each atom's force vector, [n_atoms] eV/Å.
        """
        return self.ratio * float(np.sqrt(np.mean(np.square(force_uncertainty)) / 3)) / self.rms_force
