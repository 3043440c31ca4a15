"""What biased walkers find beside plain ones in as many steps, under potentials of EMT copper and Stillinger-Weber Si.

    python tests/benchmarks/selection/biased_walkers.py [--cases copper silicon] [--biases 0 5 20 50] [--seeds 0 1]

Trains a small committee on rattled and strained crystals. From the ideal crystal, walkers of each bias and seed run
as they do in the loop; their frames after a quarter of the time are compared with the teacher. Prints a Markdown table:
RMS over frames of the expected error and of the error, over the RMS force of the labels; frames' mean temperature;
walkers that ran to their end; milliseconds a step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.calculators.stillinger_weber import StillingerWeber
from mlip.config.loop import Explore
from mlip.config.structures import Bulk, StartingStructure
from mlip.config.train import Train
from mlip.config.walkers import WalkerPlan
from mlip.io.trajectory import read_frames
from mlip.loop.explore_walkers import WalkerRequest, explore_walker
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential.expected_error import ErrorScale

CASES: dict[str, tuple[Bulk, Callable[[], Calculator], float]] = {
    "copper": (Bulk(name="Cu", crystalstructure="fcc", a=3.61, cubic=True), EMT, 500.0),
    "silicon": (Bulk(name="Si", crystalstructure="diamond", a=5.431, cubic=True), StillingerWeber, 600.0),
}
"""Crystal, teacher and temperature (K)."""
SETTINGS = Explore(n_steps=1000, sample_every=20, timestep=2.0)
TRAIN = Train(n_channels=8, l_max=2, hidden=(16,), committee_size=4, n_steps=500, consistency="off")


def label(atoms: Atoms, teacher: Calculator) -> Atoms:
    """``atoms`` with what the teacher says."""
    labelled = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)
    labelled.calc = teacher
    energy, forces, stress = labelled.get_potential_energy(), labelled.get_forces(), labelled.get_stress()
    labelled.calc = SinglePointCalculator(labelled, energy=energy, forces=forces, stress=stress)
    return labelled


def train(case: str, folder: Path) -> None:
    """A committee that has seen mild vibrations."""
    crystal, teacher, _ = CASES[case]
    rng = np.random.default_rng(0)
    structures = []
    for k in range(30):
        atoms = bulk(crystal.name, crystal.crystalstructure, a=crystal.a, cubic=True)
        atoms.set_cell(atoms.cell.array * rng.uniform(0.98, 1.03), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        structures.append(label(atoms, teacher()))
        structures[-1].info |= {"source": 0, "structure_id": f"rattled-{k}"}
    train_committee(TrainingRequest(structures[:24], structures[24:], TRAIN, folder, seed=0, device="cpu"))


def explore(case: str, potential: Path, bias: float, seeds: list[int], repeat: int) -> dict[str, Any]:
    """What walkers of one bias find."""
    crystal, teacher, temperature = CASES[case]
    scale = ErrorScale.read(potential / "training.json", 0)
    if scale is None:
        raise ValueError(f"{potential}/training.json has no RMS force; train the potential again")
    expected, errors, temperatures, finished, seconds, steps = [], [], [], 0, 0.0, 0.0
    for seed in seeds:
        plan = WalkerPlan(
            source=StartingStructure(bulk=crystal),
            ensemble="nvt",
            temperature=temperature,
            volume=0.0,
            pressure=0.0,
            repeat=(repeat,) * 3,
            uncertainty_bias=bias,
        )
        out, began = potential / "walker.nc", time.perf_counter()
        explore_walker(WalkerRequest(potential, plan, SETTINGS, out, seed=seed, iteration=0, walker=0))
        seconds += time.perf_counter() - began
        structures, data = read_frames(out)
        steps += data.attrs["stop_time_fs"] / SETTINGS.timestep
        finished += data.attrs["stop_reason"] == "finished"
        predicted = potential_forces(potential, structures)
        for k in range(len(structures) // 4, len(structures)):
            expected.append(scale.relative_error(data.force_uncertainty.values[k]))
            forces = label(structures[k], teacher()).get_forces()
            errors.append(np.sqrt(np.mean((predicted[k] - forces) ** 2)) / scale.rms_force)
            temperatures.append(float(data.temperature.values[k]))
    rms = [float(np.sqrt(np.mean(np.square(values)))) for values in (expected, errors)]
    return {
        "expected": rms[0],
        "error": rms[1],
        "temperature": float(np.mean(temperatures)),
        "finished": f"{finished} of {len(seeds)}",
        "ms": 1000 * seconds / steps,
    }


def potential_forces(potential: Path, structures: list[Atoms]) -> list[np.ndarray]:
    """The mean's forces of each structure, eV/Å."""
    from mlip.potential import load_potential

    return [p.forces for p in load_potential(potential, precision="single").predict(structures, uncertainty=False)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--biases", nargs="+", type=float, default=[0, 5, 20, 50])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--repeats", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    print("| case | atoms | bias | expected error | error | K | finished | ms a step |")
    print("|---|--:|--:|--:|--:|--:|---|--:|")
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            train(case, Path(folder))
            for repeat in options.repeats:
                atoms = repeat**3 * (8 if case == "silicon" else 4)
                for bias in options.biases:
                    row = explore(case, Path(folder), bias, options.seeds, repeat)
                    print(
                        f"| {case} | {atoms} | {bias:g} | {row['expected']:.3f} | {row['error']:.3f} | "
                        f"{row['temperature']:.0f} | {row['finished']} | {row['ms']:.1f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
