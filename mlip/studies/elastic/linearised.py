"""Influence through all parameters: the network linearised about its trained weights.

With J the Jacobian of all weighted labels, r their residuals and K = J J^T + lambda, the refit of the
linearised network without the rows s changes a quantity of gradient g by

    -(J g) . B_.s B_ss^-1 a_s,   B = K^-1,   a = B r,

exactly for the linearised network. That is :mod:`mlip.studies.elastic.readout` with every layer in place of
the last one, in its dual form, since there are more parameters than labels. lambda stands for what training
does not reach, and is the one that predicts left-out structures best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from scipy.linalg import block_diag
from torch import Tensor

from mlip.config import Train
from mlip.potential.committee import ACEPotential
from mlip.potential.edges import compute_density, sum_forces, sum_virials
from mlip.potential.environments import build_environments
from mlip.studies.elastic.readout import Columns, label_rows

RIDGES = 10.0 ** np.arange(-8, 1)
"""lambda over the mean diagonal of J J^T."""
OWN = ("weights.", "biases.", "output", "linear")
"""Parameters that every member has for itself; the others are shared."""


@dataclass(frozen=True)
class Tangent:
    """The linearised committee.

    Attributes:
        gram: J J^T, members one after the other, [n_rows, n_rows].
        residuals: weighted labels less predictions, [n_rows].
        owner: structure of each row, [n_rows].
        projected: J g of each quantity, [n_quantities, n_rows].
        n_members: of the committee.
    """

    gram: np.ndarray
    residuals: np.ndarray
    owner: np.ndarray
    projected: np.ndarray
    n_members: int

    def influence(self) -> np.ndarray:
        """Change of each quantity when each structure is left out, [n_quantities, n_structures]."""
        first = slice(len(self.gram) // self.n_members)
        ridge = min(RIDGES, key=lambda candidate: self._misfit(candidate, first))
        inverse = self._inverse(ridge, slice(None))
        omitted = self._omit(inverse, slice(None))
        return np.stack([-self.projected @ inverse[:, own] @ error for own, error in omitted], 1)

    def _inverse(self, ridge: float, rows: slice) -> np.ndarray:
        gram = self.gram[rows, rows]
        return np.linalg.inv(gram + ridge * float(np.trace(gram)) / len(gram) * np.eye(len(gram)))

    def _misfit(self, ridge: float, rows: slice) -> float:
        """Squared errors of left-out structures in a fit of ``rows`` alone: one member tells as much as all."""
        return float(sum((error**2).sum() for _, error in self._omit(self._inverse(ridge, rows), rows)))

    def _omit(self, inverse: np.ndarray, rows: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows of each structure and their residuals in the fit without it, B_ss^-1 a_s."""
        dual = inverse @ self.residuals[rows]
        blocks = [np.flatnonzero(self.owner[rows] == k) for k in range(int(self.owner.max()) + 1)]
        return [(own, np.linalg.solve(inverse[np.ix_(own, own)], dual[own])) for own in blocks]


def linearise(
    potential: ACEPotential,
    training: Sequence[Atoms],
    settings: Train,
    frames: Sequence[Atoms],
    functional: np.ndarray,
    weights: np.ndarray | None = None,
) -> Tangent:
    """The committee linearised on labelled structures.

    Args:
        potential: trained.
        training: labelled structures.
        settings: weights of the loss.
        frames: structures whose energies make the quantities.
        functional: quantities = functional [n_quantities, n_frames] times the energies of ``frames``.
        weights: of the structures for each member in training, [n_members, n_structures]; one if absent.
    """
    count = potential.n_members
    weights = np.ones((count, len(training))) if weights is None else weights
    with _differentiable(potential) as (shared, own):
        slopes = [_slopes(potential, frames, functional, shared + own, len(shared), m) for m in range(count)]
        tables = [[_rows(potential, a, settings, shared + own, len(shared), m) for a in training] for m in range(count)]
    n_shared = sum(p.numel() for p in shared)
    common = np.mean([g[:, :n_shared] for g in slopes], axis=0)
    rows, blocks, projected, residuals, owner = [], [], [], [], []
    for member, (parts, slope) in enumerate(zip(tables, slopes, strict=True)):
        root = np.sqrt(np.repeat(weights[member], [len(part) for part in parts]))[:, None]
        table = root * np.concatenate(parts)
        rows.append(table[:, 1 : 1 + n_shared])
        private = table[:, 1 + n_shared :]
        blocks.append(private @ private.T)
        projected.append(common @ rows[-1].T + slope[:, n_shared:] @ private.T / count)
        residuals.append(table[:, 0])
        owner.append(np.repeat(np.arange(len(parts)), [len(part) for part in parts]))
    together = np.concatenate(rows)
    gram = together @ together.T + block_diag(*blocks)
    return Tangent(gram, np.concatenate(residuals), np.concatenate(owner), np.concatenate(projected, 1), count)


@contextmanager
def _differentiable(potential: ACEPotential) -> Iterator[tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]]:
    """The parameters that the members share, and the others, while gradients are wanted."""
    named = dict(potential.network.named_parameters())
    potential.network.requires_grad_(True)
    try:
        own = [p for name, p in named.items() if name.startswith(OWN)]
        yield [p for name, p in named.items() if not name.startswith(OWN)], own
    finally:
        potential.network.requires_grad_(False)


def _rows(
    potential: ACEPotential, atoms: Atoms, settings: Train, parameters: Sequence[Tensor], n_shared: int, member: int
) -> np.ndarray:
    """Weighted residuals of a structure's labels, then their predictions' gradients, [n_rows, 1 + D]."""
    environments = build_environments([atoms], potential.frame).to(potential.device, torch.float64)
    atomic, edges = potential.network(environments, compute_density(environments))
    edges = edges + (environments.pair_slope[:, None] * environments.direction)[:, None]
    isolated = sum(potential.isolated_energies[s] for s in atoms.get_chemical_symbols())
    energy = (atomic.energies[member] + environments.pair_energy).sum()[None] + isolated
    sorted_forces = sum_forces(environments, edges)[:, member]
    forces = torch.empty_like(sorted_forces).index_copy(0, environments.atoms, sorted_forces)
    virial = sum_virials(environments, edges, 1)[0, member]
    outputs = torch.cat((energy, forces.flatten(), virial.flatten()))
    eye = torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)
    table = np.column_stack((outputs.detach().cpu().numpy(), _gradients(outputs, eye, parameters, n_shared, member)))
    n = len(atoms)
    columns = Columns(table[:1], [table[1 : 1 + 3 * n].reshape(n, 3, -1)], table[1 + 3 * n :].reshape(1, 3, 3, -1))
    design, labels = label_rows(columns, 0, atoms, settings)
    design[:, 0] = labels - design[:, 0]
    return design


def _slopes(
    potential: ACEPotential,
    frames: Sequence[Atoms],
    functional: np.ndarray,
    parameters: Sequence[Tensor],
    n_shared: int,
    member: int,
) -> np.ndarray:
    """Gradients of the quantities by one member, [n_quantities, D]."""
    environments = build_environments(frames, potential.frame).to(potential.device, torch.float64)
    atomic, _ = potential.network(environments, compute_density(environments), members=False)
    own = atomic.energies[member]
    energies = own.new_zeros(len(frames)).index_add(0, environments.structure, own)
    return _gradients(energies, torch.from_numpy(functional).to(energies), parameters, n_shared, member)


def _gradients(
    outputs: Tensor, directions: Tensor, parameters: Sequence[Tensor], n_shared: int, member: int
) -> np.ndarray:
    """Derivatives of ``directions`` [n, m] times ``outputs`` [m] by shared parameters and the member's own, [n, D]."""
    rows = []
    for direction in directions:
        found = torch.autograd.grad(outputs, parameters, direction, retain_graph=True, materialize_grads=True)
        own = [g if k < n_shared else g[:, member] for k, g in enumerate(found)]
        rows.append(torch.cat([g.flatten() for g in own]))
    return torch.stack(rows).cpu().numpy()
