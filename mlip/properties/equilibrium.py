"""A crystal at the equilibrium volume of its equation of state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mlip.properties.eos import fit_eos


def at_equilibrium(references: Sequence[Atoms], energies: Sequence[float] | np.ndarray) -> Atoms:
    """The crystal of ``references`` at the volume where ``energies`` (eV, one each) are lowest.

    Args:
        references: one crystal at several volumes.
        energies: by the labeller or by a potential.

    Raises:
        PropertyError: when the energies have no minimum among the volumes.
    """
    fitted = fit_eos([atoms.get_volume() for atoms in references], energies)
    crystal = references[0].copy()
    crystal.set_cell(crystal.cell.array * (fitted.v0 / crystal.get_volume()) ** (1 / 3), scale_atoms=True)
    crystal.info = {}
    return crystal
