"""Reading what a running loop has left so far: nothing here fails on files that are missing or half-written."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlip.io.layout import candidates_path, output_path, progress_path, shard_paths


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is missing, half-written or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def mapping(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The JSON object at ``name``, empty where there is none."""
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def records_of(shard: dict[str, Any]) -> list[dict[str, Any]]:
    """The label records of a shard."""
    listed = shard.get("records")
    return [record for record in listed if isinstance(record, dict)] if isinstance(listed, list) else []


def whole(value: Any) -> int:
    """A number as integer, 0 for anything else."""
    return int(value) if isinstance(value, (int, float)) else 0


def number_or_none(value: Any) -> float | None:
    """A number as float, None for anything else."""
    return float(value) if isinstance(value, (int, float)) else None


def modified(path: Path) -> float | None:
    """Time of the last change in seconds since the epoch, None where there is no file."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def error_in(log: Path) -> str:
    """The last line of a log that holds a traceback, else nothing."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 20_000))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines and any(line.startswith("Traceback (most recent") for line in lines) else ""


def count_in_shards(shards: Sequence[Path]) -> tuple[int, int]:
    """Labels finished and planned in those of these shards that have begun."""
    done = planned = 0
    for shard in shards:
        finished, running = read_object(shard), read_object(progress_path(shard))
        done += len(records_of(finished)) if finished else whole(running.get("done"))
        planned += whole(finished.get("planned")) if finished else whole(running.get("planned"))
    return done, planned


def count_labels(root: Path, number: int, n_shards: int) -> tuple[int, int]:
    """Labels finished and planned in one iteration, running shards included."""
    done, planned = count_in_shards(shard_paths(root, number, n_shards))
    return done, max(planned, count_frames(candidates_path(root, number)))


def count_frames(path: Path) -> int:
    """Whole structures in an extended XYZ file; 0 where there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    frames = position = 0
    while position < len(lines) and lines[position].strip().isdigit():
        position += int(lines[position]) + 2
        frames += position <= len(lines)
    return frames


def read_failures(root: Path, numbers: Iterable[int]) -> list[dict[str, Any]]:
    """Failed labels of the iterations ``numbers``, as of :func:`join_failures`."""
    return join_failures(
        (
            number,
            [record for path in shard_paths(root, number) for record in records_of(read_object(path))],
            read_object(output_path(root, "collect_dataset", "dataset.json", iteration=number)),
        )
        for number in numbers
    )


def join_failures(
    iterations: Iterable[tuple[int, Sequence[dict[str, Any]], dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Failed labels, each once, in the order they happened: iteration, structure_id, status, reason.

    A label fails in its shard, or passes there and is screened out when the data set is collected.

    Args:
        iterations: Number of an iteration, the label records of its shards and the object in its ``dataset.json``.
    """
    failures: dict[tuple[int, str], dict[str, Any]] = {}
    for number, records, dataset in iterations:
        listed = dataset.get("failures")
        screened = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        for record in [record for record in records if record.get("status") != "ok"] + screened:
            iteration, name = whole(record.get("iteration", number)), str(record.get("structure_id", "?"))
            entry = {"iteration": iteration, "structure_id": name, "status": str(record.get("status", "?"))}
            failures.setdefault((iteration, name), entry | {"reason": str(record.get("reason") or "")})
    return sorted(failures.values(), key=lambda entry: entry["iteration"])


def read_benchmark(path: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the last run in a Snakemake benchmark file; 0 where it does not say."""
    try:
        with path.open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        return _positive(rows[-1].get("s")), _positive(rows[-1].get("cpu_time"))
    except (OSError, ValueError, IndexError, csv.Error):
        return 0.0, 0.0


def _positive(text: str | None) -> float:
    return float(text) if text and re.fullmatch(r"\d+(\.\d*)?", text) else 0.0
