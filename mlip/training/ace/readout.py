"""The last layer as a linear model: its design matrix, refits, and what leaving structures out changes.

A committee member's energies, forces and virials are linear in its last layer's weights w, about offsets from
isolated atoms, repulsion and shift: y = y0 + A w. One network with a member for every weight evaluates all
columns of A at once. With rows weighted as the training loss does, and the trained weights w0 as prior,

    w = w0 + G^-1 A^T r,   G = A^T A + lambda,   r = y - y0 - A w0.

Leaving out a structure with rows A_s and residuals r_s = y_s - A_s w changes w by exactly

    dw = -G^-1 A_s^T (1 - H_s)^-1 r_s,   H_s = A_s G^-1 A_s^T

(R. D. Cook, Technometrics 19, 15 (1977), for blocks); the influence function is the same with H_s = 0
(P. W. Koh and P. Liang, arXiv:1703.04730). Whatever is linear in w, such as an elastic constant at given
positions, changes by its own gradient times dw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from ase import Atoms

from mlip.config.train import Train
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.ace.pairs import sum_forces
from mlip.structures.labelled import labelled_stress
from mlip.training.targets import ENERGY_UNIT, STRESS_UNIT

RIDGE = 1e-6
"""lambda over the mean eigenvalue of A^T A."""
PROBE_ATOMS = 64
"""Atoms evaluated together by the network of all weights; bounds memory."""


@dataclass(frozen=True)
class Columns:
    """Predictions of some structures as y = offset + A w, of one member.

    Attributes:
        energies: [n_structures, 1 + D]: the offset (eV), then A.
        forces: of each structure, [n_atoms, 3, 1 + D].
        virials: dE/d(strain), [n_structures, 3, 3, 1 + D].
    """

    energies: np.ndarray
    forces: list[np.ndarray]
    virials: np.ndarray


def evaluate_columns(potential: ACEPotential, structures: Sequence[Atoms], member: int) -> Columns:
    """Offset and all columns of ``member``; of one species or several."""
    probe = _probe(potential, member)
    energies: list[np.ndarray] = []
    forces: list[np.ndarray] = []
    virials: list[np.ndarray] = []
    for chunk in _chunks(structures):
        for part, pairs in probe._chunks(chunk):
            evaluation = probe._evaluate(pairs, members=True)
            n = len(part)
            total = evaluation.energies.new_zeros(len(evaluation.energies), n).index_add(
                1, pairs.structure, evaluation.energies
            )
            pulls = sum_forces(pairs, evaluation.gradients).permute(0, 2, 1).cpu().numpy()
            outer = torch.einsum("epx,ey->epxy", evaluation.gradients.double(), pairs.vectors)
            owner = pairs.structure[pairs.centers]
            strain = outer.new_zeros(n, *outer.shape[1:]).index_add(0, owner, outer)
            energies.append(_relative(total.T.cpu().numpy()))
            virials.append(_relative((0.5 * (strain + strain.mT)).permute(0, 2, 3, 1).cpu().numpy()))
            ends = np.cumsum([len(a) for a in part])[:-1]
            forces.extend(_relative(pull) for pull in np.split(pulls, ends))
    return Columns(np.concatenate(energies), forces, np.concatenate(virials))


def _relative(values: np.ndarray) -> np.ndarray:
    """Offset first, then each column's own part."""
    values = values.copy()
    values[..., 1:] -= values[..., :1]
    return values


def _chunks(structures: Sequence[Atoms]) -> list[list[Atoms]]:
    chunks: list[list[Atoms]] = [[]]
    for atoms in structures:
        if chunks[-1] and sum(map(len, chunks[-1])) + len(atoms) > PROBE_ATOMS:
            chunks.append([])
        chunks[-1].append(atoms)
    return chunks


def _probe(potential: ACEPotential, member: int) -> ACEPotential:
    """A committee whose members share ``member``'s hidden layers: the first without last layer, one for each weight."""
    size = potential.size
    n_species, n_hidden = size.n_species, size.n_last - size.n_features
    width = n_species * size.n_last
    probe = potential.with_members([member] * (width + 1))
    state = probe.network.state_dict()
    for name, start, length in (("output", 0, n_hidden), ("linear", n_hidden, size.n_features)):
        value = state[name].zero_()
        for s in range(n_species):
            for k in range(length):
                value[s, 1 + s * size.n_last + start + k, k] = 1.0
    return probe


def last_weights(potential: ACEPotential, member: int) -> np.ndarray:
    """w0 [n_species * n_last] of ``member``."""
    network = potential.network
    parts = torch.cat((network.output[:, member, :, 0], network.linear[:, member, :, 0]), 1)
    return parts.detach().double().cpu().numpy().ravel()


def with_last_weights(potential: ACEPotential, weights: Sequence[np.ndarray]) -> ACEPotential:
    """``potential`` with the last layer of every member replaced by ``weights``."""
    size = potential.size
    n_hidden = size.n_last - size.n_features
    network = CommitteeNetwork(size, seed=0)
    network.load_state_dict(potential.network.state_dict())
    network = network.double()
    with torch.no_grad():
        for member, flat in enumerate(weights):
            table = torch.from_numpy(flat.reshape(size.n_species, size.n_last))
            network.output[:, member, :, 0] = table[:, :n_hidden]
            network.linear[:, member, :, 0] = table[:, n_hidden:]
    return ACEPotential(
        potential.basis, network, potential.isolated_energies, potential.calibration, device=potential.device
    )


@dataclass(frozen=True)
class Readout:
    """The weighted least-squares problem of one member's last layer.

    Attributes:
        rows: A of all structures, weighted, [n_rows, D].
        residuals: r, weighted, [n_rows]: labels less predictions with ``prior``.
        owner: structure of each row, [n_rows].
        kind: 0 energy, 1 force, 2 virial, [n_rows].
        prior: w0, [D].
        ridge: lambda, absolute.
    """

    rows: np.ndarray
    residuals: np.ndarray
    owner: np.ndarray
    kind: np.ndarray
    prior: np.ndarray
    ridge: float

    @property
    def n_structures(self) -> int:
        """How many there are."""
        return int(self.owner.max()) + 1

    @cached_property
    def inverse(self) -> np.ndarray:
        """G^-1, [D, D]."""
        return np.linalg.inv(self.rows.T @ self.rows + self.ridge * np.eye(self.rows.shape[1]))

    @cached_property
    def weights(self) -> np.ndarray:
        """w [D] of the fit to all structures."""
        return self.prior + self.inverse @ (self.rows.T @ self.residuals)

    @cached_property
    def misfit(self) -> np.ndarray:
        """Residuals of the fit, [n_rows]."""
        return self.residuals - self.rows @ (self.weights - self.prior)

    @property
    def noise(self) -> float:
        """Variance of a weighted residual: robust, by the median, for a few structures may be wrong."""
        return float((np.median(np.abs(self.misfit)) / 0.6745) ** 2)

    def refit(self, kept: np.ndarray) -> np.ndarray:
        """w [D] of a fit to the structures ``kept`` [n] alone, solved anew; the ridge stays."""
        rows = np.isin(self.owner, kept)
        design = self.rows[rows]
        gram = design.T @ design + self.ridge * np.eye(design.shape[1])
        return self.prior + np.linalg.solve(gram, design.T @ self.residuals[rows])

    def leave_out(self, *, exact: bool = True) -> np.ndarray:
        """dw [n_structures, D] when each is left out; with ``exact=False`` the plain influence function."""
        changes = []
        for rows, misfit in self._blocks():
            if exact:
                leverage = rows @ self.inverse @ rows.T
                misfit = np.linalg.solve(np.eye(len(rows)) - leverage, misfit)
            changes.append(-self.inverse @ (rows.T @ misfit))
        return np.array(changes)

    def surprise(self, kept: np.ndarray) -> np.ndarray:
        """RMS of each structure's energy, force and virial residuals in a fit without it, [3, n_structures].

        The fit is to the structures ``kept``, less the one looked at: a structure cannot bend the fit to its own
        label. Residuals are whitened by their covariance 1 + A_s G^-1 A_s^T, which is large where the fit
        extrapolates. NaN where a structure has no such label.
        """
        chosen = np.isin(self.owner, kept)
        design = self.rows[chosen]
        inverse = np.linalg.inv(design.T @ design + self.ridge * np.eye(design.shape[1]))
        misfit = self.residuals - self.rows @ (inverse @ (design.T @ self.residuals[chosen]))
        surprise = np.full((3, self.n_structures), np.nan)
        for k in range(self.n_structures):
            block = self._slice(k)
            free, rows = misfit[block], self.rows[block]
            leverage = rows @ inverse @ rows.T
            covariance = np.eye(len(rows)) + leverage
            if chosen[block.start]:
                covariance = np.linalg.inv(np.eye(len(rows)) - leverage)
                free = covariance @ free
            for kind in range(3):
                labels = self.kind[block] == kind
                whitened = free[labels] @ np.linalg.solve(covariance[np.ix_(labels, labels)], free[labels])
                surprise[kind, k] = np.sqrt(whitened / labels.sum()) if labels.any() else np.nan
        return surprise

    def variance(self, gradient: np.ndarray) -> float:
        """Variance of the linear quantity ``gradient`` [D], by the fit's posterior."""
        return float(self.noise * gradient @ self.inverse @ gradient)

    def expected_gain(self, gradients: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Standard deviations of linear quantities [n, D] now, over those with ``rows`` [m, D] added to the fit, [n].

        No label is needed for that: 1 says that the rows tell nothing new.
        """
        shared = rows @ self.inverse
        after = self.inverse - shared.T @ np.linalg.solve(np.eye(len(rows)) + shared @ rows.T, shared)
        before = np.einsum("nd,de,ne->n", gradients, self.inverse, gradients)
        return np.sqrt(before / np.maximum(np.einsum("nd,de,ne->n", gradients, after, gradients), 1e-300))

    def _slice(self, k: int) -> slice:
        return slice(*np.searchsorted(self.owner, (k, k + 1)).tolist())

    def _blocks(self) -> list[tuple[np.ndarray, np.ndarray]]:
        slices = [self._slice(k) for k in range(self.n_structures)]
        return [(self.rows[block], self.misfit[block]) for block in slices]


def build_readout(
    potential: ACEPotential, structures: Sequence[Atoms], settings: Train, member: int, *, from_scratch: bool = False
) -> Readout:
    """The problem of ``member`` on labelled ``structures``.

    Args:
        potential: whose hidden layers are kept.
        structures: with energy, forces and perhaps stress.
        settings: weights of the loss.
        member: of the committee.
        from_scratch: a prior of zero in place of the trained weights.
    """
    columns = evaluate_columns(potential, structures, member)
    prior = np.zeros(columns.energies.shape[1] - 1) if from_scratch else last_weights(potential, member)
    rows, residuals, owner, kinds = [], [], [], []
    for k, atoms in enumerate(structures):
        design, target = label_rows(columns, k, atoms, settings)
        rows.append(design[:, 1:])
        residuals.append(target - design[:, 0] - design[:, 1:] @ prior)
        owner.append(np.full(len(target), k))
        kinds.append(np.repeat([0, 1, 2], [1, 3 * len(atoms), len(target) - 1 - 3 * len(atoms)]))
    table = np.concatenate(rows)
    ridge = RIDGE * float((table**2).sum()) / table.shape[1]
    return Readout(table, np.concatenate(residuals), np.concatenate(owner), np.concatenate(kinds), prior, ridge)


def label_rows(columns: Columns, k: int, atoms: Atoms, settings: Train) -> tuple[np.ndarray, np.ndarray]:
    """Weighted rows [n, 1 + D] and labels [n] of structure ``k``; without labels, rows for all it could have."""
    n = len(atoms)
    results = atoms.calc.results if atoms.calc is not None else {}
    energy = settings.energy_weight**0.5 / (ENERGY_UNIT * n)
    force = (settings.force_weight / 3.0) ** 0.5 / n**0.5
    rows = [columns.energies[k][None] * energy, columns.forces[k].reshape(3 * n, -1) * force]
    forces = np.ravel(results.get("forces", np.zeros((n, 3))))
    labels = [np.array([results.get("energy", 0.0)]) * energy, forces * force]
    if atoms.pbc.all() and (not results or "stress" in results):
        stress = settings.stress_weight**0.5 / (3.0 * STRESS_UNIT * n)
        rows.append(columns.virials[k].reshape(9, -1) * stress)
        virial = labelled_stress(atoms, voigt=False) * atoms.get_volume() if results else np.zeros((3, 3))
        labels.append(virial.ravel() * stress)
    return np.concatenate(rows), np.concatenate(labels)
