"""From edges to atoms and back: densities and messages, forces and virials.

Arrays keep the neighbour slots M last, so that sums over basis functions run over contiguous memory.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from mlip.potential.ace import kernels
from mlip.potential.ace.environments import Environments


def compute_density(environments: Environments) -> Tensor:
    """Density A [N, LM, S*n_radial] of every atom."""
    parts = [
        torch.bmm(environments.angular[..., a:b], environments.radial[..., a:b].mT)
        for a, b in itertools.pairwise(environments.slots)
    ]
    return torch.cat(parts, -1)


def contract_edges(environments: Environments, gradient: Tensor) -> Tensor:
    """dE_i/dr_ij [N, P, 3, M] from G = dE/dA [P, LM, N, S*n_radial]."""
    n_radial = environments.radial.shape[1]
    arrays = environments.edge_arrays()
    if kernels.usable(None, None, gradient) and not any(t.requires_grad for t in arrays):
        edges: Tensor = kernels.ContractEdges.apply(gradient, environments.slots, environments.shared, *arrays)
        return edges
    g = _rows_first(gradient)
    across, along = [], []
    for s, (a, b) in enumerate(itertools.pairwise(environments.slots)):
        block = g[..., s * n_radial : (s + 1) * n_radial]
        across.append(torch.bmm(block, environments.radial[..., a:b]))
        along.append(torch.bmm(block, environments.radial_slope[..., a:b]))
    return _combine(environments, torch.cat(across, -1), torch.cat(along, -1), len(gradient))


def gather_messages(environments: Environments, radial: Tensor, messages: Tensor) -> Tensor:
    """A' [LM, N, K] of messages h [N, K] with radial functions [N, K, M]."""
    weighted = radial * _arriving(environments, messages)
    return torch.bmm(environments.angular, weighted.mT).transpose(0, 1)


def contract_messages(
    environments: Environments, gradient: Tensor, messages: Tensor, radial: Tensor, radial_slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Derivatives of :func:`gather_messages`, from dE/dA' [P, LM, N, K].

    Returns dE_i/dr_ij [N, P, 3, M] and dE/dh [P, N, K].
    """
    n_members, _, n_rows, n_channels = gradient.shape
    g = _rows_first(gradient)
    arriving = _arriving(environments, messages)
    across, along = torch.bmm(g, radial * arriving), torch.bmm(g, radial_slope * arriving)
    back = torch.matmul(g.view(n_rows, n_members, -1, n_channels).mT, environments.angular[:, None]) * radial[:, None]
    flat = back.permute(0, 3, 1, 2).flatten(0, 1).flatten(1)
    total = flat.new_zeros(n_rows, flat.shape[1]).index_add(0, environments.neighbors.reshape(-1), flat)
    d_messages = total.view(n_rows, n_members, n_channels).transpose(0, 1)
    return _combine(environments, across, along, n_members), d_messages


def _arriving(environments: Environments, messages: Tensor) -> Tensor:
    """Messages [N, K, M] of the neighbours."""
    flat = messages.index_select(0, environments.neighbors.reshape(-1))
    return flat.view(*environments.neighbors.shape, -1).transpose(1, 2)


def _rows_first(gradient: Tensor) -> Tensor:
    """[N, P*LM, C] from [P, LM, N, C]."""
    return gradient.permute(2, 0, 1, 3).flatten(1, 2)


def _combine(environments: Environments, across: Tensor, along: Tensor, n_members: int) -> Tensor:
    """[N, P, 3, M] from the factors [N, P*LM, M] of dY/dr and of Y times the direction."""
    shape = (across.shape[0], n_members, -1, across.shape[-1])
    across, slopes = across.view(shape), environments.angular_slope
    direction, distance = environments.direction[:, None], environments.distance[:, None, None]
    radial = (along.view(shape) * environments.angular[:, None]).sum(2, keepdim=True)
    # One axis at a time: arrays three times as large leave the cache.
    full = torch.stack([(across * slopes[:, k, None]).sum(2) for k in range(3)], 2)
    return full / distance + direction * (radial - (full * direction).sum(2, keepdim=True) / distance)


def sum_edges(environments: Environments, edges: Tensor, n_structures: int) -> tuple[Tensor, Tensor]:
    """Forces [N, P, 3] and virials [n_structures, P, 3, 3] from dE_i/dr_ij [N, P, 3, M]."""
    if kernels.usable(None, None, edges):
        geometry = (environments.neighbors, environments.structure, environments.direction, environments.distance)
        forces, virials = kernels.SumEdges.apply(edges, n_structures, *geometry)
        return forces, virials
    return sum_forces(environments, edges), sum_virials(environments, edges, n_structures)


def sum_forces(environments: Environments, edges: Tensor) -> Tensor:
    """Forces [N, P, 3] from dE_i/dr_ij [N, P, 3, M]: each edge pulls on both of its atoms."""
    n_rows, n_members = edges.shape[:2]
    # One row a component: with the edges' components in rows the sum takes three times as long.
    flat = edges.permute(1, 2, 0, 3).reshape(n_members * 3, -1)
    place = environments.neighbors.reshape(1, -1).expand(n_members * 3, -1)
    pushed = flat.new_zeros(n_members * 3, n_rows).scatter_add(1, place, flat)
    return edges.sum(-1) - pushed.T.unflatten(1, (n_members, 3))


def sum_virials(environments: Environments, edges: Tensor, n_structures: int) -> Tensor:
    """dE/d(strain) [n_structures, P, 3, 3] (eV) from dE_i/dr_ij [N, P, 3, M]."""
    n_rows, n_members = edges.shape[:2]
    vectors = environments.direction * environments.distance[:, None]
    atomic = torch.bmm(edges.reshape(n_rows, -1, edges.shape[-1]), vectors.mT)
    total = atomic.new_zeros((n_structures, n_members * 3, 3)).index_add(0, environments.structure, atomic)
    total = total.view(n_structures, n_members, 3, 3)
    return 0.5 * (total + total.mT)
