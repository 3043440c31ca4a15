"""SOAP: Adam in the eigenbasis of the gradients' second moments, with decoupled weight decay.

For a weight matrix W with gradient G, L = <G G^T> and R = <G^T G> have eigenvectors Q_L, Q_R; Adam
(Kingma and Ba, arXiv:1412.6980) acts on Q_L^T G Q_R (Vyas et al., arXiv:2409.11321). The network's
matrices are small, so that the products cost little beside the loss; on silicon the force error after
27 CPU-s was 5 % below Adam's (3 % at half the learning rate).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MOMENTUM, SECOND, CURVATURE = 0.9, 0.99, 0.95
"""Decay per step of the averages of G, of its rotated square, and of L and R."""
REFRESH = 20
"""Steps between updates of the eigenvectors."""
EARLY = (1, 2, 4, 8)
"""Steps at which they are updated, too, when there is little to go by."""
WEIGHT_DECAY = 0.05
"""Relative to the learning rate. Held-out silicon wants 0.1 (forces 3 % better than at 0.001; 0.5 is too much),
hot acetylacetone 0.03 (6 % better than at 0.1; 0.3 is far too much)."""
SIDES = ("left", "right")
LARGEST_SIDE = 256
"""Longer sides of a matrix keep their axes: rotating 384 features too, a step of acetylacetone takes 1.4 times as long,
and held-out forces after 1000 steps are 3 % better (one seed, tests/benchmarks/try_constants.py)."""
EPSILON = 1e-8


class Soap:
    """State and update of the parameters ``named`` [S, P, ...]; the last two dimensions of weights are a matrix."""

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(named)
        self.first = {name: torch.zeros_like(p) for name, p in named.items()}
        self.second = {name: torch.zeros_like(p) for name, p in named.items()}
        # Of the left and the right side; those without moments keep their axes.
        self.moments: dict[str, dict[str, Tensor]] = {}
        self.bases: dict[str, dict[str, Tensor]] = {}
        for name, p in named.items():
            if is_matrix(p):
                sides = {side: n for side, n in zip(SIDES, p.shape[-2:], strict=True) if n <= LARGEST_SIDE}
                self.moments[name] = {side: p.new_zeros(*p.shape[:-2], n, n) for side, n in sides.items()}
                eyes = {side: torch.eye(n, dtype=p.dtype, device=p.device) for side, n in sides.items()}
                self.bases[name] = {side: eye.repeat(*p.shape[:-2], 1, 1) for side, eye in eyes.items()}

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor], rate: float, step: int) -> None:
        """Take step number ``step`` (from 0) with learning rate ``rate``."""
        for name, parameter in self.parameters.items():
            direction = self._direction(name, gradients[name], step)
            parameter.mul_(1.0 - rate * WEIGHT_DECAY).sub_(direction, alpha=rate)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name; fill them in place to restore it."""
        tensors = {f"first/{n}": t for n, t in self.first.items()} | {f"second/{n}": t for n, t in self.second.items()}
        for kind, tables in (("moment", self.moments), ("basis", self.bases)):
            tensors |= {f"{kind}_{side}/{name}": t for name, sides in tables.items() for side, t in sides.items()}
        return tensors

    def _direction(self, name: str, gradient: Tensor, step: int) -> Tensor:
        first, second = self.first[name].lerp_(gradient, 1.0 - MOMENTUM), self.second[name]
        momentum = first / (1.0 - MOMENTUM ** (step + 1))
        if name in self.bases:
            self._turn_bases(name, gradient, step)
        second.lerp_(self._rotate(name, gradient).square(), 1.0 - SECOND)
        return self._rotate(name, self._rotate(name, momentum) / (self._root(second, step) + EPSILON), back=True)

    def _turn_bases(self, name: str, gradient: Tensor, step: int) -> None:
        """Keep the eigenvectors up to date by one step of orthogonal iteration."""
        for side, moment in self.moments[name].items():
            square = gradient @ gradient.mT if side == "left" else gradient.mT @ gradient
            moment.lerp_(square, 1.0 - CURVATURE)
            basis = self.bases[name][side]
            if step == 0:
                # Of hardly any rank so early, which CUDA's solver is known to fail on in float32.
                exact = moment.double().cpu() if moment.is_cuda else moment
                basis.copy_(torch.linalg.eigh(exact)[1].flip(-1))
            elif step % REFRESH == 0 or step in EARLY:
                turned = torch.linalg.qr(moment @ basis)[0]
                sound = turned.isfinite().flatten(-2).all(-1)[..., None, None]
                basis.copy_(torch.where(sound, turned, basis))

    def _rotate(self, name: str, matrix: Tensor, *, back: bool = False) -> Tensor:
        """``matrix`` in the eigenvectors' axes, or ``back`` from them."""
        bases = self.bases.get(name, {})
        if "left" in bases:
            matrix = (bases["left"] if back else bases["left"].mT) @ matrix
        if "right" in bases:
            matrix = matrix @ (bases["right"].mT if back else bases["right"])
        return matrix

    def _root(self, second: Tensor, step: int) -> Tensor:
        return (second / (1.0 - SECOND ** (step + 1))).sqrt()


def is_matrix(parameter: Tensor) -> bool:
    """Whether the last two dimensions are a matrix, not a vector."""
    return parameter.ndim > 2 and min(parameter.shape[-2:]) > 1
