"""What the report reads: the files that each iteration left, gathered and made uniform.

A report must come out even when a loop ended half-way, so everything beside
``assessment.json`` is optional: what is absent is simply not drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from mlip.io.files import FileContentError, read_json, read_table
from mlip.io.layout import STEPS, assessment_path, output_path, shard_paths
from mlip.io.netcdf import TrajectoryError, read_netcdf
from mlip.io.partial import join_failures, read_object
from mlip.jobs.ledger import Ledger, read_ledger


@dataclass(frozen=True)
class IterationRecord:
    """The files of one iteration; ``None`` or empty where there are none.

    Attributes:
        labels: label records of all shards.
        potential: what ``potential.json`` says of the committee.
        damaged: what is wrong with files that are there and were left out.
    """

    number: int
    assessment: dict[str, Any]
    dataset: dict[str, Any]
    training: dict[str, Any]
    provenance: dict[str, Any]
    labels: list[dict[str, Any]]
    decisions: pd.DataFrame | None
    parity: xr.Dataset | None
    eos: xr.Dataset | None
    potential: dict[str, Any] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    @property
    def usable_labels(self) -> int:
        """Labels in the training, validation and test sets."""
        splits = self.assessment.get("dataset") or self.dataset
        return sum(int(splits.get(name) or 0) for name in ("train", "valid", "test"))

    def core_seconds(self) -> dict[str, float]:
        """Core-seconds per step; labels by their own records, which outlive reruns."""
        steps = self.provenance.get("steps") or {}
        costs = {name: float(cost.get("core_seconds") or cost.get("wall_seconds") or 0) for name, cost in steps.items()}
        if self.labels:
            costs["label_structures"] = sum(float(r.get("core_seconds") or 0) for r in self.labels)
        return costs


@dataclass(frozen=True)
class LoopRecord:
    """All iterations of a loop, in order, and what they cost.

    Attributes:
        studies: ``result.json`` of every study that is done, with the name of its ``folder``.
        retrained: what the deployed potential says of its training on all labels; empty without one.
    """

    iterations: list[IterationRecord]
    ledger: Ledger
    studies: list[dict[str, Any]] = field(default_factory=list)
    retrained: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> IterationRecord:
        """The last iteration."""
        return self.iterations[-1]

    @property
    def history(self) -> list[dict[str, Any]]:
        """The assessments, in order."""
        return [record.assessment for record in self.iterations]

    @property
    def species(self) -> tuple[str, ...]:
        """Elements that the potential knows; none where that is not known."""
        return tuple(str(symbol) for symbol in self.last.potential.get("species") or ())

    @property
    def cutoff(self) -> float | None:
        """Radius of an atom's environment, Å; None where it is not known."""
        value = self.last.potential.get("cutoff")
        return float(value) if isinstance(value, (int, float)) else None

    def origins(self) -> dict[str, int]:
        """Labels of the last data set by what made their structures, the most first."""
        listed = self.last.dataset.get("origins")
        return dict(Counter(listed if isinstance(listed, dict) else {}).most_common())

    def failure_classes(self) -> list[tuple[str, int, str]]:
        """Failed labels by status: class, how many, and the most frequent reason."""
        reasons: dict[str, Counter[str]] = {}
        for failure in self.failures():
            reasons.setdefault(failure["status"], Counter())[failure["reason"]] += 1
        rows = [(name, counts.total(), counts.most_common(1)[0][0]) for name, counts in reasons.items()]
        return sorted(rows, key=lambda row: -row[1])

    def costs(self) -> list[dict[str, dict[str, Any]]]:
        """Per iteration, the ledger's row of each step; what belongs to none of them is with the first.

        Results from before there was a ledger have a cost in their provenance instead.
        """
        found = []
        for place, record in enumerate(self.iterations):
            rows = self.ledger.of_iteration(record.number)
            rows = rows or {name: {"core_seconds": seconds} for name, seconds in record.core_seconds().items()}
            found.append(rows | (self.ledger.of_iteration(None) if place == 0 else {}))
        return found

    def core_seconds(self) -> dict[str, float]:
        """Core-seconds per step over all iterations, in the order of the steps."""
        return self._total("core_seconds")

    def gpu_seconds(self) -> dict[str, float]:
        """GPU-seconds per step over all iterations; empty where no step had a GPU."""
        total = self._total("gpu_seconds")
        return total if any(total.values()) else {}

    def _total(self, what: str) -> dict[str, float]:
        total: Counter[str] = Counter()
        for rows in self.costs():
            total.update({name: float(row.get(what) or 0) for name, row in rows.items()})
        names = [name for name in STEPS if name in total] + sorted(set(total) - set(STEPS))
        return {name: float(total[name]) for name in names}

    def failures(self) -> list[dict[str, Any]]:
        """Failed labels with iteration, structure, status and reason, in the order they happened."""
        return join_failures((record.number, record.labels, record.dataset) for record in self.iterations)

    def warnings(self) -> list[tuple[str, int, list[int]]]:
        """Warnings that labels carry, the most frequent first: text, labels, iterations."""
        counts: Counter[str] = Counter()
        numbers: dict[str, list[int]] = {}
        for record in self.iterations:
            listed = record.dataset.get("warnings")
            for text, count in (listed if isinstance(listed, dict) else {}).items():
                counts[text] += int(count)
                numbers.setdefault(text, []).append(record.number)
        return [(text, count, numbers[text]) for text, count in counts.most_common()]

    def damaged(self) -> list[str]:
        """Faults of the files that are left out."""
        return [text for record in self.iterations for text in record.damaged]

    def labels_by_reason(self) -> list[Counter[str]]:
        """Per iteration, finished labels by the reason they were chosen, and the ``failed`` ones."""
        chosen: dict[str, str] = {}
        failed = {(f["iteration"], f["structure_id"]) for f in self.failures()}
        counts = []
        for record in self.iterations:
            tally: Counter[str] = Counter()
            for label in record.labels:
                name = str(label.get("structure_id"))
                tally["failed" if (record.number, name) in failed else chosen.get(name, "initial")] += 1
            counts.append(tally)
            if record.decisions is not None:
                chosen.update(zip(record.decisions["structure_id"], record.decisions["decision"], strict=True))
        return counts


def read_loop(root: Path, iterations: Sequence[int]) -> LoopRecord:
    """Read what ``iterations`` left under ``root`` (``results/<system>``).

    Raises:
        ValueError: when no iteration is given or one has no assessment.
    """
    if not iterations:
        raise ValueError("a report needs at least one finished iteration, got none")
    records = [_read_iteration(root, number) for number in sorted(iterations)]
    deployed = read_object(output_path(root, "deploy_potential", "training.json"))
    return LoopRecord(records, read_ledger(root), _read_studies(root), deployed.get("retrained") or {})


def _read_studies(root: Path) -> list[dict[str, Any]]:
    """What the studies beside the loop found; one that is half-written, or of another version, is left out."""
    pattern = output_path(root, "report_study", "result.json", study="*").relative_to(root)
    found = [(path.parent.name, read_object(path)) for path in sorted(root.glob(pattern.as_posix()))]
    return [{"folder": name} | result for name, result in found if isinstance(result.get("quantities"), list)]


def _read_iteration(root: Path, number: int) -> IterationRecord:
    def place(step: str, name: str) -> Path:
        return output_path(root, step, name, iteration=number)

    assessment = _json(assessment_path(root, number))
    if not assessment:
        raise ValueError(f"{assessment_path(root, number)} is missing or damaged; run assess_potential again")
    damaged: list[str] = []
    shards = [_json(path, damaged) for path in shard_paths(root, number)]
    return IterationRecord(
        number=number,
        assessment=assessment,
        dataset=_json(place("collect_dataset", "dataset.json"), damaged),
        training=_json(place("train_committee", "training.json"), damaged),
        provenance=_json(place("record_provenance", "provenance.json"), damaged),
        labels=[record for shard in shards for record in shard.get("records") or []],
        decisions=_decisions(place("select_candidates", "decisions.csv"), damaged),
        parity=_netcdf(place("assess_potential", "parity.nc"), damaged),
        eos=_netcdf(place("assess_potential", "eos.nc"), damaged),
        potential=read_object(place("train_committee", "potential.json")),
        damaged=damaged,
    )


def _json(path: Path, damaged: list[str] | None = None) -> dict[str, Any]:
    """The object in a file, empty where there is none; what is wrong with it is added to ``damaged``."""
    try:
        value = read_json(path)
    except FileContentError as error:
        _note(damaged, error)
        return {}
    except OSError:
        return {}
    return value if isinstance(value, dict) else {}


def _note(damaged: list[str] | None, error: Exception) -> None:
    if damaged is not None:
        damaged.append(str(error))


def _netcdf(path: Path, damaged: list[str]) -> xr.Dataset | None:
    if not path.exists():
        return None
    try:
        return read_netcdf(path)
    except TrajectoryError as error:
        _note(damaged, error)
        return None


def _decisions(path: Path, damaged: list[str]) -> pd.DataFrame | None:
    try:
        table = read_table(path)
    except OSError:
        return None
    except ValueError as error:  # FileContentError among them
        _note(damaged, error)
        return None
    return table if {"structure_id", "decision"} <= set(table.columns) and len(table) else None
