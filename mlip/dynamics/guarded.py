"""Steps of dynamics under guard: what has come apart is told, and its forces are not asked for."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from ase import Atoms
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics

from mlip.dynamics.limits import EXPLODED_POSITION, EXPLODED_VOLUME, NEAREST, is_too_hot
from mlip.structures.geometry import min_distance_ratio

CHECK_EVERY = 50
"""Steps between looks at temperature and distances."""

NUMERICAL_FAILURES = (FloatingPointError, OverflowError, np.linalg.LinAlgError)
"""Raised by a step whose numbers are no longer physical, never by a failing program or machine."""
FAILURES = (ValueError, FloatingPointError, np.linalg.LinAlgError, RuntimeError)
"""Raised, besides, by calculators that are asked for the forces of a structure that has come apart."""


class DynamicsError(ValueError):
    """Dynamics that has come apart; the message says how."""


class GuardedBAOAB(LangevinBAOAB):
    """BAOAB that never asks a calculator for the forces of a structure that has come apart."""

    def __init__(self, atoms: Atoms, *args: Any, usual_volume: float | None = None, **kwargs: Any) -> None:
        """As ASE's; ``usual_volume`` (Å³) is that from which the cell must not run away, by default the present one."""
        present = atoms.get_volume() if atoms.pbc.all() else 0.0
        self._start_volume = present if usual_volume is None else usual_volume
        super().__init__(atoms, *args, **kwargs)

    def _update_accel(self) -> None:
        # Called between the drift and the force evaluation of a step. A neighbour list of NaN, of a
        # collapsed cell or of a boundless cloud may fail, hang or fill the memory.
        if not is_bounded(self.atoms, self._start_volume):
            raise FloatingPointError("positions, momenta or cell are no longer physical")
        super()._update_accel()


def is_bounded(atoms: Atoms, start_volume: float) -> bool:
    """Whether positions, momenta and cell are finite and within the limits of an explosion.

    ``start_volume`` is that of the cell at the start, Å³; 0 where there is none.
    """
    if not all(np.all(np.isfinite(x)) for x in (atoms.positions, atoms.get_momenta(), atoms.cell.array)):
        return False
    if np.abs(atoms.positions).max() > EXPLODED_POSITION:
        return False
    return not start_volume or 1 / EXPLODED_VOLUME < atoms.get_volume() / start_volume < EXPLODED_VOLUME


def take_steps(
    dynamics: MolecularDynamics, n_steps: int = 1, failures: tuple[type[Exception], ...] = NUMERICAL_FAILURES
) -> None:
    """Take ``n_steps`` of ``dynamics``.

    Raises:
        DynamicsError: when one of ``failures`` came of a step.
        Exception: any other that the calculator raises.
    """
    try:
        with np.errstate(all="ignore"):
            dynamics.run(n_steps)
    except failures as error:
        raise DynamicsError(f"a step could not be taken: {error}") from error


def advance(dynamics: MolecularDynamics, n_steps: int, temperature: float, *, watch_distances: bool = True) -> None:
    """Take ``n_steps`` of ``dynamics`` at the intended ``temperature`` (K) and look at the structure now and then.

    Without ``watch_distances`` the temperature alone is watched: a neighbour list costs more than cheap forces.

    Raises:
        DynamicsError: when the structure has come apart.
    """
    for start in range(0, n_steps, CHECK_EVERY):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            take_steps(dynamics, min(CHECK_EVERY, n_steps - start), FAILURES)
        kinetic = dynamics.atoms.get_temperature()
        if is_too_hot(kinetic, temperature):
            raise DynamicsError(f"the temperature reached {kinetic:.4g} K where {temperature:g} K were wanted")
        if watch_distances and (ratio := min_distance_ratio(dynamics.atoms)) < NEAREST:
            raise DynamicsError(f"two atoms came as near as {ratio:.2f} of the sum of their covalent radii")
