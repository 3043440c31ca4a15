"""Devices of a job: what its resources ask for and what the machine has."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any


def count_gpus(resources: Mapping[str, Any]) -> int:
    """GPUs of a job: its resource ``gpus`` or ``gpu``, or Slurm's ``gres``, as in ``gpu:4`` or ``gpu:a100:4``."""
    for name in ("gpus", "gpu"):
        if resources.get(name):
            return int(resources[name])
    gpus = re.search(r"\bgpu(?::[A-Za-z][\w.-]*)?(?::(\d+))?", str(resources.get("gres") or ""))
    return int(gpus.group(1) or 1) if gpus else 0


def pick_device() -> str:
    """``cuda`` where torch finds a GPU, else ``cpu``; ``MLIP_DEVICE`` overrides."""
    import torch

    return os.environ.get("MLIP_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
