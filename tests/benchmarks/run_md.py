"""Time molecular dynamics of silicon through one package's ASE calculator, or TorchSim, in a process of its own.

Prints a JSON object: CPU and wall time of each timed block in µs per atom and step, peak memory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

BLOCKS = 3


def make_silicon(repeat: int) -> Atoms:
    """``8 repeat³`` atoms of a perfect diamond silicon crystal with the kinetic energy of 600 K."""
    atoms = bulk("Si", cubic=True).repeat(repeat)
    thermalize_momenta(atoms, temperature_K=600, rng=np.random.default_rng(0))
    return atoms


def time_blocks(step: Any, n_atoms: int, seconds: float) -> dict[str, list[float]]:
    """Blocks of calls of ``step``, ``seconds`` of CPU time in all, in µs per atom and call."""
    step()
    began = time.perf_counter()
    step()
    n_steps = max(1, int(seconds / BLOCKS / (time.perf_counter() - began)))
    cpu, wall = [], []
    for _ in range(BLOCKS):
        cpu_began, wall_began = time.process_time(), time.perf_counter()
        for _ in range(n_steps):
            step()
        cpu.append(1e6 * (time.process_time() - cpu_began) / n_steps / n_atoms)
        wall.append(1e6 * (time.perf_counter() - wall_began) / n_steps / n_atoms)
    return {"cpu_us": cpu, "wall_us": wall}


def make_batch_step(potential: Any, walkers: list[Atoms], device: str) -> Any:
    """A step of NVE of all ``walkers`` at once by TorchSim, in single precision (ours only)."""
    import torch
    import torch_sim as ts

    from mlip.export.torchsim import TorchSimModel

    dtype, units_of = torch.float32, ts.units.MetalUnits
    batch = TorchSimModel(potential, device=device, dtype=dtype)
    timestep = torch.tensor(0.001 * units_of.time, dtype=dtype, device=device)
    start, move = ts.nve(
        model=batch, dt=timestep, kT=torch.tensor(600.0 * units_of.temperature, dtype=dtype, device=device), seed=0
    )
    state = start(ts.io.atoms_to_state(walkers, torch.device(device), dtype))
    for _ in range(20):  # until the step is recorded
        state = move(state)

    def step() -> None:
        nonlocal state
        state = move(state)
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def main() -> None:
    """Load, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--repeat", type=int, required=True, help="cubic cells along each direction")
    parser.add_argument("--walkers", type=int, default=1, help="structures evaluated at once (ours only)")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if given.package != "nep":
        import torch

        torch.set_num_threads(1)
    began = time.perf_counter()
    calculator = importlib.import_module(f"{given.package}_model").load_calculator(given.model, given.device)
    setup = time.perf_counter() - began
    atoms = make_silicon(given.repeat)
    if given.walkers > 1:
        walkers = [make_silicon(given.repeat) for _ in range(given.walkers)]
        step = make_batch_step(calculator.potential, walkers, given.device)
        times = time_blocks(step, len(atoms) * len(walkers), given.seconds)
    else:
        atoms.calc = calculator
        dynamics = VelocityVerlet(atoms, 1.0 * units.fs)

        def step() -> None:
            dynamics.run(1)
            atoms.get_stress()

        times = time_blocks(step, len(atoms), given.seconds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0 if sys.platform == "linux" else 1024.0**2)
    result = {"n_atoms": len(atoms), "walkers": given.walkers, "setup_seconds": setup, "peak_mib": memory, **times}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
