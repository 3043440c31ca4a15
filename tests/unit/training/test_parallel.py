"""Several processes train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from mlip.config.train import Train
from mlip.io.extxyz import read_structures, write_structures
from mlip.training.parallel import SINGLE, Processes, share_settings


def launch(n_processes: int, folder: Path, out: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlip", "train"]
    if n_processes > 1:
        launcher = [
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(n_processes),
            "-m",
            "mlip",
            "train",
        ]
        command = [sys.executable, "-m", *launcher]
    command += [str(folder / "train.extxyz"), "--valid", str(folder / "valid.extxyz"), "--out", str(folder / out)]
    command += ["--settings", str(folder / "settings.json"), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.fixture
def folder(alloys: list[Atoms], settings: Train, tmp_path: Path) -> Path:
    # Structures of different sizes, so that shares of a batch differ in atoms and in structures.
    train = [a.repeat((2, 1, 1)) if k % 3 == 0 else a for k, a in enumerate(alloys[:18])]
    for big, small in zip(train, alloys[:18], strict=True):
        if len(big) != len(small):
            results = small.calc.results
            forces = np.tile(results["forces"], (2, 1))
            from ase.calculators.singlepoint import SinglePointCalculator

            big.calc = SinglePointCalculator(big, energy=2 * results["energy"], forces=forces, stress=results["stress"])
    write_structures(tmp_path / "train.extxyz", train)
    write_structures(tmp_path / "valid.extxyz", alloys[18:])
    quick = settings.model_copy(update={"n_steps": 80, "batch_size": 5, "checkpoint_every": 1})
    (tmp_path / "settings.json").write_text(json.dumps(quick.model_dump(mode="json")))
    return tmp_path


def test_two_processes_train_what_one_does(folder: Path) -> None:
    for n_processes, name in ((1, "one"), (2, "two")):
        done = launch(n_processes, folder, name)
        assert done.returncode == 0, done.stderr[-3000:]
        # Only the first process reports.
        assert done.stdout.count("step=80 ") == 1
        assert done.stdout.count("Potential:") == 1
    results = [json.loads((folder / name / "training.json").read_text()) for name in ("one", "two")]
    # The first entry precedes any update. Later the optimiser, which scales every direction of
    # the gradient alike, makes round-off visible: only what was learnt has to agree.
    first, second = (result["history"][0] for result in results)
    for key in ("energy_rmse", "force_rmse", "virial_rmse"):
        assert second[key] == pytest.approx(first[key], rel=1e-4)
    one, two = (result["train_errors"]["force_rmse"] for result in results)
    assert two == pytest.approx(one, rel=0.3)
    assert not (folder / "two" / "checkpoint").exists()


def test_gradients_of_shares_add_up_to_the_gradient_of_the_batch(folder: Path, settings: Train) -> None:
    from mlip.training.ace.pipeline import prepare_training
    from mlip.training.ace.trainer import Trainer
    from mlip.training.data import resolve_cutoff
    from mlip.training.request import TrainingRequest

    @dataclass(frozen=True)
    class Alone(Processes):
        def sum_(self, tensors: Iterable[torch.Tensor]) -> None:
            """Leave every share by itself."""

    structures = read_structures(folder / "train.extxyz")
    settings = resolve_cutoff(structures, settings, None)
    prepared = prepare_training(TrainingRequest(structures, [], settings, Path(), 0))

    def gradients(processes: Processes) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        trainer = Trainer(prepared.network, prepared.data, settings=settings, seed=0, identity="", processes=processes)
        return trainer._gradients([0, 1, 2, 4, 7], 0.5)

    whole, whole_squares = gradients(SINGLE)
    for size in (2, 3, 8):
        shares = [gradients(Alone(rank, size)) for rank in range(size)]
        for name, expected in whole.items():
            total = sum(share[name] for share, _ in shares)
            torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-9)
        torch.testing.assert_close(sum(squares for _, squares in shares), whole_squares, rtol=1e-4, atol=1e-9)


def test_an_error_ends_every_process_with_its_message(folder: Path) -> None:
    (folder / "train.extxyz").write_text("\n")
    done = launch(2, folder, "out")
    assert done.returncode != 0
    assert "train.extxyz: holds no structures" in done.stderr


def test_shares_are_a_partition() -> None:
    batch = [3, 5, 8, 13, 21]
    shares = [Processes(rank, 3).share(batch) for rank in range(3)]
    assert sorted(k for share in shares for k in share) == batch
    assert [Processes(rank, 8).share(batch) for rank in range(8)].count([]) == 3
    assert SINGLE.share(batch) == batch


def test_weights_of_shares_add_up(settings: Train) -> None:
    rows = [torch.arange(n) for n in (4, 8, 2)]
    first, second = (share_settings(settings, rows, share, [0, 1, 2])[0] for share in ([0, 1], [2]))
    for key in ("force_weight", "energy_weight", "stress_weight"):
        assert getattr(first, key) + getattr(second, key) == pytest.approx(getattr(settings, key))
    assert first.force_weight == pytest.approx(settings.force_weight * 12 / 14)
    assert share_settings(settings, rows, [0, 1, 2], [0, 1, 2])[0] is settings
