"""A small linear model, fitted to forces alone in a second, whose energies and virials judge the labels.

Per centre species z and neighbour species s, on the density A of :mod:`mlip.potential.ace.network`,

    E_i = sum_{s,n} c_z,sn A_i[s,n,00] + sum_{s,n,l} d_z,snl sum_m A_i[s,n,lm]^2,

a pair potential, an embedding and the diagonal three-body terms. Forces fix c and d by a convex
problem without any energy or stress: what they imply for energies and virials can then be held
against the labels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlip.potential.ace.basis import tangential
from mlip.potential.ace.environments import Environments
from mlip.statistics import cut_in_two, deviation
from mlip.training.densities import Dataset, take_batch

CHUNK_ATOMS = 600
"""Atoms whose edge features are held at once."""
RIDGE = 1e-7
MIN_FORCE = 1e-5
"""Typical force component below which there is nothing to learn from, in whatever unit."""
HINT = 4.0
"""Deviations by which slopes of two groups are apart that are worth another fit; halves of one are 2.7 apart."""
FAINT = 0.01
"""Share of the typical force of the model below which a structure has none to compare: one at rest by symmetry."""
HEAVY = 4.0
"""Forces beyond this many times the typical one lose weight: the violent few must not rule the fit."""


@dataclass(frozen=True)
class Implied:
    """What a model fitted to forces says of a set of structures, beside the labels.

    Attributes:
        energies, labels: eV, [n].
        virials, virial_labels: dE/dstrain, eV, [n, 3, 3].
        forces: eV/Å, of each structure [n_atoms, 3], its atoms ordered by element, and as given among those of one.
        force_misfit: RMS error over the structure's RMS force, or over the typical one where that
            is larger, [n].
        force_slopes: of the labelled forces on the model's, [n]; NaN where there is no force.
        skill: share of the variance of held-out forces that the model explains.
        open_energies: what the forces leave open of the energies per atom, [n, q]: combinations of them in the order
            of their uncertainty, each as large as that, eV.
        fingerprints: mean features, [n, F].
        chosen: index of each structure, [n].
    """

    energies: np.ndarray
    labels: np.ndarray
    virials: np.ndarray
    virial_labels: np.ndarray
    forces: list[np.ndarray]
    force_misfit: np.ndarray
    force_slopes: np.ndarray
    skill: float
    open_energies: np.ndarray
    fingerprints: np.ndarray
    chosen: np.ndarray


def imply_labels(data: Dataset, n_species: int, max_atoms: int) -> Implied:
    """Fit the linear model to the forces of (at most ``max_atoms`` atoms of) ``data``."""
    stride = 1 + int(data.sizes.sum()) // max_atoms
    chosen = np.arange(len(data.rows))[::stride]
    designs, targets, sums, virials = [], [], [], []
    # Forces are linear in the coefficients, too: each structure gives three rows an atom.
    for part in _parts(chosen, data.sizes.cpu().numpy()):
        weights = torch.ones(1, len(data.rows), device=data.sizes.device)
        batch = take_batch(data, part.tolist(), weights, n_species)
        features = _features(batch.environments, batch.density.transpose(0, 1), len(part), n_species)
        order = torch.argsort(batch.environments.structure, stable=True)
        designs.append(features[0][order].double().cpu().numpy())
        targets.append(batch.forces[order].double().cpu().numpy())
        sums.append(features[1].double().cpu().numpy())
        virials.append(features[2].double().cpu().numpy())
    design, forces = np.concatenate(designs), np.concatenate(targets)
    structure = np.repeat(np.arange(len(chosen)), data.sizes.cpu().numpy()[chosen].astype(int))
    coefficients, uncertain = _fit_uncertain(design, forces)
    # Fitted to every other structure, tested on the rest: a model that only memorises has no skill.
    half = structure % 2 == 0
    skill = _skill(design[~half] @ _fit(design[half], forces[half]), forces[~half]) if len(chosen) > 1 else 0.0
    errors, squares = ((design @ coefficients - forces) ** 2).mean(1), (forces**2).mean(1)
    error, square = (np.bincount(structure, v) / np.bincount(structure) for v in (errors, squares))
    misfit = np.sqrt(error / np.maximum(square, max(float(np.median(squares)), 1e-18)))
    predicted, total = design @ coefficients, np.concatenate(sums)
    fingerprints = total / data.sizes.cpu().numpy()[chosen][:, None]
    return Implied(
        energies=total @ coefficients,
        labels=data.energies.double().cpu().numpy()[chosen],
        virials=np.einsum("kabf,f->kab", np.concatenate(virials), coefficients),
        virial_labels=data.virials.double().cpu().numpy()[chosen],
        forces=np.split(predicted, np.cumsum(np.bincount(structure))[:-1]),
        force_misfit=misfit,
        force_slopes=_force_slopes(design, forces, predicted, structure),
        skill=skill,
        open_energies=fingerprints @ uncertain,
        fingerprints=fingerprints,
        chosen=chosen,
    )


def _parts(chosen: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    block = np.cumsum(sizes[chosen]) // CHUNK_ATOMS
    return [chosen[block == b] for b in np.unique(block)]


def _force_slopes(design: np.ndarray, forces: np.ndarray, predicted: np.ndarray, structure: np.ndarray) -> np.ndarray:
    """Slope [n] of each structure's labelled forces on the model's ``predicted``; NaN where there are none.

    Where the slopes are of two groups, the model is between them, nearer to whatever each structure tells by itself:
    then it is fitted once more to forces that the groups' mean slopes divide.
    """
    slopes = _slopes(forces, predicted, structure)
    for _ in range(2):
        known = np.isfinite(slopes)
        upper = np.zeros(len(slopes), dtype=bool)
        if known.any() and (slopes[known] > 0).all():
            upper[known] = cut_in_two(slopes[known])
        groups = [group for group in (known & ~upper, upper) if group.any()]
        widths, means = [deviation(slopes[group]) for group in groups], [float(np.median(slopes[g])) for g in groups]
        if len(means) < 2 or means[1] - means[0] < HINT * max(widths):
            break
        factors = np.array(means)[upper.astype(int)][structure]
        slopes = _slopes(forces, design @ _fit(design, forces / factors[:, None]), structure)
    return slopes


def _slopes(forces: np.ndarray, predicted: np.ndarray, structure: np.ndarray) -> np.ndarray:
    products, norms = (np.bincount(structure, (predicted * v).sum(1)) for v in (forces, predicted))
    typical = norms / np.bincount(structure)
    faint = typical <= max(FAINT**2 * float(np.median(typical)), 1e-300)
    return np.where(faint, np.nan, products / np.where(faint, 1.0, norms))


def _fit(design: np.ndarray, forces: np.ndarray) -> np.ndarray:
    """Coefficients [F] of a weighted ridge regression of forces [N, 3] on the design [N, 3, F]."""
    return _fit_uncertain(design, forces)[0]


def _fit_uncertain(design: np.ndarray, forces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [F], and directions [F, F] of them that forces do not tell, each one standard deviation long.

    The covariance of ridge regression: the variance of what is left of the forces, times the inverse of the Gram
    matrix (C. M. Bishop, Pattern Recognition and Machine Learning (2006), section 3.3).
    """
    norm = np.linalg.norm(forces, axis=1)
    weight = 1.0 / np.maximum(1.0, norm / max(HEAVY * float(np.median(norm)), 1e-9))
    rows = (design * weight[:, None, None]).reshape(-1, design.shape[-1])
    # Features of unit size, so that one ridge suits all of them.
    scale = np.maximum(np.sqrt((rows**2).mean(0)), 1e-12)
    rows = rows / scale
    gram = rows.T @ rows
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram) + 1e-12
    values = (forces * weight[:, None]).ravel()
    coefficients = np.linalg.solve(gram, rows.T @ values)
    stiffness, directions = np.linalg.eigh(gram)
    left = float(np.mean((rows @ coefficients - values) ** 2)) ** 0.5
    return coefficients / scale, directions / np.sqrt(np.maximum(stiffness, 1e-12)) * left / scale[:, None]


def _skill(predicted: np.ndarray, forces: np.ndarray) -> float:
    """1 - median square error over median square: a robust coefficient of determination; 0 without forces."""
    typical = float(np.median(forces**2))
    return 1.0 - float(np.median((predicted - forces) ** 2)) / typical if typical > MIN_FORCE**2 else 0.0


@torch.no_grad()
def _features(env: Environments, density: Tensor, n: int, n_species: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every feature: forces [N, 3, F], sums per structure [n, F], dE/dstrain [n, 3, 3, F]."""
    n_rows, n_radial, n_angular = len(env.species), env.radial.shape[1], env.angular.shape[1]
    l_max = round(n_angular**0.5) - 1
    width = n_radial * (l_max + 2)
    n_features = n_species * n_species * width
    forces = density.new_zeros((n_rows, 3, n_features))
    sums = density.new_zeros((n, n_features))
    virials = density.new_zeros((n, 3, 3, n_features))
    for (z, (a, b)), (s, (u, v)) in itertools.product(
        enumerate(itertools.pairwise(env.groups)), enumerate(itertools.pairwise(env.slots))
    ):
        if a == b or u == v:
            continue
        block = slice((z * n_species + s) * width, (z * n_species + s + 1) * width)
        density_block = density[:, a:b, s * n_radial : (s + 1) * n_radial]
        # Power spectrum of each degree: the sum over its orders is invariant under rotation.
        power = torch.stack([density_block[d * d : (d + 1) ** 2].square().sum(0) for d in range(l_max + 1)], -1)
        atomic = torch.cat((density_block[0], power.flatten(1)), 1)
        sums[:, block].index_add_(0, env.structure[a:b], atomic)
        edges = _edge_features(env, density_block, slice(a, b), slice(u, v), l_max)
        forces[a:b, :, block] += edges.sum(1)
        # A pair's derivative acts on both its atoms, in opposite directions.
        flat = edges.reshape(-1, 3, width)
        forces[:, :, block] = forces[:, :, block].index_add(0, env.neighbors[a:b, u:v].reshape(-1), flat, alpha=-1.0)
        vectors = (env.direction[a:b, :, u:v] * env.distance[a:b, None, u:v]).mT
        strain = torch.einsum("nmxf,nmy->nxyf", edges, vectors)
        symmetric = 0.5 * (strain + strain.transpose(1, 2))  # a rotation changes no energy
        virials[..., block] = virials[..., block].index_add(0, env.structure[a:b], symmetric)
    return forces, sums, virials


def _edge_features(env: Environments, density: Tensor, rows: slice, slots: slice, l_max: int) -> Tensor:
    """Derivatives [n, m, 3, F] of the features of atoms ``rows`` with respect to the vectors in ``slots``."""
    radial, slope = env.radial[rows, :, slots].mT, env.radial_slope[rows, :, slots].mT
    angular, direction = env.angular[rows, :, slots].mT, env.direction[rows, :, slots].mT
    tangent = tangential(env.direction[rows, :, slots], env.angular_slope[rows, ..., slots]).permute(0, 3, 1, 2)
    tangent = tangent / env.distance[rows, slots, None, None]
    parts = [_derivative(radial, slope, direction, angular[..., :1], tangent[..., :1], torch.ones_like(density[:1]))]
    powers = []
    for degree in range(l_max + 1):
        m = slice(degree * degree, (degree + 1) ** 2)
        powers.append(2.0 * _derivative(radial, slope, direction, angular[..., m], tangent[..., m], density[m]))
    parts.append(torch.stack(powers, -1).flatten(3))
    return torch.cat(parts, -1)


def _derivative(
    radial: Tensor, slope: Tensor, direction: Tensor, angular: Tensor, tangent: Tensor, factor: Tensor
) -> Tensor:
    """sum_m factor[m, i, n] d(B_n Y_m)/dr_ij, [n, m, 3, n_radial]."""
    along = slope * torch.einsum("ijm,min->ijn", angular, factor)
    across = torch.einsum("ijxm,min->ijxn", tangent, factor)
    return direction[..., None] * along[:, :, None] + radial[:, :, None] * across
