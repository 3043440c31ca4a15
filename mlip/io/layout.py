"""Reading what a running loop has left so far: nothing here fails on half-written files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def iteration_folder(root: Path, number: int) -> Path:
    """The folder of one iteration."""
    return root / f"iter_{number:02d}"


def assessment_path(root: Path, number: int) -> Path:
    """The assessment of one iteration."""
    return iteration_folder(root, number) / "assess_potential" / "assessment.json"


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


def count_in_shards(folder: Path, n_shards: int) -> tuple[int, int]:
    """Labels finished and planned in the shards that have begun."""
    done = planned = 0
    for shard in range(n_shards):
        finished = read_object(folder / f"shard_{shard:03d}.json")
        running = read_object(folder / f"shard_{shard:03d}.progress.json")
        done += len(records_of(finished)) if finished else whole(running.get("done"))
        planned += whole(finished.get("planned")) if finished else whole(running.get("planned"))
    return done, planned


def count_labels(root: Path, number: int, n_shards: int) -> tuple[int, int]:
    """Labels finished and planned in one iteration, running shards included."""
    done, planned = count_in_shards(iteration_folder(root, number) / "label_structures", n_shards)
    if number == 0:
        candidates = iteration_folder(root, 0) / "prepare_structures" / "candidates.extxyz"
    else:
        candidates = iteration_folder(root, number - 1) / "select_candidates" / "candidates.extxyz"
    return done, max(planned, count_frames(candidates))


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
    """Failed labels of the iterations ``numbers``: iteration, structure_id, status, reason."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for number in numbers:
        folder = iteration_folder(root, number)
        shards = sorted((folder / "label_structures").glob("shard_[0-9][0-9][0-9].json"))
        failed = [record for path in shards for record in records_of(read_object(path)) if record.get("status") != "ok"]
        listed = read_object(folder / "collect_dataset" / "dataset.json").get("failures")
        for record in failed + [
            entry for entry in (listed if isinstance(listed, list) else []) if isinstance(entry, dict)
        ]:
            iteration, name = whole(record.get("iteration", number)), str(record.get("structure_id", "?"))
            entry = {"iteration": iteration, "structure_id": name}
            found.setdefault(
                (iteration, name),
                entry | {"status": str(record.get("status", "?")), "reason": str(record.get("reason") or "")},
            )
    return sorted(found.values(), key=lambda entry: entry["iteration"])
