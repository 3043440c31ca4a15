"""Potentials on disk: ``potential.safetensors`` and ``potential.json``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from mlip.config.backends import BACKENDS, import_function
from mlip.io.files import FileContentError, read_json, write_atomic, write_json
from mlip.potential.interface import Potential, PotentialFileError, Precision
from mlip.potential.memory import keep_freed_memory

if TYPE_CHECKING:
    from torch import Tensor


FORMAT_VERSION = 4
"""Earlier ones are read, too: :mod:`mlip.potential.ace.versions`."""
WITHOUT_CONTINUATION = 3
"""Of files that hold none (:mod:`mlip.potential.continuation`): earlier versions of the code read those as well."""
WEIGHTS, DESCRIPTION = "potential.safetensors", "potential.json"


def write_files(
    potential: Potential,
    folder: Path,
    tensors: dict[str, Tensor],
    settings: dict[str, Any],
    version: int = WITHOUT_CONTINUATION,
) -> None:
    """Write the weights, then the description with their checksum, each in one rename.

    ``settings`` is what only this backend's description holds, ``version`` that of the format.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    description = {
        "format_version": version,
        "backend": potential.backend,
        "species": list(potential.species),
        "cutoff": potential.cutoff,
        **settings,
        "calibration": potential.calibration.to_json(),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "probe_energies": _probe_energies(potential),
    }
    write_atomic(folder / WEIGHTS, weights)
    write_json(folder / DESCRIPTION, description, checked=True)


def _probe_energies(potential: Potential) -> list[float]:
    """Energies (eV) of every member for a small made-up cluster of all species."""
    numbers = [symbol for symbol in potential.species for _ in range(2)] * 2
    spiral = [(1.3 * np.cos(1.9 * k), 1.3 * np.sin(1.9 * k), 0.9 * k) for k in range(len(numbers))]
    probe = Atoms(numbers, positions=spiral)
    return [float(e) for e in potential.in_precision("double").predict([probe])[0].energy_members]


def _check_probe(potential: Potential, description: dict[str, Any], folder: Path) -> None:
    """Refuse weights that this version of the code would evaluate differently from the one that wrote them."""
    stored, now = description["probe_energies"], _probe_energies(potential)
    if not np.allclose(stored, now, rtol=1e-4, atol=1e-3):
        raise PotentialFileError(
            f"{folder}: written by an incompatible version of the code: it gives {now} eV for a test cluster where "
            f"{stored} eV were stored. Use the version that trained it, or repeat the training"
        )


def load_potential(folder: str | Path, device: str = "cpu", precision: Precision = "double") -> Potential:
    """The potential that ``folder`` holds, on ``device``, evaluated in ``precision`` where the backend has a choice.

    Raises:
        PotentialFileError: when files are missing, truncated, altered or of an unknown version.
    """
    import torch
    from safetensors import SafetensorError

    keep_freed_memory()
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION)
    weights = _read_bytes(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != description.get("sha256"):
        raise PotentialFileError(
            f"{folder / WEIGHTS}: content does not match the checksum in {DESCRIPTION}; the file is truncated, damaged "
            "or belongs to another potential. Copy both files again or repeat the training"
        )
    try:
        potential = _load_backend(description, weights, device)
        _check_probe(potential, description, folder)
        return potential.in_precision(precision)
    except (PotentialFileError, torch.OutOfMemoryError):  # the file is sound, the GPU is full
        raise
    except (SafetensorError, MemoryError, RuntimeError) as error:
        raise PotentialFileError(f"{folder / WEIGHTS}: cannot be loaded as {DESCRIPTION} says: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise PotentialFileError(f"{folder / DESCRIPTION}: inconsistent description: {error!r}") from error


def _load_backend(description: dict[str, Any], weights: bytes, device: str) -> Potential:
    from safetensors.torch import load

    load_backend = import_function(BACKENDS[description["backend"]].load)
    potential: Potential = load_backend(description, load(weights), device)
    return potential


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PotentialFileError(
            f"{path}: cannot be read ({error.strerror}); is this the folder of a potential?"
        ) from None


def _read_description(path: Path) -> dict[str, Any]:
    _read_bytes(path)
    try:
        description = read_json(path)
    except FileContentError as error:
        raise PotentialFileError(f"{error}. Copy the potential's files again or repeat the training") from None
    version = description.get("format_version") if isinstance(description, dict) else None
    if version not in range(1, FORMAT_VERSION + 1) or description.get("backend") not in BACKENDS:
        backend = description.get("backend") if isinstance(description, dict) else None
        raise PotentialFileError(
            f"{path}: format version {version!r}, backend {backend!r}; this version reads versions "
            f"1 to {FORMAT_VERSION} of backends {', '.join(BACKENDS)}. Install the version that wrote it or train again"
        )
    return description
