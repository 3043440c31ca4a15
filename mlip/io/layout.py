"""Where everything lies under ``results/<system>/``: what the steps write, their logs, notes and benchmarks.

The rules spell their own files, so that each can be read alone; tests/workflow/test_layout.py holds the two
together. All else that looks for a file of the tree, helpers of the rules included, asks here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

STEPS = (
    "import_data",
    "relabel_data",
    "prepare_structures",
    "label_references",
    "label_isolated_atoms",
    "label_structures",
    "collect_dataset",
    "train_committee",
    "explore_walkers",
    "score_frames",
    "select_candidates",
    "assess_potential",
)
"""The steps of an iteration, in their order; rules, scripts and folders carry the same names."""
ONCE = ("import_data", "relabel_data", "prepare_structures", "label_references", "label_isolated_atoms")
"""Steps that only the first iteration has."""
STUDY_STEPS = (
    "refer_study",
    "measure_study",
    "acquire_candidates",
    "label_candidates",
    "join_labels",
    "train_study",
    "report_study",
)
"""The steps that every study has, in the order of a round; the first and the last belong to no round."""
POTENTIAL_FILES = ("potential.safetensors", "potential.json", "training.json")
DATASET_FILES = ("train.extxyz", "valid.extxyz", "test.extxyz", "new.extxyz", "dataset.json")


def _join(folder: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


OUTPUTS = {
    "import_data": ("iter_00/import_data/data.extxyz", "iter_00/import_data/data.json"),
    "relabel_data": ("iter_00/relabel_data/comparison.json",),
    "prepare_structures": ("iter_00/prepare_structures/candidates.extxyz",),
    "label_references": ("label_references/references.extxyz",),
    "label_isolated_atoms": ("label_references/isolated_atoms.json",),
    "label_structures": (
        "iter_{iteration}/label_structures/shard_{shard}.extxyz",
        "iter_{iteration}/label_structures/shard_{shard}.json",
    ),
    "collect_dataset": _join("iter_{iteration}/collect_dataset", DATASET_FILES),
    "train_committee": _join("iter_{iteration}/train_committee", POTENTIAL_FILES),
    "explore_walkers": ("iter_{iteration}/explore_walkers/walker_{walker}.nc",),
    "score_frames": (
        "iter_{iteration}/score_frames/frames.nc",
        "iter_{iteration}/score_frames/environments.nc",
    ),
    "select_candidates": (
        "iter_{iteration}/select_candidates/candidates.extxyz",
        "iter_{iteration}/select_candidates/decisions.csv",
    ),
    "assess_potential": (
        "iter_{iteration}/assess_potential/assessment.json",
        "iter_{iteration}/assess_potential/parity.nc",
        "iter_{iteration}/assess_potential/eos.nc",
        "iter_{iteration}/assess_potential/ladder.json",
    ),
    "record_provenance": ("iter_{iteration}/provenance.json",),
    "retrain_committee": _join("retrain_committee", POTENTIAL_FILES),
    "deploy_potential": _join("potential", POTENTIAL_FILES),
    "report_system": ("report.html", "selection.html", "summary.json", "figures"),
    "refer_study": (
        "studies/{study}/reference.nc",
        "studies/{study}/reference.extxyz",
        "studies/{study}/reference.json",
    ),
    "measure_study": ("studies/{study}/round_{round}/property.nc", "studies/{study}/round_{round}/frames.extxyz"),
    "acquire_candidates": (
        "studies/{study}/round_{round}/candidates.extxyz",
        "studies/{study}/round_{round}/decisions.csv",
        "studies/{study}/round_{round}/verdict.json",
    ),
    "label_candidates": (
        "studies/{study}/round_{round}/labels/shard_{shard}.extxyz",
        "studies/{study}/round_{round}/labels/shard_{shard}.json",
    ),
    "join_labels": _join("studies/{study}/round_{round}/dataset", DATASET_FILES),
    "train_study": _join("studies/{study}/round_{round}/potential", POTENTIAL_FILES),
    "report_study": (
        "studies/{study}/report.html",
        "studies/{study}/table.md",
        "studies/{study}/result.json",
        "studies/{study}/figures",
    ),
}
"""What each rule writes, as it spells it after ``results/{system}/``."""
DIGITS = {"iteration": 2, "round": 2, "shard": 3, "walker": 2}
"""At least so many digits has the number that stands for a wildcard."""
NOTES = "ledger"
"""Folder of what jobs note of their attempts, and of what Slurm said of them."""


def output_path(root: Path, step: str, name: str, **wildcards: int | str) -> Path:
    """The output of ``step`` whose file is called ``name`` (with wildcards as in :data:`OUTPUTS`).

    Args:
        root: ``results/<system>``.
        step: A rule of :data:`OUTPUTS`.
        name: Such as ``dataset.json`` or ``shard_{shard}.json``.
        wildcards: Values for the rule's wildcards; numbers are written with leading zeros.

    Raises:
        ValueError: when the step writes no such file, or a wildcard has no value.
    """
    for template in OUTPUTS.get(step, ()):
        if template.rpartition("/")[2] == name:
            return root / _fill(template, wildcards)
    raise ValueError(f"{step} writes no {name}, only {', '.join(OUTPUTS.get(step, ())) or 'nothing known here'}")


def _fill(template: str, wildcards: dict[str, int | str]) -> str:
    try:
        return template.format(**{name: wildcard_text(name, value) for name, value in wildcards.items()})
    except KeyError as error:
        raise ValueError(f"{template}: no value for the wildcard {error}") from None


def wildcard_text(name: str, value: int | str) -> str:
    """The text that stands for a wildcard: numbers with leading zeros, such as ``03`` or ``003``."""
    return f"{value:0{DIGITS[name]}d}" if isinstance(value, int) else value


def iteration_folder(root: Path, number: int) -> Path:
    """The folder of one iteration."""
    return root / _fill("iter_{iteration}", {"iteration": number})


def study_folder(root: Path, name: str) -> Path:
    """The folder of a study."""
    return root / "studies" / name


def assessment_path(root: Path, number: int) -> Path:
    """The assessment of one iteration."""
    return output_path(root, "assess_potential", "assessment.json", iteration=number)


def candidates_path(root: Path, number: int) -> Path:
    """The structures that an iteration labels: those prepared, later those selected in the one before."""
    if number == 0:
        return output_path(root, "prepare_structures", "candidates.extxyz")
    return output_path(root, "select_candidates", "candidates.extxyz", iteration=number - 1)


def shard_paths(root: Path, number: int, n_shards: int | None = None) -> list[Path]:
    """The label records of an iteration: of each planned shard, or, without their number, of those that are there."""

    def shard(k: int | str) -> Path:
        return output_path(root, "label_structures", "shard_{shard}.json", iteration=number, shard=k)

    if n_shards is None:
        return sorted(shard("*").parent.glob(shard("[0-9][0-9][0-9]").name))
    return [shard(k) for k in range(n_shards)]


def progress_path(shard: Path) -> Path:
    """Where a shard that is being labelled says how far it is."""
    return shard.with_suffix(".progress.json")


# Jobs ----------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """A job of a loop or, where ``study`` is its name, of a study beside it.

    Attributes:
        iteration: None for steps that belong to no iteration.
        part: shard or walker, in a study after the round (``01-000``); empty where a step is one job.
    """

    iteration: int | None
    step: str
    part: str = ""
    study: str = ""


def log_folder(root: Path, iteration: int | None = None, *, study: str = "", round_: int | None = None) -> Path:
    """The folder of the logs of an iteration, of a study or one of its rounds, or of what is in none of them."""
    folder = root / "logs"
    if study:
        folder = folder / "studies" / study
        return folder if round_ is None else folder / f"round_{round_:02d}"
    return folder if iteration is None else iteration_folder(folder, iteration)


def driver_log(root: Path) -> Path:
    """What Snakemake said in the last run of the loop."""
    return log_folder(root) / "snakemake.log"


def attempts_path(log: Path) -> Path | None:
    """The file beside the results for the job with this log; None for a log that is in no folder ``logs``."""
    parts = log.parts
    if "logs" not in parts:
        return None
    place = len(parts) - 1 - parts[::-1].index("logs")
    return Path(*parts[:place], NOTES, *parts[place + 1 :]).with_suffix(".jsonl")


def log_of_attempts(path: Path) -> Path:
    """The log of a job with these attempts: the reverse of :func:`attempts_path`."""
    place = len(path.parts) - 1 - path.parts[::-1].index(NOTES)
    return Path(*path.parts[:place], "logs", *path.parts[place + 1 :]).with_suffix(".log")


def find_attempts(root: Path) -> list[Path]:
    """The attempts of every job that has noted any."""
    folder = root / NOTES
    places = ("*.jsonl", "iter_*/*.jsonl", "studies/*/*.jsonl", "studies/*/round_*/*.jsonl")
    return sorted(path for place in places for path in folder.glob(place))


def accounts_path(root: Path) -> Path:
    """What Slurm said of the loop's jobs."""
    return root / NOTES / "slurm.json"


def ledger_path(root: Path) -> Path:
    """The costs of the loop, derived from all of these."""
    return root / "ledger.json"


def job_at(path: Path) -> Job:
    """The job whose log, or whose attempts, are there."""
    step, _, part = path.stem.partition("-")
    folder, above, top = (path.parents[k].name for k in range(3))
    if re.fullmatch(r"iter_\d+", folder):
        return Job(int(folder[5:]), step, part)
    if above == "studies":
        return Job(None, step, part, folder)
    if top == "studies" and folder.startswith("round_"):
        return Job(None, step, "-".join(filter(None, [folder[6:], part])), above)
    return Job(None, step, part)


def benchmark_path(root: Path, job: Job) -> Path:
    """Where the rules have a job's benchmark."""
    iteration, step, part, study = job
    name = f"{step}-{part}.tsv" if part else f"{step}.tsv"
    if study:
        return study_folder(root, study) / "benchmarks" / name
    if iteration is not None:
        return iteration_folder(root, iteration) / "benchmarks" / name
    special = {"label_references": "benchmark.tsv", "label_isolated_atoms": "benchmark_isolated_atoms.tsv"}
    if step in special:
        return root / "label_references" / special[step]
    return root / "validate_potential" / f"{step}.tsv"


def find_benchmarks(root: Path) -> Iterator[tuple[Path, Job]]:
    """Every benchmark that is there, and the job that it is of."""
    for path in sorted(root.glob("iter_*/benchmarks/*.tsv")):
        step, _, part = path.stem.partition("-")
        number = path.parent.parent.name[5:]
        if number.isdigit():
            yield path, Job(int(number), step, part)
    for path in sorted(root.glob("studies/*/benchmarks/*.tsv")):
        step, _, part = path.stem.partition("-")
        yield path, Job(None, step, part, path.parent.parent.name)
    for step in ("label_references", "label_isolated_atoms", "label_elasticity", "validate_potential"):
        job = Job(None, step)
        if benchmark_path(root, job).exists():
            yield benchmark_path(root, job), job
