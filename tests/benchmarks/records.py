"""What every benchmark script shares: its arguments, its clock, its errors and its record.

Runs in the environments of all packages, so it needs nothing beyond ASE, NumPy and, where
there is one, torch.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read

PACKAGES = ("torch", "numpy", "ase", "mace-torch", "nequip", "e3nn", "calorine")


class Stopwatch:
    """Seconds since its making without pauses: of this process' CPU, or of the wall for a GPU."""

    def __init__(self, device: str) -> None:
        self._clock = time.process_time if device == "cpu" else time.perf_counter
        self._began = self._clock()
        self._paused = 0.0

    @property
    def seconds(self) -> float:
        """Time so far."""
        return self._clock() - self._began - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside the context."""
        began = self._clock()
        yield
        self._paused += self._clock() - began


def run_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of a training run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of one data set, made by prepare_data.py")
    parser.add_argument("--variant", required=True, help="name of these settings")
    parser.add_argument("--package", required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON object of the package's settings")
    parser.add_argument("--budget", type=float, required=True, help="seconds of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", type=Path, required=True, help="folder to write the trained model into")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the run's record")
    return parser


def read_split(folder: Path, name: str) -> list[Atoms]:
    """The labelled structures ``name`` of the data set in ``folder``."""
    structures = read(folder / f"{name}.extxyz", ":")
    assert isinstance(structures, list)
    return structures


def test_names(folder: Path) -> list[str]:
    """The test sets of the data set in ``folder``."""
    return sorted(path.stem for path in folder.glob("test*.extxyz"))


def read_isolated(folder: Path) -> dict[str, float] | None:
    """Energies of isolated atoms in eV, where the data set has them."""
    path = folder / "isolated.json"
    return json.loads(path.read_text()) if path.is_file() else None


def measure_errors(
    structures: Sequence[Atoms], energies: Sequence[float], forces: Sequence[np.ndarray]
) -> dict[str, float]:
    """Errors of predictions: energy in meV/atom and meV (a structure), force components in meV/Å."""
    sizes = np.array([len(atoms) for atoms in structures])
    energy = 1e3 * (np.asarray(energies) - [atoms.get_potential_energy() for atoms in structures])
    result = {
        "n_structures": len(structures),
        "energy_mae": float(np.abs(energy / sizes).mean()),
        "energy_rmse": float(np.sqrt(np.square(energy / sizes).mean())),
        "energy_rmse_structure": float(np.sqrt(np.square(energy).mean())),
    }
    labelled = [i for i, atoms in enumerate(structures) if atoms.calc is not None and "forces" in atoms.calc.results]
    if labelled:
        force = 1e3 * np.concatenate([forces[i] - structures[i].get_forces() for i in labelled])
        result["force_mae"] = float(np.abs(force).mean())
        result["force_rmse"] = float(np.sqrt(np.square(force).mean()))
    return result


def describe_machine(device: str = "cpu") -> dict[str, str]:
    """Processor, device and versions of the packages that are present."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device != "cpu":
        import torch

        model = f"{torch.cuda.get_device_name()}, {model}"
    return {"processor": model, "python": platform.python_version(), **versions}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write ``record`` with the machine it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {**record, "machine": describe_machine(record.get("device", "cpu"))}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def single_thread() -> None:
    """Keep torch to one thread; the caller sets OMP_NUM_THREADS for the rest."""
    import torch

    torch.set_num_threads(1)
