"""Pools whose teachers are slow: CHGNet on zinc oxide, and GPAW on silicon.

Frames are labelled once and kept, a file a trajectory, so that what was stopped goes on. A seed holds back one
trajectory of each kind to test on and has all the others as its pool: pools overlap between seeds, tests do not.

    .venv-teacher/bin/python tests/benchmarks/selection/slow_pools.py oxide FOLDER  # in the environment of CHGNet
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pools
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from pools import Case, Kind

from mlip.calculators.stillinger_weber import StillingerWeber
from mlip.io.extxyz import read_structures, write_structures
from mlip.seeds import derive_rng, derive_seed

ROOT = Path(__file__).parents[3]
TEACHER = ROOT / ".venv-teacher"
"""The environment that has CHGNet."""
N_TRAJECTORIES = 6
"""Of each kind; the seeds 0 to 4 are tested on the first five, any other one (which tunes) on the last."""
N_PREPARED = 12
"""Prepared structures that are labelled, of which a seed draws those that it begins with."""
GPAW: dict[str, Any] = {"mode": {"name": "pw", "ecut": 200}, "xc": "PBE", "kpts": {"size": [2, 2, 2]}}
"""On cells of 8 atoms: forces are within .08 eV/Å, 3 % of their RMS, of the demo's 250 eV and 27 k-points."""


@cache
def chgnet() -> Calculator:
    """CHGNet 0.3.0 (B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023)), in .venv-teacher alone.

    Its package unpickles the weights that came in its own wheel.
    """
    import torch
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    torch.set_num_threads(1)
    calculator: Calculator = CHGNetCalculator(CHGNet.load(model_name="0.3.0", use_device="cpu"), use_device="cpu")
    return calculator


def zinc_oxide(repeat: tuple[int, int, int] = (2, 2, 1), scale: float = 1.0) -> Atoms:
    """Wurtzite, which has few neighbours within CHGNet's 3 Å of angles, and thus takes a tenth of a second a step."""
    return bulk("ZnO", "wurtzite", a=3.25 * scale, c=5.20 * scale).repeat(repeat)


def oxide_slab() -> Atoms:
    """With the two faces (10-10), which are not polar; their cell vectors are the second and the third."""
    atoms = zinc_oxide((3, 2, 1))
    atoms.center(vacuum=5.0, axis=0)
    return atoms


def oxygen_vacancy(rng: np.random.Generator) -> Atoms:
    atoms = zinc_oxide()
    del atoms[int(rng.choice(np.flatnonzero(atoms.symbols == "O")))]
    return atoms


CELL = (1, 1, 1)

CASES: dict[str, Case] = {
    "oxide": Case(
        chgnet,
        [
            Kind("crystal", lambda _: zinc_oxide(), 900.0, 0.6),
            Kind("surface", lambda _: oxide_slab(), 900.0, 0.1),
            Kind("vacancy", oxygen_vacancy, 900.0, 0.1),
            Kind("melt", lambda _: zinc_oxide(scale=1.03), 3000.0, 0.1, heat=5000.0),
            Kind("dense", lambda _: zinc_oxide(scale=0.95), 900.0, 0.1),
        ],
        [lambda _: zinc_oxide((2, 1, 1))],
        n_pool=200,
    ),
    "silicon-gpaw": Case(
        StillingerWeber,  # moves the atoms only
        [
            Kind("crystal", lambda _: pools.diamond(CELL), 900.0, 0.5),
            Kind("melt", lambda _: pools.diamond(CELL, 0.98), 2500.0, 0.17, heat=5000.0),
            Kind("dense", lambda _: pools.diamond(CELL, 0.95), 900.0, 0.17),
            Kind("vacancy", lambda rng: pools.vacancy(pools.diamond(CELL), rng), 900.0, 0.16),
        ],
        [lambda _: pools.diamond(CELL)],
        n_pool=120,
    ),
}


def find_obstacle(name: str) -> str:
    """Why frames of pool ``name`` cannot be labelled here; empty if they can."""
    if name == "oxide" and not [*TEACHER.glob("installed-*")]:
        return f"{TEACHER} is missing or not whole, in which CHGNet labels: make setup-teacher"
    if name == "silicon-gpaw" and find_spec("gpaw") is None:
        return "GPAW is not installed in this environment: make setup"
    return ""


@dataclass(frozen=True)
class FrameSet:
    """All labelled frames of the pool ``name``, below ``folder``, as many as seeds need that have ``n_pool`` each."""

    name: str
    folder: Path
    n_pool: int | None = None

    @property
    def case(self) -> Case:
        """With the number of frames that is asked for."""
        return replace(CASES[self.name], n_pool=self.n_pool or CASES[self.name].n_pool)

    def path(self, kind: str, trajectory: int = 0) -> Path:
        """Of the frames of one trajectory."""
        return self.folder / f"{self.name}-{self.case.n_pool}" / f"{kind}-{trajectory}.extxyz"

    def trajectories(self, kind: str) -> list[Path]:
        return [self.path(kind, k) for k in range(N_TRAJECTORIES)]

    def make(self, label_all: Callable[[Sequence[Atoms]], list[Atoms]]) -> None:
        """Write every file that is not there yet, of frames as ``label_all`` gives them back."""
        case = self.case
        for kind in case.kinds:
            n_frames = max(1, round(case.n_pool * kind.share / (N_TRAJECTORIES - 1)))
            for k, path in enumerate(self.trajectories(kind.name)):
                if not path.exists():
                    seed = derive_seed(0, self.name, kind.name, k)
                    self._write(path, label_all(pools.run_md(kind, case, n_frames, seed)))
        path, rng = self.path("prepared"), derive_rng(0, self.name, "prepared")
        if not path.exists():
            made = [pools.label(pools.strained(case.prepared[0], rng), case.teacher()) for _ in range(N_PREPARED)]
            for atoms in made:
                atoms.info = {"kind": "prepared", "source": 0}
            self._write(path, label_all(made))

    def _write(self, path: Path, frames: Sequence[Atoms]) -> None:
        if not frames:
            raise ValueError(f"{path}: none of its frames has a label; see the records in {self.folder / 'labels'}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_structures(path, frames)
        print(path, len(frames), flush=True)

    def draw(self, seed: int, n_test: int) -> dict[str, list[Atoms]]:
        """``pool``, ``prepared`` and ``test`` of ``seed``; ``n_test`` of a kind, or as many as its trajectory has."""
        built, held = {"pool": list[Atoms](), "test": list[Atoms]()}, min(seed, N_TRAJECTORIES - 1)
        for kind in self.case.kinds:
            for k, path in enumerate(self.trajectories(kind.name)):
                frames = read_structures(path)
                if k == held:
                    spread = np.linspace(0, len(frames) - 1, min(n_test, len(frames))).round().astype(int)
                    built["test"] += [frames[row] for row in spread]
                else:
                    built["pool"] += frames
        prepared = read_structures(self.path("prepared"))
        rows = derive_rng(seed, self.name, "prepared").permutation(len(prepared))[: self.case.n_prepared]
        return built | {"prepared": [prepared[row] for row in rows]}


def label_with_gpaw(frames: Sequence[Atoms], store: Path, settings: dict[str, Any] | None = None) -> list[Atoms]:
    """Those of ``frames`` whose SCF converged with these settings, labelled; labels are kept in ``store``.

    ``settings`` are those of a section ``label``. What is left out is printed with the reason.
    """
    from mlip.config.label import Label
    from mlip.labels.labeller import Labeller, attach_label

    labelled = []
    with Labeller(Label(**(settings or {"calculator": "gpaw", "parameters": GPAW})), store) as labeller:
        for atoms in frames:
            outcome = labeller.label(atoms)
            if outcome.status == "ok" and outcome.settings_id == labeller.settings_id:
                labelled.append(attach_label(atoms, outcome, 0))
            else:
                print(f"{atoms.info['kind']}: left out, {outcome.status} {outcome.reason}", flush=True)
    return labelled


def build_case(
    folder: Path, name: str, seed: int, *, n_pool: int | None = None, n_test: int = 8
) -> dict[str, list[Atoms]]:
    """As :func:`pools.build_case`, from frames that are kept in ``folder/frames`` and made first if they are missing.

    Raises:
        RuntimeError: when they cannot be made here.
    """
    frames = FrameSet(name, folder / "frames", n_pool)
    if obstacle := find_obstacle(name):
        raise RuntimeError(f"pool {name}: {obstacle}")
    if name == "oxide":
        command = [str(TEACHER / "bin/python"), __file__, name, str(frames.folder), "--n-pool", str(frames.case.n_pool)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment)
    else:
        frames.make(partial(label_with_gpaw, store=frames.folder / "labels"))
    return frames.draw(seed, n_test)


def main() -> None:
    """Make the frames of a pool whose teacher is its dynamics' own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["oxide"])
    parser.add_argument("folder", type=Path, help="where frames are and go")
    parser.add_argument("--n-pool", type=int, help="frames of a seed's pool")
    given = parser.parse_args()
    FrameSet(given.case, given.folder, given.n_pool).make(list)


if __name__ == "__main__":
    main()
