"""The optimiser: what its directions do not depend on, and what it keeps of long matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mlip.training.ace.optimizer import LARGEST_SIDE, Soap

STEPS = 30


def train(weight: Tensor, wanted: Tensor, curvature: Tensor) -> tuple[list[float], Tensor, Soap]:
    """Minimise a quadratic whose ``curvature`` [n, n] acts on the rows of ``weight``; losses and the last weight."""
    parameter = nn.Parameter(weight.clone())
    optimizer, losses = Soap({"w": parameter}), []
    for step in range(STEPS):
        error = parameter - wanted
        loss = 0.5 * (error * (curvature @ error)).sum()
        losses.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, parameter)
        optimizer.update({"w": gradient}, 0.03, step)
    return losses, parameter.detach(), optimizer


@pytest.mark.parametrize("n", [6, LARGEST_SIDE + 44])
def test_long_sides_keep_their_axes(n: int) -> None:
    random = torch.Generator().manual_seed(n)
    wanted = torch.randn(1, n, 4, generator=random)
    losses, last, optimizer = train(torch.zeros(1, n, 4), wanted, torch.eye(n))
    assert losses[-1] < 0.5 * losses[0]
    assert ("moment_left/w" in optimizer.state()) == (n <= LARGEST_SIDE)
    assert optimizer.state()["moment_right/w"].shape == (1, 4, 4)
    if n <= LARGEST_SIDE:
        return  # four columns leave six rows' eigenvectors undetermined
    order = torch.randperm(n, generator=random)
    _, permuted, _ = train(torch.zeros(1, n, 4), wanted[:, order], torch.eye(n))
    torch.testing.assert_close(permuted, last[:, order], rtol=1e-3, atol=1e-4)


def test_directions_turn_with_the_axes_of_a_short_side() -> None:
    """Adam would not: its steps depend on the axes. Eigenvectors are those of the first gradient on, in any axes."""
    random = torch.Generator().manual_seed(1)
    wanted = torch.randn(1, 6, 6, generator=random, dtype=torch.float64)
    curvature = torch.diag(torch.logspace(0, 2, 6, dtype=torch.float64))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=random, dtype=torch.float64))[0]
    start = torch.zeros(1, 6, 6, dtype=torch.float64)
    losses, last, _ = train(start, wanted, curvature)
    turned_losses, turned, _ = train(start, turn @ wanted, turn @ curvature @ turn.T)
    assert turned_losses == pytest.approx(losses, rel=1e-2)
    torch.testing.assert_close(turned, turn @ last, rtol=0.0, atol=1e-3)
