"""Checkpoints: one safetensors file, replaced in one rename, with a checksum of its content."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from mlip.io.files import write_atomic


@dataclass(frozen=True)
class Checkpoint:
    """State after ``step`` optimiser steps; ``identity`` names data and settings of the run."""

    step: int
    seconds: float
    identity: str
    history: list[dict[str, Any]]
    tensors: dict[str, Tensor]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace ``path`` by ``checkpoint``."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    state = {
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "identity": checkpoint.identity,
        "history": checkpoint.history,
    }
    metadata = {"state": json.dumps(state), "sha256": _digest(tensors, state)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors, metadata=metadata))


def read_checkpoint(path: Path, identity: str) -> Checkpoint | None:
    """The checkpoint in ``path``; None, with a warning, when it is damaged or of another run."""
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        state = json.loads(header["state"])
        if _digest(tensors, state) != header["sha256"]:
            raise ValueError("its checksum does not match")
        checkpoint = Checkpoint(tensors=tensors, **state)
    except Exception as error:  # a damaged file fails in many ways, all with the same remedy
        warnings.warn(f"checkpoint {path} is damaged ({error}); training starts anew", stacklevel=2)
        return None
    if checkpoint.identity != identity:
        warnings.warn(f"checkpoint {path} belongs to other data or settings; training starts anew", stacklevel=2)
        return None
    return checkpoint


def _digest(tensors: dict[str, Tensor], state: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
