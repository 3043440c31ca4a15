"""What optimisations of all backends share: clock, averaged weights, history and checkpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from mlip.config import Train
from mlip.training.schedule import Schedule, WeightAverage


@dataclass
class Counter(Schedule):
    """A weight that grows by one every step, on ``device``; its error is ``error``."""

    device: str = "cpu"
    error: float = 1.0

    rate_key: ClassVar[str] = "train.some_rate"

    def __post_init__(self) -> None:
        self.weight = torch.zeros(1)
        self.average = WeightAverage({"weight": self.weight}, 0.5)

    def _device(self) -> torch.device:
        return torch.device(self.device)

    def _averages(self) -> list[WeightAverage]:
        return [self.average]

    def _state(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "average": self.average.weights["weight"]}

    def _advance(self, fraction: float) -> Tensor:
        self.weight += 1.0
        self.average.update(self.step)
        return torch.full((3,), self.error)


@pytest.mark.parametrize(("device", "own", "other"), [("cpu", "process_time", "perf_counter"),
                                                      ("cuda", "perf_counter", "process_time")])  # fmt: skip
def test_the_budget_is_cpu_time_on_a_cpu(monkeypatch: pytest.MonkeyPatch, device: str, own: str, other: str) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(time, own, lambda: float(next(ticks)))
    monkeypatch.setattr(time, other, lambda: pytest.fail(f"{other} was asked on {device}"))
    counter = Counter(settings=Train(n_steps=3), seed=0, identity="", max_seconds=7.0, device=device)
    counter.run()
    assert (counter.step, counter.seconds) == (7, 7.0)


def test_a_stopped_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    settings, path = Train(n_steps=10, checkpoint_every=2), tmp_path / "checkpoint"
    whole = Counter(settings=settings, seed=0, identity="a")
    whole.run()

    def stop(entry: dict[str, object]) -> None:
        if entry["step"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Counter(settings=settings, seed=0, identity="a", checkpoint=path, progress=stop).run()
    steps: list[object] = []
    rest = Counter(
        settings=settings, seed=0, identity="a", checkpoint=path, progress=lambda entry: steps.append(entry["step"])
    )
    rest.run()
    assert steps == [6, 8, 10]
    assert [entry["step"] for entry in rest.history] == [entry["step"] for entry in whole.history]
    assert torch.equal(rest.weight, whole.weight)
    assert 5.0 < float(whole.weight) < 10.0  # an average: neither the last weight nor the mean of all


def test_divergence_names_the_setting_to_lower() -> None:
    counter = Counter(settings=Train(n_steps=4), seed=5, identity="", error=float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 4 \(seed 5\); lower train\.some_rate"):
        counter.run()
