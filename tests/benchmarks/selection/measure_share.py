"""What scoring and selecting cost beside the exploration that they judge: CPU seconds of the steps themselves.

    python tests/benchmarks/selection/measure_share.py results/selection

Silicon, cells of 64 atoms, a committee of the default size; walkers of 1000 steps with a frame every 20. Start-up of
Python is not counted: it is the same for each of the loop's jobs, whatever they do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pools
from ase.build import bulk

from mlip.config.label import Guards
from mlip.config.loop import Explore, Select
from mlip.config.structures import Bulk, StartingStructure
from mlip.config.train import Train
from mlip.config.walkers import WalkerPlan
from mlip.io.extxyz import write_structures
from mlip.io.files import write_json
from mlip.loop.explore_walkers import WalkerRequest, explore_walker
from mlip.loop.score_frames import ScoreRequest, score_frames
from mlip.loop.select_candidates import select_candidates
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.seeds import derive_rng

SILICON = StartingStructure(bulk=Bulk(name="Si", crystalstructure="diamond", a=5.431, cubic=True), repeat=(2, 2, 2))


def clock(work: Callable[[], Any]) -> float:
    """CPU seconds of ``work``."""
    began = time.process_time()
    work()
    return time.process_time() - began


def prepare(folder: Path, n_training: int, n_steps: int, settings: Train) -> None:
    """A potential of ``n_training`` strained cells, and the dataset's files."""
    case, rng = pools.CASES["silicon"], derive_rng(0, "share")
    training = []
    for k in range(n_training):
        atoms = pools.label(
            pools.strained(lambda _: bulk("Si", "diamond", a=5.431, cubic=True).repeat(2), rng), case.teacher()
        )
        atoms.info = {"structure_id": f"prepared_{k:03d}", "source": 0, "origin": "prepared"}
        training.append(atoms)
    for name, structures in (("train", training), ("valid", []), ("test", [])):
        write_structures(folder / f"{name}.extxyz", structures)
    isolated = pools.isolated_energies("silicon", training)
    settings = settings.model_copy(update={"n_steps": n_steps})
    train_committee(TrainingRequest(training, [], settings, folder / "potential", seed=0, isolated_energies=isolated))


def measure_share(
    folder: Path, *, n_walkers: int = 4, n_steps: int = 1000, n_training: int = 60, train_steps: int = 300
) -> dict[str, Any]:
    """CPU seconds of exploring, scoring and selecting, and the latter two over the first."""
    prepare(folder, n_training, train_steps, Train(early_stopping=False, consistency="off"))
    explore = Explore(n_steps=n_steps, timestep=2.0, max_relative_error=None)
    walkers = [folder / f"walker_{k:02d}.nc" for k in range(n_walkers)]
    explored = 0.0
    for k, out in enumerate(walkers):
        plan = WalkerPlan(source=SILICON, ensemble="nvt", temperature=300.0 * (k + 1), volume=0.0, pressure=0.0)
        request = WalkerRequest(
            plan=plan, settings=explore, potential=folder / "potential", seed=0, iteration=0, walker=k, out=out
        )
        explored += clock(lambda request=request: explore_walker(request))
    scored = clock(lambda: score_frames(ScoreRequest(walkers, folder / "potential", folder, [], folder / "scores", 0)))
    selected = clock(
        lambda: select_candidates(
            folder / "scores",
            walkers,
            settings=Select(),
            guards=Guards(),
            seed=0,
            iteration=0,
            out=folder / "candidates.extxyz",
            decisions=folder / "decisions.csv",
        )
    )
    seconds = {"explore": explored, "score": scored, "select": selected}
    return {"seconds": seconds, "share": (scored + selected) / explored, "n_walkers": n_walkers, "n_steps": n_steps}


def main() -> None:
    """Measure, and write ``share.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the record goes")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure_share(Path(scratch))
    write_json(given.folder / "share.json", found)
    print(found)


if __name__ == "__main__":
    main()
