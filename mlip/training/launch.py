"""Training on several GPUs: one process each, started by torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlip.config.train import Train


def training_command(
    n_processes: int,
    train: Path,
    valid: Path,
    settings: Path,
    out: Path,
    *,
    seed: int,
    device: str,
    isolated: Path | None = None,
    previous: Path | None = None,
    audits: Path | None = None,
) -> list[str]:
    """Command line that trains with ``n_processes`` processes of this machine; ``settings``, ``isolated``: JSON."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command += ["-m", "mlip", "train", str(train), "--valid", str(valid), "--out", str(out), "--seed", str(seed)]
    command += ["--settings", str(settings), "--device", device, "--progress", str(out / "training.progress.json")]
    for name, path in (("--isolated", isolated), ("--previous", previous), ("--audits", audits)):
        command += [name, str(path)] if path is not None else []
    return command


def train_with_processes(
    n_processes: int, train: Path, valid: Path, settings: Train, out: Path, **options: Any
) -> None:
    """Run :func:`training_command` with ``settings``; results as from :mod:`mlip.loop.train_committee`.

    Raises:
        RuntimeError: when training failed; its messages are on the standard error before.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / "settings.json"
    file.write_text(json.dumps(settings.model_dump(mode="json")), encoding="utf-8")
    command = training_command(n_processes, train, valid, file, out, **options)
    done = subprocess.run(command, check=False)
    file.unlink()
    if done.returncode:
        raise RuntimeError(f"training with {n_processes} processes failed (status {done.returncode}); see above")
