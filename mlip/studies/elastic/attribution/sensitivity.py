"""How strongly an elastic constant depends on each group of the network's parameters."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from ase import units

from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.edges import compute_density
from mlip.potential.ace.environments import build_environments
from mlip.properties.elastic.constants import Elasticity, IonState, powers_of
from mlip.properties.elastic.strains import energy_rows, polynomial_term


def parameter_sensitivity(elasticity: Elasticity, potential: ACEPotential, state: IonState = "clamped") -> xr.Dataset:
    """|theta dC/dtheta| (GPa) of every constant and group of parameters, root of the sum of squares.

    Groups are the mixing weights of each angular momentum (``mix l=...``) and of each radial function
    (``mix n=...``), messages, hidden layers, output and linear readout. A constant that leans on the highest l
    or n there is asks for more of them. At the positions of ``elasticity``; by energy.
    """
    samples = elasticity.samples[state]
    frames = [atoms for path in samples for atoms in path.frames]
    environments = build_environments(frames, potential.basis).to(potential.device, torch.float64)
    network = potential.network.double()
    parameters = dict(network.named_parameters())
    for p in parameters.values():
        p.requires_grad_(True)
    try:
        atomic, _ = network(environments, compute_density(environments), members=False)
        mean = atomic.energies.mean(0)
        energies = mean.new_zeros(len(frames)).index_add(0, environments.structure, mean)
        weights = _energy_weights(elasticity, state)
        rows = []
        for weight in weights:
            total = (energies * torch.from_numpy(weight).to(energies)).sum()
            gradients = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
            rows.append(_groups(parameters, gradients, potential.size.n_radial))
    finally:
        network.requires_grad_(False)
    names = list(rows[0])
    values = np.array([[row[name] for name in names] for row in rows])
    return xr.Dataset(
        {"sensitivity": (("constant", "group"), values, {"units": "GPa", "long_name": f"|theta dC/dtheta|, {state}"})},
        {"constant": list(elasticity.basis.names), "group": names},
    )


def _energy_weights(elasticity: Elasticity, state: IonState) -> np.ndarray:
    """C = weights [n_constants, n_frames] times the energies of all frames."""
    samples, volume = elasticity.samples[state], elasticity.crystal.get_volume()
    inverse = np.linalg.pinv(energy_rows(elasticity.basis, [path.path for path in samples]))
    blocks = []
    for k, path in enumerate(samples):
        n = len(path.amplitudes)
        curvature = polynomial_term(path.amplitudes, np.eye(n), powers_of(path.path, path.amplitudes), 2)[0]
        blocks.append(np.outer(inverse[:, k], 2 * curvature / volume / units.GPa))
    return np.concatenate(blocks, 1)


def _groups(
    parameters: dict[str, torch.nn.Parameter], gradients: tuple[torch.Tensor | None, ...], n_radial: int
) -> dict[str, float]:
    norms: dict[str, float] = {}

    def add(name: str, values: torch.Tensor) -> None:
        norms[name] = float(np.hypot(norms.get(name, 0.0), float(values.norm())))

    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None:
            continue
        product = (parameter * gradient).detach()
        if name == "mix.0":  # [S, l, species and radial functions, K]
            for degree in range(product.shape[1]):
                add(f"mix l={degree}", product[:, degree])
            for n in range(n_radial):
                add(f"mix n={n}", product[:, :, n::n_radial])
        else:
            add({"weights": "hidden", "biases": "hidden"}.get(name.split(".")[0], name.split(".")[0]), product)
    return norms
