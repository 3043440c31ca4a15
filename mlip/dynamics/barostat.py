"""NPT that leaves vacuum alone: the cell breathes only in the directions in which matter goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from mlip.dynamics.guarded import GuardedBAOAB


class DirectedBAOAB(GuardedBAOAB):
    """Langevin NPT whose cell strains only within a subspace, such as the plane of a slab.

    ASE's equations for a flexible cell (D. Quigley, M. I. J. Probert, J. Chem. Phys. 120, 11432 (2004)) with the
    cell's momentum and the force and noise on it projected: ``P p P`` with the projector ``P`` onto the subspace, which
    keeps the cell's height over a plane, and for an isotropic strain ``tr(P p P) / tr(P) P``. The projections of the
    isotropic Gaussian noise have the variances that equipartition asks of the coordinates left.
    """

    force_eps: Any
    p_eps: Any

    def __init__(self, atoms: Atoms, *args: Any, projector: np.ndarray, isotropic: bool, **kwargs: Any) -> None:
        self._projector, self._isotropic = projector, isotropic
        super().__init__(atoms, *args, hydrostatic=False, **kwargs)

    def _project(self, tensor: np.ndarray) -> np.ndarray:
        projector = self._projector
        if self._isotropic:
            return np.sum(projector * tensor) / np.trace(projector) * projector
        return projector @ tensor @ projector

    def _update_force_eps(self) -> None:
        super()._update_force_eps()
        self.force_eps = self._project(self.force_eps)

    def _barostat_BAOAB_OU(self) -> None:
        super()._barostat_BAOAB_OU()
        self.p_eps = self._project(self.p_eps)

    def _barostat_BAOAB_OU_gamma_mod(self) -> np.ndarray:
        # ASE adds the trace to every element; its place is the diagonal (Quigley and Probert, Eq. 5b).
        return (self.p_eps + np.trace(self.p_eps) / self.Ndof * np.eye(3)) / self.barostat_mass
