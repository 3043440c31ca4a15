"""The loop's steps one after the other in one process, for loops whose labels cost nothing.

What Snakemake does for every step, seconds, would take longer than the steps themselves. The files are those of a real
loop, so that ``results/<system>`` can be looked at as such.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlip.config.system import Config
from mlip.config.walkers import plans_of, walkers_before
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json
from mlip.io.layout import assessment_path, candidates_path, iteration_folder
from mlip.jobs.ledger import Cost
from mlip.loop.assess_potential import AssessmentRequest, assess_potential
from mlip.loop.collect_dataset import collect_dataset
from mlip.loop.explore_walkers import WalkerRequest, explore_walker
from mlip.loop.label_isolated_atoms import label_isolated_atoms
from mlip.loop.label_references import label_references
from mlip.loop.label_structures import label_structures
from mlip.loop.prepare_structures import prepare_structures
from mlip.loop.score_frames import ScoreRequest, score_frames
from mlip.loop.select_candidates import select_candidates
from mlip.loop.train_committee import TrainingFiles, train_from_files
from mlip.structures.starting import load_starting_structure


class SmallLoop:
    """The loop of ``config`` in ``root``, which is that of one system."""

    def __init__(self, config: Config, root: Path) -> None:
        self.config, self.root, self.store = config, root, root / "label_store"
        self.references = root / "label_references"

    def path(self, iteration: int, step: str, name: str = "") -> Path:
        """A file of a step, or its folder."""
        folder = iteration_folder(self.root, iteration) / step
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def run(self) -> list[dict[str, Any]]:
        """Every iteration until the loop stops; their assessments."""
        self._begin()
        assessments: list[dict[str, Any]] = []
        for iteration in range(self.config.max_iterations):
            self._learn(iteration)
            self._explore(iteration)
            self._assess(iteration)
            assessments.append(read_json(assessment_path(self.root, iteration)))
            if assessments[-1]["stop"]:
                break
        return assessments

    def _begin(self) -> None:
        config, start = self.config, load_starting_structure(self.config.structures[0])
        prepare_structures(
            config.structures,
            config.prepare,
            seed=config.seed,
            min_ratio=config.label.guards.min_distance_factor,
            out=self.path(0, "prepare_structures", "candidates.extxyz"),
        )
        volumes = config.assess.eos_volumes
        self.references.mkdir(parents=True, exist_ok=True)
        label_references({0: start}, config.label, volumes, store=self.store, out=self.references / "references.extxyz")
        symbols = {s for source in config.structures for s in load_starting_structure(source).symbols}
        isolated = self.references / "isolated_atoms.json"
        label_isolated_atoms(sorted(symbols), config.label, store=self.store, out=isolated)

    def _learn(self, iteration: int) -> None:
        current = self.config.at_iteration(iteration)
        shard, records = (self.path(iteration, "label_structures", f"shard_000.{end}") for end in ("extxyz", "json"))
        label_structures(
            read_structures(candidates_path(self.root, iteration)),
            current.label,
            store=self.store,
            iteration=iteration,
            shard=0,
            out_structures=shard,
            out_records=records,
        )
        dataset = self.path(iteration, "collect_dataset")
        collect_dataset(
            [shard],
            [records],
            self.path(iteration - 1, "collect_dataset") if iteration else None,
            iteration=iteration,
            settings=current.collect,
            energy_window=current.label.guards.energy_window,
            max_failed_fraction=current.label.max_failed_fraction,
            out=dataset,
        )
        parts = (dataset / f"{name}.extxyz" for name in ("train", "valid", "test"))
        goes_on = iteration > 0 and current.train.restart == "previous"
        files = TrainingFiles(
            *parts,
            self.references / "isolated_atoms.json",
            self.path(iteration, "train_committee"),
            previous=self.path(iteration - 1, "train_committee") if goes_on else None,
        )
        train_from_files(files, current.train, seed=self.config.seed, device="cpu")

    def _walkers(self, iteration: int) -> list[Path]:
        count = len(plans_of(self.config, iteration))
        return [self.path(iteration, "explore_walkers", f"walker_{k:02d}.nc") for k in range(count)]

    def _explore(self, iteration: int) -> None:
        current, plans = self.config.at_iteration(iteration), plans_of(self.config, iteration)
        potential = self.path(iteration, "train_committee")
        for number, plan in enumerate(plans):
            earlier = self._walkers(iteration - 1) if iteration else []
            before = walkers_before(number, plans, plans_of(self.config, iteration - 1)) if iteration else []
            request = WalkerRequest(
                potential,
                plan,
                current.explore,
                self._walkers(iteration)[number],
                seed=self.config.seed,
                iteration=iteration,
                walker=number,
                last=[earlier[k] for k in before],
                rungs=self.path(iteration - 1, "assess_potential", "ladder.json") if iteration else None,
            )
            explore_walker(request)
        scores = self.path(iteration, "score_frames")
        asked = [self.path(k, "select_candidates", "candidates.extxyz") for k in range(iteration)]
        dataset = self.path(iteration, "collect_dataset")
        seed, walkers = self.config.seed, self._walkers(iteration)
        score_frames(ScoreRequest(walkers, potential, dataset, asked, scores, seed=seed))
        select_candidates(
            scores,
            walkers,
            settings=current.select,
            guards=current.label.guards,
            seed=seed,
            iteration=iteration,
            out=self.path(iteration, "select_candidates", "candidates.extxyz"),
            decisions=self.path(iteration, "select_candidates", "decisions.csv"),
        )

    def _assess(self, iteration: int) -> None:
        current = self.config.at_iteration(iteration)
        assess_potential(
            AssessmentRequest(
                iteration=iteration,
                old=self.path(iteration - 1, "train_committee") if iteration else None,
                potential=self.path(iteration, "train_committee"),
                dataset=self.path(iteration, "collect_dataset"),
                references=self.references / "references.extxyz",
                frames=self.path(iteration, "score_frames", "frames.nc"),
                candidates=self.path(iteration, "select_candidates", "candidates.extxyz"),
                earlier=assessment_path(self.root, iteration - 1) if iteration else None,
                count_costs=lambda n_labels: (Cost(), Cost()),
                settings=current.assess,
                select=current.select,
                min_ratio=current.label.guards.min_distance_factor,
                budget=self.config.budget,
                min_iterations=self.config.min_iterations,
                out=self.path(iteration, "assess_potential"),
                ladder=current.explore.ladder,
            )
        )
