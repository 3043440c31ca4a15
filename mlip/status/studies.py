"""Where the studies beside a loop are, from their files alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlip.config.study import study_names
from mlip.config.system import Config
from mlip.io.layout import count_frames, count_in_shards, error_in


@dataclass(frozen=True)
class StudyStatus:
    """One study that has begun."""

    name: str
    round: int
    """The round under way, or the last one."""
    rounds: int
    """Planned after round 0, which only measures."""
    next_step: str
    """The first step that is not done; empty when the study is."""
    labels_done: int = 0
    labels_planned: int = 0
    message: str = ""
    """Last line of the log of that step, where it failed."""


def read_studies(config: Config, root: Path) -> tuple[StudyStatus, ...]:
    """Every study of ``results/<system>`` that has begun."""
    return tuple(_read_study(config, root, name) for name in study_names() if _has_begun(root, name))


def _has_begun(root: Path, name: str) -> bool:
    return (root / "studies" / name).is_dir() or (root / "logs" / "studies" / name).is_dir()


def _read_study(config: Config, root: Path, name: str) -> StudyStatus:
    folder, rounds = root / "studies" / name, getattr(config.studies, name).rounds
    n_shards = config.label.n_shards
    steps = list(_outputs(folder, rounds, n_shards))
    number, step = next(((k, step) for k, step, paths in steps if not all(p.exists() for p in paths)), (rounds, ""))
    counts = [count_in_shards(folder / f"round_{k:02d}" / "labels", n_shards) for k in range(1, number + 1)]
    chosen = [count_frames(folder / f"round_{k:02d}" / "candidates.extxyz") for k in range(number)]
    logs = root / "logs" / "studies" / name
    found = sorted([*logs.glob(f"{step}*.log"), *logs.glob(f"round_{number:02d}/{step}*.log")]) if step else []
    return StudyStatus(
        name=name,
        round=number,
        rounds=rounds,
        next_step=step,
        labels_done=sum(done for done, _ in counts),
        labels_planned=sum(max(planned, n) for (_, planned), n in zip(counts, chosen, strict=True)),
        message=next(filter(None, map(error_in, found)), ""),
    )


def _outputs(folder: Path, rounds: int, n_shards: int) -> Iterator[tuple[int, str, list[Path]]]:
    """Round, step and outputs of a study's jobs, in their order (workflow/rules/studies.smk)."""
    yield 0, "refer_study", [folder / "reference.nc"]
    for number in range(rounds + 1):
        place = folder / f"round_{number:02d}"
        if number:
            yield number, "label_candidates", [place / "labels" / f"shard_{k:03d}.json" for k in range(n_shards)]
            yield number, "join_labels", [place / "dataset" / "dataset.json"]
            yield number, "train_study", [place / "potential" / "potential.json"]
        yield number, "measure_study", [place / "property.nc"]
        if number < rounds:
            yield number, "acquire_candidates", [place / "candidates.extxyz"]
    yield rounds, "report_study", [folder / "report.html"]
