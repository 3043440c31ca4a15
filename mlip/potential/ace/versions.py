"""Potentials written by earlier versions of the code, as today's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mlip.potential.ace.last_layer import LAST_LAYER


def upgrade(description: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and weights of any format in the newest, which gives the same energies."""
    if description["format_version"] == 1:
        description, state = _share_fields(description, state)
    if description["format_version"] < 3:
        state = _absorb_scales(description["size"], state)
    return description, state


def _absorb_scales(size: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Format 2 in format 3: the scales that brought features to unit variance become part of the weights."""
    new = dict(state)
    scale = new.pop("feature_scale")  # [L, S, I]
    wide = scale.transpose(0, 1).flatten(1)[:, None, :, None]
    for name in {"weights.0" if size["hidden"] else "output", "linear"}:
        new[name] = new[name] * wide
    for t in range(1, size["n_layers"]):
        new[f"message.{t - 1}"] = new[f"message.{t - 1}"] * scale[t - 1, :, :, None]
    if LAST_LAYER in new:  # its rows are the last hidden layer's units, then the features
        units = wide if not size["hidden"] else torch.ones(1, 1, size["hidden"][-1], 1).expand(len(wide), -1, -1, -1)
        new[LAST_LAYER] = new[LAST_LAYER] * torch.cat((units, wide), 2)
    return new


def _share_fields(description: dict[str, Any], state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Format 1 in format 2.

    In format 1 every member had fields of its own. Today's members share all fields: the network
    gets the channels of all P members side by side, and each member's perceptron has zeros in
    place of weights on the others' channels. The repulsion began at the shortest distance itself, and
    features were signed roots.
    """
    size = description["size"]
    p, k, n_species = size["n_members"], size["n_channels"], size["n_species"]
    first = "weights.0" if size["hidden"] else "output"
    new = {name: state[name] for name in ("saturation", "shift", "scale")}
    new["mix.0"] = state["mix"].permute(0, 2, 3, 1, 4).flatten(3)  # [S, P, l, C, K] -> [S, l, C, P K]
    new |= {name: state[name][None] for name in ("density_mean", "density_weight")}
    for name in ("invariant_scale", "feature_mean", "feature_scale"):
        new[name] = state[name].unflatten(2, (-1, k)).transpose(1, 2).flatten(1)[None]
    new |= {name: tensor[:, :, 0] for name, tensor in state.items() if name.startswith("biases.")}
    new |= {name: state[name] for name in state if name.startswith("weights.") or name == "output"}
    for name in {first, "linear"}:
        first_weights = state[name].unflatten(2, (-1, k))  # [S, P, F, b] -> [S, P, invariant, K, b]
        wide = torch.zeros(n_species, p, first_weights.shape[2], p, k, first_weights.shape[-1])
        for member in range(p):
            wide[:, member, :, member] = first_weights[:, member]
        new[name] = wide.flatten(2, 4)
    description = description | {
        "size": size | {"n_channels": p * k, "n_layers": 1, "compression": "root"},
        "frame": description["frame"] | {"margin": 1.0},
    }
    return description, new
