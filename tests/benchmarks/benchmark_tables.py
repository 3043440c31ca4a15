"""Tables of the benchmark from records of single runs; no number comes from anywhere else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Record = dict[str, Any]
BLANK = "–"


@dataclass(frozen=True)
class Sources:
    """All that a report is made of."""

    runs: list[Record]
    speed: list[Record]
    published: list[Record]
    labels: dict[str, str]
    same_training: tuple[str, ...] = ()
    """Digests of earlier training code that trains the same weights."""

    def label(self, variant: str) -> str:
        """The name that people read."""
        return self.labels.get(variant, variant)


def load_sources(results: Path, published: Path, config: Path, earlier: Path | None = None) -> Sources:
    """Read every record below ``results``, the published figures and the variants' labels.

    What ``results`` lack of other packages' runs, and of measurements of speed, comes from records in ``earlier``.
    """

    def load(folder: Path) -> list[Record]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("**/*.json"))]

    runs, speed = load(results / "runs"), load(results / "speed")
    if earlier is not None:
        known = {run_key(run) for run in runs}
        runs += [run for run in load(earlier / "runs") if run_key(run) not in known]
        speed = merge_speed(speed, load(earlier / "speed"))
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    labels = {name: variant.get("label", name) for name, variant in given["variants"].items()}
    figures = yaml.safe_load(published.read_text(encoding="utf-8"))
    return Sources(runs, speed, figures, labels, tuple(given.get("same_training", ())))


def run_key(run: Record) -> tuple[object, ...]:
    """What one run of the benchmark is known by."""
    return tuple(run[name] for name in ("variant", "dataset", "device", "budget", "seed"))


def merge_speed(new: list[Record], earlier: Sequence[Record]) -> list[Record]:
    """``new`` measurements, with the rows of variants that only the ``earlier`` ones have."""
    merged = {(record["kind"], record["device"]): record for record in earlier}
    for record in new:
        before = merged.get((record["kind"], record["device"]), {})
        if "rows" in record:
            known = {row["variant"] for row in record["rows"]}
            record["rows"] += [row for row in before.get("rows", []) if row["variant"] not in known]
        merged[record["kind"], record["device"]] = record
    return list(merged.values())


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    dataset: str
    variant: str
    device: str
    budget: float
    runs: tuple[Record, ...]

    def mean(self, *keys: str) -> float | None:
        """Mean over the seeds of a number inside the record; None where it is missing."""
        values = [v for v in (dig(run, keys) for run in self.runs) if v is not None]
        return statistics.fmean(values) if values else None

    def show(self, *keys: str) -> str:
        """Mean and, of several seeds, standard deviation."""
        values = [v for v in (dig(run, keys) for run in self.runs) if v is not None]
        if not values:
            return BLANK
        text = number(statistics.fmean(values))
        return f"{text} ± {number(statistics.stdev(values), 2)}" if len(values) > 1 else text


def dig(record: Record, keys: Sequence[str]) -> float | None:
    """The number under nested ``keys``, or None."""
    found: Any = record
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return float(found)


def group_runs(runs: Iterable[Record], dataset: str, device: str = "cpu") -> list[Group]:
    """Groups of one data set, by variant and rising budget; other settings or other code make another group."""
    found: dict[tuple[str, float, str], list[Record]] = {}
    for run in runs:
        if run["dataset"] == dataset and run["device"] == device:
            key = (run["variant"], float(run["budget"]), json.dumps([run["settings"], run.get("code")], sort_keys=True))
            found.setdefault(key, []).append(run)
    return [Group(dataset, v, device, b, tuple(members)) for (v, b, _), members in sorted(found.items())]


def number(value: float | None, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits, never in exponent form below 1e6."""
    if value is None:
        return BLANK
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text and 1 <= abs(value) < 1e9 else text


def whole(value: float | None) -> str:
    """``value`` to the nearest integer."""
    return BLANK if value is None else f"{value:.0f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def accuracy_table(sources: Sources, dataset: str, device: str = "cpu") -> str:
    """Errors on the test structures against seconds of training, then published errors."""
    clock = "CPU-s" if device == "cpu" else "s"
    header = ["", f"training, {clock}", "of it data", "seeds", "steps", "parameters", "E MAE, meV/atom", "E RMSE"]
    header += ["F MAE, meV/Å", "F RMSE", "validation E MAE", "validation F MAE"]
    rows = [
        [
            sources.label(group.variant),
            number(group.mean("cpu_seconds")),
            number(group.mean("data_seconds"), 2),
            str(len(group.runs)),
            whole(group.mean("steps")),
            whole(group.mean("n_parameters")),
            group.show("errors", "test", "energy_mae"),
            group.show("errors", "test", "energy_rmse"),
            group.show("errors", "test", "force_mae"),
            group.show("errors", "test", "force_rmse"),
            group.show("errors", "valid", "energy_mae"),
            group.show("errors", "valid", "force_mae"),
        ]
        for group in group_runs(sources.runs, dataset, device)
    ]
    keys = ("energy_mae", "energy_rmse", "force_mae", "force_rmse")
    for entry in sources.published if device == "cpu" else []:
        if entry["dataset"] == dataset:
            errors = [number(entry["errors"].get(key)) for key in keys]
            rows.append([f"{entry['model']} (published)", *[BLANK] * 5, *errors, BLANK, BLANK])
    return markdown(header, rows)


def molecule_table(sources: Sources, dataset: str, tests: dict[str, str], device: str = "cpu") -> str:
    """RMSE of energy (meV a molecule) and forces (meV/Å) on every test set, then published ones."""
    header = ["", "training, CPU-s" if device == "cpu" else "training, s", "seeds"]
    header += [f"{label}: E / F" for label in tests.values()]
    rows = []
    for group in group_runs(sources.runs, dataset, device):
        cells = [
            f"{group.show('errors', test, 'energy_rmse_structure')} / {group.show('errors', test, 'force_rmse')}"
            for test in tests
        ]
        rows.append([sources.label(group.variant), number(group.mean("cpu_seconds")), str(len(group.runs)), *cells])
    published = [entry for entry in sources.published if entry["dataset"] == dataset] if device == "cpu" else []
    for model in dict.fromkeys(entry["model"] for entry in published):
        errors = {entry["test"]: entry["errors"] for entry in published if entry["model"] == model}
        cells = [
            " / ".join(number(errors.get(test, {}).get(key)) for key in ("energy_rmse_structure", "force_rmse"))
            for test in tests
        ]
        rows.append([f"{model} (published)", BLANK, BLANK, *cells])
    return markdown(header, rows)


def lead_table(sources: Sources, dataset: str, ours: Sequence[str]) -> str:
    """For every point of a rival's curve: the least time in which ours was at least as good in energy and force."""
    own = [g for g in group_runs(sources.runs, dataset) if g.variant in ours]
    header = ["", "CPU-s", "E MAE", "F MAE", "ours at least as good after, CPU-s", "times sooner"]
    rows = []
    for variant, seconds, errors in rival_points(sources, dataset, ours):
        reached = [
            time
            for group in own
            if (time := group.mean("cpu_seconds")) is not None
            and all((group.mean("errors", "test", key) or float("inf")) <= errors[key] for key in KEYS)
        ]
        best = min(reached, default=None)
        cells = [number(seconds), *(number(errors[key]) for key in KEYS), number(best)]
        rows.append([variant, *cells, number(seconds / best) if best else BLANK])
    return markdown(header, rows)


KEYS = ("energy_mae", "force_mae")
MIDWAY = 0.15
"""Share of a run before which its learning rate is too high for its errors to say anything."""


def rival_points(sources: Sources, dataset: str, ours: Sequence[str]) -> list[tuple[str, float, Record]]:
    """End points of the other packages' runs, and points along their longest run: label, seconds, errors."""
    groups = [g for g in group_runs(sources.runs, dataset) if g.variant not in ours]
    points = []
    for group in groups:
        longest = max(g.budget for g in groups if g.variant == group.variant)
        label = sources.label(group.variant)
        if group.budget == longest:
            points += [
                (f"{label}, on the way to {number(longest)} s", *mean_point(points_of_seeds))
                for points_of_seeds in zip(*(run["curve"] for run in group.runs), strict=True)
                if mean_point(points_of_seeds)[0] > MIDWAY * longest
            ]
        errors = {key: group.mean("errors", "test", key) for key in KEYS}
        points.append((label, group.mean("cpu_seconds") or 0.0, errors))
    return points


def mean_point(points: Sequence[Record]) -> tuple[float, Record]:
    """Seconds and test errors of several seeds' runs at the same place on their way."""
    errors = {key: statistics.fmean(point["errors"]["test"][key] for point in points) for key in KEYS}
    return statistics.fmean(point["cpu_seconds"] for point in points), errors


def speed_rows(sources: Sources, kind: str, device: str) -> list[Record]:
    """Rows of one speed measurement, or none."""
    return [
        r for record in sources.speed if (record["kind"], record["device"]) == (kind, device) for r in record["rows"]
    ]


def speed_table(sources: Sources, kind: str, device: str = "cpu", clock: str = "cpu_us") -> str:
    """µs per atom and step of every package, a column for each size."""
    rows = speed_rows(sources, kind, device)
    sizes = sorted({row["n_atoms"] for row in rows})
    table = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = {row["n_atoms"]: row for row in rows if row["variant"] == variant}
        cells = [
            f"{number(own[n][clock]['min'])} / {number(own[n][clock]['median'])}" if n in own else BLANK for n in sizes
        ]
        table.append([sources.label(variant), *cells, number(max(row["setup_seconds"] for row in own.values()), 2)])
    return markdown(["µs/atom/step, least / median", *(f"{n} atoms" for n in sizes), "set-up, s"], table)


def size_table(sources: Sources, device: str = "cpu") -> str:
    """Cost of MD against the number of atoms, with memory."""
    rows = speed_rows(sources, "size", device)
    return markdown(
        ["", "atoms", "µs/atom/step, least", "median", "peak memory, MiB"],
        (
            [
                sources.label(r["variant"]),
                str(r["n_atoms"]),
                number(r["cpu_us"]["min"]),
                number(r["cpu_us"]["median"]),
                number(r["peak_mib"]),
            ]
            for r in rows
        ),
    )


def committee_table(sources: Sources, device: str = "cpu") -> str:
    """Time of a training step and of an MD step of each of our variants, relative to the first."""
    records = [r for r in sources.speed if (r["kind"], r["device"]) == ("training_cost", device)]
    if not records:
        return ""
    steps = records[0]["committee"]
    md = speed_rows(sources, "speed", device)
    header = ["", "training step, ms, least / median", "relative to the first"]
    sizes = sorted({row["n_atoms"] for row in md})
    header += [f"MD, {n} atoms, relative to the first" for n in sizes]
    rows = []
    for entry in steps:
        times = entry["step_seconds"]
        cells = [f"{number(1e3 * times['min'])} / {number(1e3 * times['median'])}"]
        cells.append(number(times["min"] / steps[0]["step_seconds"]["min"]))
        for n in sizes:
            cost = {row["variant"]: row["cpu_us"]["min"] for row in md if row["n_atoms"] == n}
            known = entry["variant"] in cost and steps[0]["variant"] in cost
            cells.append(number(cost[entry["variant"]] / cost[steps[0]["variant"]]) if known else BLANK)
        rows.append([sources.label(entry["variant"]), *cells])
    return markdown(header, rows)


def training_table(sources: Sources, device: str = "cpu") -> str:
    """Training time against atoms."""
    records = [r for r in sources.speed if (r["kind"], r["device"]) == ("training_cost", device)]
    return markdown(
        ["structures", "atoms", "epochs", "seconds, geometry included", "ms/atom/epoch"],
        (
            [
                str(row["n_structures"]),
                str(row["n_atoms"]),
                str(row["epochs"]),
                number(row["seconds"]),
                number(1e3 * row["seconds"] / row["n_atoms"] / row["epochs"]),
            ]
            for record in records
            for row in record["sizes"]
        ),
    )


def flatten_runs(runs: Sequence[Record]) -> list[dict[str, Any]]:
    """A flat row for every run, for the CSV file."""
    names = ("package", "variant", "dataset", "device", "seed", "budget", "cpu_seconds", "data_seconds", "wall_seconds")
    rows = []
    for run in runs:
        row = {name: run.get(name) for name in (*names, "steps", "n_train", "n_parameters")}
        for test, errors in run["errors"].items():
            row |= {f"{test}_{key}": value for key, value in errors.items()}
        rows.append(row | {"settings": json.dumps(run["settings"])})
    return rows


def flatten_speed(speed: Sequence[Record]) -> list[dict[str, Any]]:
    """A flat row for every case of every speed measurement."""
    rows = []
    for record in speed:
        for row in record.get("rows", []):
            flat = {
                k: row[k] for k in ("variant", "package", "device", "walkers", "n_atoms", "setup_seconds", "peak_mib")
            }
            flat |= {f"{clock}_{k}": v for clock in ("cpu_us", "wall_us") for k, v in row[clock].items()}
            rows.append({"kind": record["kind"], **flat})
    return rows
