"""Where the studies beside a loop are, from their files alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlip.config.study import study_names
from mlip.config.system import Config
from mlip.io.files import read_json
from mlip.io.layout import log_folder, output_path, study_folder
from mlip.io.partial import count_frames, count_in_shards, error_in


@dataclass(frozen=True)
class StudyStatus:
    """One study that has begun.

    Attributes:
        round: the round under way, or the last one.
        rounds: planned after round 0, which only measures: those of the configuration, or fewer where it has ended.
        next_step: the first step that is not done; empty when the study is.
        message: last line of the log of that step, where it failed.
    """

    name: str
    round: int
    rounds: int
    next_step: str
    labels_done: int = 0
    labels_planned: int = 0
    message: str = ""


def read_studies(config: Config, root: Path) -> tuple[StudyStatus, ...]:
    """Every study of ``results/<system>`` that has begun."""
    return tuple(_read_study(config, root, name) for name in study_names() if _has_begun(root, name))


def _has_begun(root: Path, name: str) -> bool:
    return study_folder(root, name).is_dir() or log_folder(root, study=name).is_dir()


def _read_study(config: Config, root: Path, name: str) -> StudyStatus:
    rounds, n_shards = _last_round(root, name, getattr(config.studies, name).rounds), config.label.n_shards
    steps = list(_outputs(root, name, rounds, n_shards))
    number, step = next(((k, step) for k, step, paths in steps if not all(p.exists() for p in paths)), (rounds, ""))
    counts = [count_in_shards(paths) for k, kind, paths in steps if kind == "label_candidates" and k <= number]
    chosen = [
        count_frames(output_path(root, "acquire_candidates", "candidates.extxyz", study=name, round=k))
        for k in range(number)
    ]
    folders = log_folder(root, study=name), log_folder(root, study=name, round_=number)
    logs = [log for folder in folders for log in folder.glob(f"{step}*.log")] if step else []
    return StudyStatus(
        name=name,
        round=number,
        rounds=rounds,
        next_step=step,
        labels_done=sum(done for done, _ in counts),
        labels_planned=sum(max(planned, n) for (_, planned), n in zip(counts, chosen, strict=True)),
        message=next(filter(None, map(error_in, sorted(logs))), ""),
    )


def _last_round(root: Path, name: str, rounds: int) -> int:
    """The round after which the study has ended, or else the last of the ``rounds`` allowed."""
    for number in range(rounds):
        verdict = output_path(root, "acquire_candidates", "verdict.json", study=name, round=number)
        with contextlib.suppress(OSError, ValueError, KeyError):  # not there, or half written
            if read_json(verdict)["stop"]:
                return number
    return rounds


def _outputs(root: Path, study: str, rounds: int, n_shards: int) -> Iterator[tuple[int, str, list[Path]]]:
    """Round, step and the outputs that tell that it is done, of a study's jobs in their order."""

    def job(number: int, step: str, name: str, n_parts: int = 1) -> tuple[int, str, list[Path]]:
        wanted = [output_path(root, step, name, study=study, round=number, shard=k) for k in range(n_parts)]
        return number, step, wanted

    yield job(0, "refer_study", "reference.nc")
    for number in range(rounds + 1):
        if number:
            yield job(number, "label_candidates", "shard_{shard}.json", n_shards)
            yield job(number, "join_labels", "dataset.json")
            yield job(number, "train_study", "potential.json")
        yield job(number, "measure_study", "property.nc")
        if number < rounds:
            yield job(number, "acquire_candidates", "candidates.extxyz")
    yield job(rounds, "report_study", "report.html")
