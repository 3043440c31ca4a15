"""What a carved cell's label teaches of a defect, beside the whole cell's.

    python tests/benchmarks/selection/carved_labels.py FOLDER [--seeds 0 1] [--labels 2 4 8]

Stillinger-Weber silicon, hot cells of 513 atoms with an interstitial; the potential starts from small strained crystals
without one. The same frames are labelled whole, and carved around the atom whose force is most uncertain. Tested on
other large cells, near the interstitial (4 Å) and elsewhere. A run a file in FOLDER; the table is of all that is there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import FIRE

from mlip.calculators.stillinger_weber import StillingerWeber
from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential
from mlip.seeds import derive_rng
from mlip.structures.carving import carve

CORE, CUTOFF, NEAR = 2.9, 4.0, 4.0
SETTINGS = Train(n_channels=8, committee_size=2, n_steps=600, cutoff=CUTOFF, restart="scratch", consistency="off")
N_TESTS, N_SMALL = 6, 12


def label(atoms: Atoms) -> Atoms:
    """A copy with energy, forces and stress."""
    labelled, teacher = atoms.copy(), StillingerWeber()
    teacher.calculate(atoms)
    names = ("energy", "forces", "stress")
    labelled.calc = SinglePointCalculator(labelled, **{name: teacher.results[name] for name in names})
    return labelled


def small_crystal(rng: np.random.Generator) -> Atoms:
    """A strained, rattled cell of 8 or 64 atoms."""
    atoms = bulk("Si", "diamond", a=5.431, cubic=True).repeat(int(rng.integers(1, 3)))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, rng.uniform(0.03, 0.15), atoms.positions.shape)
    return atoms


def with_interstitial(rng: np.random.Generator) -> Atoms:
    """A hot cell of 512 atoms and one between them, relaxed for some steps; that one is the last."""
    atoms = bulk("Si", "diamond", a=5.431, cubic=True).repeat(4)
    place = atoms.positions[int(rng.integers(len(atoms)))] + 5.431 * np.array([0.5, 0.5, 0.5])
    atoms += Atoms("Si", positions=[place + rng.normal(0, 0.6, 3)])
    atoms.wrap()
    atoms.calc = StillingerWeber()
    FIRE(atoms, logfile=None).run(fmax=0.5, steps=40)
    atoms.calc = None
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return atoms


def train(structures: Sequence[Atoms], seed: int) -> Potential:
    """A committee from scratch, by the same number of steps whatever the data."""
    with tempfile.TemporaryDirectory() as folder:
        train_committee(TrainingRequest(structures, [], SETTINGS, Path(folder), seed=seed))
        return load_potential(Path(folder))


def measure(potential: Potential, tests: Sequence[Atoms]) -> dict[str, float]:
    """RMS force errors (eV/Å, per component) near the interstitial and elsewhere, and the forces' own RMS."""
    near, far, forces = [], [], []
    for atoms, found in zip(tests, potential.predict(list(tests), uncertainty=False), strict=True):
        wanted = atoms.get_forces(apply_constraint=False)
        distances = atoms.get_distances(len(atoms) - 1, range(len(atoms)), mic=True)
        errors = np.square(found.forces - wanted)
        near.append(errors[distances <= NEAR].ravel())
        far.append(errors[distances > NEAR].ravel())
        forces.append(np.square(wanted[distances <= NEAR]).ravel())
    parts = {"near": near, "far": far, "force": forces}
    return {name: float(np.sqrt(np.concatenate(values).mean())) for name, values in parts.items()}


def carved_label(atoms: Atoms, potential: Potential) -> Atoms:
    """The label of a cell carved around the most uncertain atom."""
    (found,) = potential.predict([atoms])
    cell = carve(atoms, int(found.force_uncertainty.argmax()), radius=CORE + CUTOFF)
    if cell is None:
        raise ValueError(f"{len(atoms)} atoms are not carved to a core of {CORE} Å; make the cells larger")
    return label(cell.atoms)


def run(seed: int, counts: Sequence[int], folder: Path) -> None:
    """All trainings of a seed that are not in ``folder``."""
    rng = derive_rng(seed, "carved_labels")
    small = [label(small_crystal(rng)) for _ in range(N_SMALL)]
    tests = [label(with_interstitial(rng)) for _ in range(N_TESTS)]
    frames = [with_interstitial(rng) for _ in range(max(counts))]
    start = train(small, seed)
    write(folder, {"seed": seed, "labels": "none", "n": 0, "atoms": 0, **measure(start, tests)})
    makers = {"whole": label, "carved": lambda atoms: carved_label(atoms, start)}
    for kind, make in makers.items():
        labelled = [make(atoms) for atoms in frames]
        for n in counts:
            taken = labelled[:n]
            record = {"seed": seed, "labels": kind, "n": n, "atoms": sum(map(len, taken))}
            record["cost"] = sum(len(a) ** 2 for a in taken)
            if not place(folder, record).exists():
                write(folder, record | measure(train([*small, *taken], seed), tests))


def place(folder: Path, record: dict[str, Any]) -> Path:
    """The file of a run."""
    return folder / f"carved_{record['seed']}_{record['labels']}_{record['n']}.json"


def write(folder: Path, record: dict[str, Any]) -> None:
    """Keep a run and say what it found."""
    folder.mkdir(parents=True, exist_ok=True)
    place(folder, record).write_text(json.dumps(record))
    print(json.dumps(record), flush=True)


def tabulate(folder: Path) -> str:
    """Means over seeds, as a table."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("carved_*.json"))]
    lines = ["| labels | n | atoms | near the interstitial, eV/Å | elsewhere | seeds |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for kind, n in sorted({(r["labels"], r["n"]) for r in records}, key=lambda key: (key[1], key[0])):
        found = [r for r in records if (r["labels"], r["n"]) == (kind, n)]
        near, far = (", ".join(f"{r[name]:.3f}" for r in found) for name in ("near", "far"))
        atoms = round(float(np.mean([r["atoms"] for r in found])))
        lines.append(f"| {kind} | {n} | {atoms} | {near} | {far} | {len(found)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 4, 8])
    options = parser.parse_args()
    for seed in options.seeds:
        run(seed, options.labels, options.folder)
    print(tabulate(options.folder))


if __name__ == "__main__":
    main()
