"""One training run of another package's model, with one recipe for all of them.

The recipe is the best one found on the validation data: force-dominated squared errors with an
energy weight that rises as training goes on, AdamW with AMSGrad, gradients clipped to norm 1,
an exponential average of the weights, and a cosine to zero at the end of the budget. Errors
along the way are those of the averaged weights, so one run also shows part of its curve.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import records
import torch
from ase import Atoms

CURVE = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""Shares of the budget at which errors are measured along the way."""
WARMUP = 0.02
DEFAULTS: dict[str, Any] = {
    "batch_size": 2,
    "learning_rate": 0.01,
    "energy_weights": [0.1, 10.0],
    "clip": 1.0,
    "weight_decay": 1e-6,
    "average": 0.99,
    "model": {},
}


def load_adapter(package: str) -> Any:
    """The module ``<package>_model`` beside this one: build_model, prepare, collate, predict."""
    return importlib.import_module(f"{package}_model")


def fit_references(structures: Sequence[Atoms], isolated: dict[str, float] | None) -> dict[str, float]:
    """Energy per atom of each element: isolated atoms', or fitted to the structures' compositions."""
    elements = sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
    if isolated is not None:
        return {element: isolated[element] for element in elements}
    counts = np.array([[atoms.get_chemical_symbols().count(e) for e in elements] for atoms in structures])
    energies = [atoms.get_potential_energy() for atoms in structures]
    return dict(zip(elements, np.linalg.lstsq(counts, energies, rcond=None)[0].tolist(), strict=True))


class RivalTrainer:
    """Optimises the model of ``adapter`` for ``budget`` seconds."""

    def __init__(self, adapter: Any, model: torch.nn.Module, settings: dict[str, Any], budget: float) -> None:
        self.adapter, self.model, self.settings, self.budget = adapter, model, settings, budget
        self.average = copy.deepcopy(model)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, amsgrad=True, weight_decay=settings["weight_decay"]
        )
        self.steps = 0

    def advance(self, items: list[Any], fraction: float) -> None:
        """One step on ``items`` at ``fraction`` of the budget."""
        batch, energies, forces, sizes = self.adapter.collate(items)
        predicted_energies, predicted_forces = self.adapter.predict(self.model, batch, training=True)
        low, high = self.settings["energy_weights"]
        weight = low * (high / low) ** fraction
        loss = weight * ((predicted_energies - energies) / sizes).square().mean()
        loss = loss + (predicted_forces - forces).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip"])
        rise = min(1.0, (fraction + 0.1 * WARMUP) / WARMUP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings["learning_rate"] * rise * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
        self.optimizer.step()
        self.steps += 1
        self._average(min(self.settings["average"], (1 + self.steps) / (10 + self.steps)))

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(parameter, 1 - decay)

    def evaluate(self, prepared: Sequence[Any], structures: Sequence[Atoms]) -> dict[str, float]:
        """Errors of the averaged weights."""
        energies, forces = [], []
        for item in prepared:
            energy, force = self.adapter.predict(self.average, self.adapter.collate([item])[0], training=False)
            energies.append(energy.item())
            forces.append(force.detach().cpu().numpy())
        return records.measure_errors(structures, energies, forces)


def main() -> None:
    """Train, evaluate and write the record."""
    given = records.run_parser(__doc__).parse_args()
    records.single_thread()
    torch.manual_seed(given.seed)
    settings = {**DEFAULTS, **given.settings}
    adapter = load_adapter(given.package)
    train = records.read_split(given.data, "train")
    began, watch = time.perf_counter(), records.Stopwatch(given.device)
    references = fit_references(train, records.read_isolated(given.data))
    model, summary = adapter.build_model(train, settings["model"], references, given.seed, given.device)
    items = [adapter.prepare(atoms, summary, given.device) for atoms in train]
    data_seconds = watch.seconds
    with watch.paused():
        held = {name: records.read_split(given.data, name) for name in ["valid", *records.test_names(given.data)]}
        graphs = {n: [adapter.prepare(atoms, summary, given.device) for atoms in s] for n, s in held.items()}
        trainer = RivalTrainer(adapter, model, settings, given.budget)
    curve, marks = [], list(CURVE)
    generator = np.random.default_rng(given.seed)
    while (seconds := watch.seconds) < given.budget:
        order = generator.permutation(len(items))
        for start in range(0, len(items) - settings["batch_size"] + 1, settings["batch_size"]):
            if (seconds := watch.seconds) >= given.budget:
                break
            trainer.advance([items[i] for i in order[start : start + settings["batch_size"]]], seconds / given.budget)
            if marks and seconds / given.budget >= marks[0]:
                marks.pop(0)
                with watch.paused():
                    errors = {n: trainer.evaluate(graphs[n], held[n]) for n in ("valid", "test") if n in held}
                    curve.append({"cpu_seconds": seconds, "steps": trainer.steps, "errors": errors})
                    print(json.dumps(curve[-1]), flush=True)
    record = {
        "kind": "training",
        "package": given.package,
        "variant": given.variant,
        "dataset": given.data.name,
        "seed": given.seed,
        "budget": given.budget,
        "device": given.device,
        "settings": settings,
        "cpu_seconds": watch.seconds,
        "data_seconds": data_seconds,
        "wall_seconds": time.perf_counter() - began,
        "steps": trainer.steps,
        "n_train": len(train),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "errors": {name: trainer.evaluate(graphs[name], held[name]) for name in held},
        "curve": curve,
    }
    save_model(given.model, trainer.average, summary)
    records.write_record(given.out, record)


def save_model(folder: Path, model: torch.nn.Module, summary: dict[str, Any]) -> None:
    """Write weights and what is needed to build the model again."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
