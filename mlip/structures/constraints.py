"""Fixed atoms chosen by the configuration; those that a file fixes are read by :mod:`mlip.io.constraints`."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from mlip.config.structures import Fixed

LAYER = 0.5
"""Å between the heights of two atoms from which they belong to different layers."""


def choose_movable(atoms: Atoms, fixed: Fixed) -> np.ndarray:
    """``[n_atoms, 3]`` bool: what may move where ``fixed`` says what may not.

    Heights are along the normal of the first two cell vectors (z without a cell). Layers are counted from the bottom,
    which in a cell that is periodic along the third vector is above the widest gap.

    Raises:
        ValueError: for an index that no atom has, more layers than there are, or nothing below.
    """
    movable = np.ones((len(atoms), 3), dtype=bool)
    if fixed.indices is not None:
        wrong = [index for index in fixed.indices if not 0 <= index < len(atoms)]
        if wrong:
            raise ValueError(f"fixed.indices: no atom {wrong[0]}; the {len(atoms)} atoms are counted from 0")
        movable[list(fixed.indices)] = False
        return movable
    normal = np.cross(atoms.cell[0], atoms.cell[1])
    length = float(np.linalg.norm(normal))
    heights = atoms.positions @ (normal / length) if length > 0 else atoms.positions[:, 2]
    if fixed.below is not None:
        if not np.any(heights < fixed.below):
            raise ValueError(f"fixed.below: no atom lies below {fixed.below} Å; the lowest is at {heights.min():.2f} Å")
        movable[heights < fixed.below] = False
        return movable
    period = float(atoms.get_volume() / length) if atoms.pbc[2] and length > 0 else None
    layers = _layers(heights, period)
    if fixed.layers is not None and fixed.layers > layers.max() + 1:
        raise ValueError(f"fixed.layers: {fixed.layers} of {layers.max() + 1} layers; fix fewer")
    movable[layers < (fixed.layers or 0)] = False
    return movable


def _layers(heights: np.ndarray, period: float | None) -> np.ndarray:
    """Number of each atom's layer, from the bottom."""
    if period is not None:
        heights = heights % period
        ordered = np.sort(heights)
        gaps = np.diff(np.append(ordered, ordered[0] + period))
        bottom = ordered[(int(gaps.argmax()) + 1) % len(ordered)]
        heights = (heights - bottom + 1e-6) % period
    order = np.argsort(heights, kind="stable")
    layers = np.empty(len(heights), dtype=int)
    layers[order] = np.concatenate([[0], np.cumsum(np.diff(heights[order]) > LAYER)])
    return layers
