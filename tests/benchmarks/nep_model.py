"""C++ NEP for the speed measurement (environment .venv-nep): GPUMD's CPU code in calorine.

The weights are made up, small and random: NEP's cost does not depend on them. There is no
accuracy to compare, as its trainer needs a GPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator
from calorine.calculators import CPUNEP

CUTOFF, N_MAX, BASIS, L_MAX, NEURONS = 5.0, 4, 8, 4, 30
"""The cutoff of all packages here, and otherwise GPUMD's defaults, four-body terms included."""


def write_model(path: Path, element: str, seed: int = 0) -> None:
    """A NEP4 model of one element in GPUMD's nep.txt format."""
    n_features = (N_MAX + 1) * (1 + L_MAX + 1)
    n_network = (n_features + 2) * NEURONS + 1
    n_coefficients = 2 * (N_MAX + 1) * (BASIS + 1)
    rng = np.random.default_rng(seed)
    numbers = 0.01 * rng.standard_normal(n_network + n_coefficients)
    head = [
        f"nep4 1 {element}",
        f"cutoff {CUTOFF} {CUTOFF} 200 200",
        f"n_max {N_MAX} {N_MAX}",
        f"basis_size {BASIS} {BASIS}",
        f"l_max {L_MAX} 2 0",
        f"ANN {NEURONS} 0",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*head, *(f"{v:.7e}" for v in numbers), *["1.0"] * n_features]) + "\n")


def load_calculator(folder: Path, device: str) -> Calculator:
    """ASE calculator, in double precision on one CPU thread; ``device`` is always cpu."""
    path = folder / "nep.txt"
    write_model(path, "Si")
    return CPUNEP(str(path))
