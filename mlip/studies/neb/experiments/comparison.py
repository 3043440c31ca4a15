"""How many labels a barrier takes: the study's rounds from nothing, in one process, and bands on the labeller."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from ase.optimize.optimize import Optimizer

from mlip.config.merging import merge_deeply
from mlip.config.train import Train
from mlip.labels.calculator import label_with
from mlip.potential import load_potential
from mlip.potential.calculator import MLIPCalculator
from mlip.seeds import derive_seed
from mlip.studies.experiments import Page, Task
from mlip.studies.interface import Reference, Subject
from mlip.studies.neb.experiments import LABELLER
from mlip.studies.neb.path import Band, Evaluate, evaluator, interpolate
from mlip.studies.neb.settings import Settings
from mlip.studies.neb.study import BarrierStudy

MOST_STEPS = 500


def run(task: Task) -> dict[str, Any]:
    """The rounds of one acquisition and seed, or the bands on the labeller."""
    settings = Settings(**task.plan["settings"])
    return _bands(task, settings) if task.part == LABELLER else _rounds(task, settings)


def _rounds(task: Task, settings: Settings) -> dict[str, Any]:
    """Every round's barriers and verdict; the first potential has the labels of the ends' relaxation alone."""
    from mlip.loop.train_committee import TrainingRequest, train_committee

    study, rows = BarrierStudy(settings), []
    seed = derive_seed(task.seed, "comparison", int(task.plan["seed"])) % 2**31
    train = Train.model_validate(merge_deeply(task.train.model_dump(), settings.train))
    with task.labeller.stored() as calculator, tempfile.TemporaryDirectory() as scratch:
        label = label_with(calculator)
        reference = study.refer(task.structures, (), task.labeller, task.seed)
        known = [label(atoms) for atoms in reference.structures]
        relaxed, held = len(known), known.pop()
        for number in range(settings.rounds + 1):
            folder = Path(scratch) / str(number)
            previous = Path(scratch) / str(number - 1) if number else None
            given: dict[str, Any] = {"isolated_energies": task.isolated_energies, "previous": previous}
            train_committee(TrainingRequest(known, [held], train, folder, seed, **given))
            potential = load_potential(folder)
            begin = Reference(reference.data, [*known, held])
            mean = MLIPCalculator(potential, uncertainty=False)
            subject = Subject(mean, potential, task.structures, seed=seed, training=begin.structures, reference=begin)
            measurement = study.measure(subject)
            criteria = study.compare(measurement.data, reference.data)
            chosen = study.acquire(measurement, reference.data, potential, seed).candidates
            passed = all(criterion.passed for criterion in criteria)
            rows.append(_row(measurement.data, len(known) + 1 - relaxed, passed))
            task.progress(rows[-1])
            if passed or not chosen:
                break
            known += [label(atoms) for atoms in chosen]
    return {"arm": settings.acquisition, "rows": rows, "relaxed": relaxed}


def _row(data: Any, n_labels: int, passed: bool) -> dict[str, Any]:
    def plain(name: str) -> list[float | None]:
        return [float(v) if np.isfinite(v) else None for v in data[name].values]

    names = ("barrier", "label_energy", "label_force")
    stds = [float(v) for v in data.energy_std.max("image").values]
    return {"labels": n_labels, "passed": passed, "energy_std": stds} | {name: plain(name) for name in names}


def _bands(task: Task, settings: Settings) -> dict[str, Any]:
    """Calculations on images between the ends until the climbing band's force is below ``fmax``, by optimiser."""
    study, found = BarrierStudy(settings), []
    with task.labeller.stored() as calculator:
        reference = study.refer(task.structures, (), task.labeller, task.seed)
        evaluate = evaluator(calculator, None)
        for name in settings.paths:
            ends = [a for which in ("initial", "final") for a in reference.structures if _is_end(a, name, which)]
            for optimiser, start in (("BFGS", _bfgs), ("ODE", _ode)):
                counted = _Counting(evaluate)
                band = Band(interpolate(ends[0], ends[1], settings.n_images), counted, climb=True)
                counted.n = 0  # without the ends
                start(band).run(fmax=settings.fmax, steps=MOST_STEPS)
                energies = [result[0] for result in evaluate(band.images)]
                found.append(
                    {"path": name, "optimiser": optimiser, "calls": counted.n, "barrier": max(energies) - energies[0]}
                )
                task.progress(found[-1])
    return {"arm": LABELLER, "bands": found}


def _is_end(atoms: Atoms, name: str, which: str) -> bool:
    return atoms.info.get("path") == name and atoms.info.get("end") == which


def _bfgs(band: Band) -> Optimizer:
    return BFGS(band, logfile=None)


def _ode(band: Band) -> Any:
    from ase.mep.neb import NEBOptimizer

    return NEBOptimizer(band, logfile=None)


class _Counting:
    """Counts the structures that are evaluated."""

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate, self.n = evaluate, 0

    def __call__(self, structures: Sequence[Atoms]) -> list[tuple[float, np.ndarray]]:
        self.n += len(structures)
        return self.evaluate(structures)


def report(results: Mapping[str, Mapping[str, Any]]) -> Page:
    """A table: labels after the ends' relaxation until the verdict, of each way."""
    arms: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results.values():
        arms[result["arm"]].append(result)
    lines = [
        "| way | labels after the ends, each seed | median | barrier by the potential (eV) | label at the saddle (eV) |"
    ]
    lines.append("|---|---|---|---|---|")
    for arm, runs in arms.items():
        if arm != LABELLER:
            lines.append(_line(arm, runs))
    lines += [
        f"| climbing-image NEB on the labeller, {band['optimiser']} ({band['path']}) | {band['calls']} | |"
        f" | {band['barrier']:.4f} |"
        for band in (arms[LABELLER][0]["bands"] if LABELLER in arms else [])
    ]
    relaxed = next((runs[0]["relaxed"] for arm, runs in arms.items() if arm != LABELLER), None)
    text = (
        f"\nThe ends were relaxed with {relaxed} calculations before. A `>` tells that the verdict was not reached.\n"
    )
    return Page("\n".join(lines) + "\n" + (text if relaxed is not None else ""))


def _line(arm: str, runs: Sequence[Mapping[str, Any]]) -> str:
    last = [run["rows"][-1] for run in runs]
    counts = [row["labels"] for row in last]
    told = ", ".join(f"{'' if row['passed'] else '>'}{row['labels']}" for row in last)
    barriers, labels = (_range([v for row in last for v in row[name]]) for name in ("barrier", "label_energy"))
    return f"| acquisition `{arm}` | {told} | {np.median(counts):g} | {barriers} | {labels} |"


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.4f} to {max(known):.4f}" if known else "–"
