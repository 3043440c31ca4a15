"""What optimisations of all backends share: clock, averaged weights, history and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from mlip.config.train import Train
from mlip.training.parallel import Processes
from mlip.training.schedule import Schedule, WeightAverage, find_turn


@dataclass
class Counter(Schedule):
    """A weight that grows by one every step, on ``device``; its error is ``error``."""

    device: str = "cpu"
    error: float = 1.0
    best_at: float | None = None
    """The step at which validation errors are least."""

    rate_key: ClassVar[str] = "train.some_rate"

    def __post_init__(self) -> None:
        self.weight = torch.zeros(1)
        self.fractions: list[float] = []
        self.average = WeightAverage({"weight": self.weight}, 0.5)

    def _device(self) -> torch.device:
        return torch.device(self.device)

    def _averages(self) -> list[WeightAverage]:
        return [self.average]

    def _state(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "average": self.average.weights["weight"]}

    def _validate(self) -> dict[str, float]:
        return {} if self.best_at is None else {"valid_force_rmse": 1.0 + abs(self.step - self.best_at)}

    def _advance(self, fraction: float) -> Tensor:
        self.fractions.append(fraction)
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


def test_a_training_turns_to_its_end_when_validation_errors_rise() -> None:
    counter = Counter(settings=Train(n_steps=20_000, checkpoint_every=100), seed=0, identity="", best_at=3000)
    counter.run()
    turn = find_turn(counter.history)
    assert turn is not None
    assert turn["step"] == 4500  # half as long again as the best took
    assert counter.step == 6750  # ... and half of that for the end
    steps = np.diff(counter.fractions)
    np.testing.assert_allclose(steps[:4499], 1 / 20_000, rtol=1e-6)
    np.testing.assert_allclose(steps[4500:], (1.0 - 4500 / 20_000) / 2250, rtol=1e-6)


@pytest.mark.parametrize(
    ("best_at", "n_steps", "settings"),
    [
        (5000, 5000, {}),  # they never rise
        (3000, 5000, {}),  # they rise when little is left
        (100, 1000, {}),  # too few steps
        (None, 5000, {}),  # nothing to validate on
        (500, 5000, {"early_stopping": False}),
    ],
)
def test_else_it_runs_as_planned(best_at: float | None, n_steps: int, settings: dict[str, Any]) -> None:
    train = Train(n_steps=n_steps, checkpoint_every=100, **settings)
    counter = Counter(settings=train, seed=0, identity="", best_at=best_at)
    counter.run()
    assert counter.step == n_steps
    np.testing.assert_allclose(np.diff(counter.fractions), 1.0 / n_steps, rtol=1e-6)


def test_a_training_by_time_turns_to_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(50_000))
    monkeypatch.setattr(time, "process_time", lambda: float(next(ticks)))
    settings = Train(checkpoint_every=100)
    counter = Counter(settings=settings, seed=0, identity="", best_at=3000, max_seconds=20_000.0)
    counter.run()
    assert counter.step == 6750


def test_a_run_stopped_after_its_turn_ends_like_one_that_was_not(tmp_path: Path) -> None:
    settings, path = Train(n_steps=20_000, checkpoint_every=100), tmp_path / "checkpoint"
    whole = Counter(settings=settings, seed=0, identity="a", best_at=1000)
    whole.run()
    assert 3000 <= whole.step <= 3001

    def stop(entry: dict[str, object]) -> None:
        if entry["step"] == 2500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Counter(settings=settings, seed=0, identity="a", checkpoint=path, progress=stop, best_at=1000).run()
    rest = Counter(settings=settings, seed=0, identity="a", checkpoint=path, best_at=1000)
    rest.run()
    assert rest.fractions == whole.fractions[2400:]
    assert torch.equal(rest.weight, whole.weight)


@dataclass(frozen=True)
class Rehearsed(Processes):
    """One of two processes; the second gets from ``values`` what the first agreed on before."""

    values: list[float] = field(default_factory=list)

    def agree(self, value: float, device: torch.device | str) -> float:
        if not self.first:
            return self.values.pop(0)
        self.values.append(value)
        return value

    def copy_(self, tensors: Iterable[Tensor]) -> None:
        """Weights do not matter here."""


def test_processes_without_the_checkpoint_turn_with_the_first(tmp_path: Path) -> None:
    settings, path = Train(n_steps=20_000, checkpoint_every=100), tmp_path / "checkpoint"

    def stop(entry: dict[str, object]) -> None:
        if entry["step"] == 2500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Counter(settings=settings, seed=0, identity="a", checkpoint=path, progress=stop, best_at=1000).run()
    values: list[float] = []
    fractions = []
    for rank in range(2):
        processes = Rehearsed(rank, 2, values)
        counter = Counter(settings=settings, seed=0, identity="a", checkpoint=path, best_at=1000, processes=processes)
        counter.run()
        fractions.append(counter.fractions)
    assert fractions[1] == fractions[0]
    assert not values


def test_a_plateau_is_no_turn_before_its_time() -> None:
    def turn(errors: Sequence[float]) -> int | None:
        found = find_turn([{"step": 100 * (k + 1), "valid_force_rmse": e} for k, e in enumerate(errors)])
        return None if found is None else found["step"]

    assert turn([5, *[4] * 10]) is None
    assert turn([5, *[4] * 11]) == 1200
    assert turn([float("nan"), *[4] * 11]) == 1200
    assert turn([5, *[4] * 10, 3.9, *[4] * 9]) is None
    assert turn([*range(40, 10, -1), *[30] * 14]) is None
    assert turn([*range(40, 10, -1), *[30] * 15]) == 4500
