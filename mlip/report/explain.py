"""Why a frame was taken for a label or left, and what another budget or rule would have done, from stored scores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import xarray as xr

from mlip.active.tables import ScoredEnvironments
from mlip.config.label import Guards
from mlip.config.loop import Select, SelectionMethod
from mlip.io.files import read_json, read_table
from mlip.io.netcdf import read_netcdf
from mlip.loop.select_candidates import Verdict, decide
from mlip.seeds import derive_rng

IDENTITY = re.compile(r"iter_(\d+)-walker_\d+-frame_\d+")


class FrameError(ValueError):
    """A frame that no results hold."""


@dataclass(frozen=True)
class Selection:
    """The stored scores of one iteration and how its batch was chosen from them."""

    table: xr.Dataset
    environments: ScoredEnvironments
    settings: Select
    min_ratio: float
    seed: int
    iteration: int

    @classmethod
    def read(cls, results: Path, iteration: int) -> Selection:
        """That of an iteration in a results folder."""
        folder = results / f"iter_{iteration:02d}"
        config = read_json(folder / "provenance.json")["config"]
        return cls(
            read_netcdf(folder / "score_frames" / "frames.nc", required=("expected_squared_error",)),
            ScoredEnvironments.from_dataset(read_netcdf(folder / "score_frames" / "environments.nc")),
            Select(**config["select"]),
            Guards(**config["label"]["guards"]).min_distance_factor,
            int(config["seed"]),
            iteration,
        )

    def decide(self, **changes: Any) -> list[Verdict]:
        """The verdicts of all frames, with some settings changed."""
        rng = derive_rng(self.seed, "select_candidates", self.iteration)
        settings = self.settings.model_copy(update=changes)
        return decide(self.table, self.environments, settings, self.min_ratio, rng)


def explain_frame(results: Path, frame: str, *, budget: int | None = None) -> list[str]:
    """Lines that say what became of ``frame`` in ``results``, and what would have with another ``budget`` or rule.

    Args:
        results: folder of a system's results.
        frame: identity of a frame, e.g. ``iter_00-walker_03-frame_0120``.
        budget: structures of a batch to try, audits among them; by default, the smallest that takes the frame.

    Raises:
        FrameError: for a frame that there is not.
        TrajectoryError: where scores are missing or of an earlier version.
    """
    match = IDENTITY.fullmatch(frame)
    if match is None:
        raise FrameError(f"{frame!r} is no frame; give one of decisions.csv, e.g. iter_00-walker_03-frame_0120")
    iteration = int(match[1])
    selection = Selection.read(results, iteration)
    rows = np.flatnonzero(selection.table.structure_id.values.astype(str) == frame)
    if not len(rows):
        n = selection.table.sizes["candidate"]
        raise FrameError(f"{frame}: iteration {iteration} has {n} scored frames, and not this one; see decisions.csv")
    row = int(rows[0])
    decisions = read_table(results / f"iter_{iteration:02d}" / "select_candidates" / "decisions.csv")
    stored = decisions[decisions["structure_id"].astype(str) == frame].iloc[0]
    lines = [f"{frame}: {stored['decision']}", f"  why: {stored['reason']}", *_describe(selection.table, row)]
    if int(stored["atom"]) >= 0:
        nearest = stored["nearest"] if isinstance(stored["nearest"], str) and stored["nearest"] else "one of this batch"
        lines.append(f"  atom: {int(stored['atom'])}; nearest environment that teaches: of {nearest}")
    if stored["decision"] != "audit":
        lines += _try_budgets(selection, row, budget)
        lines += _try_methods(selection, row)
    return lines


def _describe(table: xr.Dataset, row: int) -> list[str]:
    value = {str(name): table[name].values[row] for name in table.data_vars if table[name].dims == ("candidate",)}
    error, largest = float(value["expected_squared_error"]) ** 0.5, float(value["force_uncertainty"])
    heat, aim = float(value["temperature"]), float(value["target_temperature"])
    where = f"{int(value['n_atoms'])} atoms, {heat:.0f} K (aimed at {aim:.0f} K), {float(value['time_fs']):g} fs after"
    unsure = f"largest uncertainty {largest:.3g} eV/Å, novelty {float(value['novelty']):.3g}"
    return [
        f"  expected error {error:.3g} eV/Å per component, {unsure}",
        f"  {where} its start; a label of about {float(value['label_cost']):.3g} core-s",
    ]


def _try_budgets(selection: Selection, row: int, budget: int | None) -> list[str]:
    """Whether a batch of ``budget`` holds the frame, or from which one on."""
    n = selection.settings.n_structures
    if budget is not None:
        taken = selection.decide(n_structures=max(budget, selection.settings.n_audit))[row].decision == "uncertain"
        return [f"  with a budget of {budget} (was {n}): {'taken' if taken else 'left'}"]
    most = selection.table.sizes["candidate"]
    everything = selection.decide(n_structures=most)[row]
    if everything.decision != "uncertain":
        return [f"  no budget takes it: {everything.reason}"]
    low, high = selection.settings.n_audit, most  # a batch grows one by one, so larger ones hold the smaller
    while high - low > 1:
        middle = (low + high) // 2
        taken = selection.decide(n_structures=middle)[row].decision == "uncertain"
        low, high = (low, middle) if taken else (middle, high)
    return [f"  taken from a budget of {high} on (was {n})"]


def _try_methods(selection: Selection, row: int) -> list[str]:
    others = [name for name in get_args(SelectionMethod) if name != selection.settings.method]
    taken = [name for name in others if selection.decide(method=name)[row].decision == "uncertain"]
    return [f"  with the same budget, it is taken by: {', '.join(taken) or 'no other rule'}"]
