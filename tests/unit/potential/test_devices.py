"""Nothing mixes devices, as far as that shows without a GPU: on a second device made of host memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest


def run_remotely(*task: str) -> dict[str, Any]:
    """What this task of ``tests/remote_device.py`` prints, in a process of its own."""
    environment = os.environ | {"MLIP_KERNELS": "off", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.remote_device", *task]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, timeout=300, check=False)
    if done.returncode:
        pytest.fail(done.stderr[-3000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_the_device_refuses_what_cuda_refuses() -> None:
    assert run_remotely("mix") == {"device": "remote:0", "error": "aten.add.Tensor: tensors of two devices"}


@pytest.mark.parametrize(
    "kind",
    [
        "one-layer",
        "two-layers",
        pytest.param(
            "mace",
            marks=[
                pytest.mark.mace,
                pytest.mark.skipif(find_spec("mace") is None, reason="mace-torch is not installed here"),
            ],
        ),
    ],
)
def test_training_and_evaluation_stay_on_their_device(kind: str) -> None:
    found = run_remotely("train", kind)
    assert found.pop("device") == "remote:0"
    assert found == {"weights": pytest.approx(0.0, abs=1e-6), "errors": pytest.approx(0.0, abs=1e-4)}


@pytest.mark.skipif(find_spec("torch_sim") is None, reason="TorchSim is not installed here")
def test_torchsim_stays_on_its_device() -> None:
    # On this device all pairs are compared, on the CPU vesin is asked.
    found = run_remotely("simulate")
    assert found == {name: pytest.approx(0.0, abs=1e-9) for name in ("energy", "forces", "stress")}


@pytest.mark.skipif(find_spec("torch_sim") is None, reason="TorchSim is not installed here")
def test_a_step_that_cuda_records_waits_for_nothing() -> None:
    # CUDA refuses to record copies from and to the host, and whatever the host has to decide.
    found = run_remotely("repeat")
    assert found.pop("waits") == []
    assert found.pop("ordinary") > 3
    assert found == {name: pytest.approx(0.0, abs=1e-9) for name in ("energy", "forces")}
