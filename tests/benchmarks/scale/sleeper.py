"""The stand-in labeller: it waits as long as it is told, and takes no core meanwhile."""

from __future__ import annotations

import time

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Sleeper(Calculator):
    """Zero energy and forces after ``seconds``."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Wait."""
        super().calculate(atoms, properties, system_changes)
        time.sleep(self.seconds)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3)), "stress": np.zeros(6)}
