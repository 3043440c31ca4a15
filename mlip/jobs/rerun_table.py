"""Which package's code reruns which step, as a table for docs/design.md: ``python -m mlip.jobs.rerun_table``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from mlip.config.backends import BACKENDS
from mlip.config.study import study_names
from mlip.jobs.digests import PACKAGE, STEP_CODE, code_of, modules_of_step

PAGE = PACKAGE.parent / "docs" / "design.md"
BEGIN, END = "<!-- begin: mlip.jobs.rerun_table -->\n", "<!-- end: mlip.jobs.rerun_table -->\n"


def packages_by_step() -> dict[str, dict[str, set[str]]]:
    """Of each step: the packages of its code, and the studies (``""`` for a step of none) that it is of each for."""
    table: dict[str, dict[str, set[str]]] = {}
    for step, templates in STEP_CODE.items():
        packages: dict[str, set[str]] = defaultdict(set)
        for study, experiment in _variants(templates):
            for backend in BACKENDS.values():
                for module in code_of(*modules_of_step(step, backend, study, experiment)):
                    packages[package_of(module)].add(study)
        table[step] = packages
    return table


def _variants(templates: tuple[str, ...]) -> list[tuple[str, str]]:
    """Study and module of the experiment of the jobs of a step, ``""`` where it is of none."""
    if "{experiment}" in templates:
        paths = sorted((PACKAGE / "studies").glob("*/experiments/[!_]*.py"))
        return [(path.parts[-3], f"mlip.studies.{path.parts[-3]}.experiments.{path.stem}") for path in paths]
    return [(study, "") for study in study_names()] if any("{study}" in each for each in templates) else [("", "")]


def package_of(module: str) -> str:
    """The folder under ``mlip/`` that ``module`` is in, two deep at most, or itself where that tells more."""
    parts = module.split(".")
    alone = (
        parts[1] in ("loop", "jobs", "config", "io")
        or (parts[1], parts[-1]) == ("studies", "figures")
        or len(parts) < 3
    )
    if not alone and not PACKAGE.parent.joinpath(*parts).is_dir():
        parts = parts[:-1]
    return "/".join(parts if alone else parts[:3])


def render_table() -> str:
    """The table in Markdown: a row for each package, with the steps that a change of it reruns."""
    steps = packages_by_step()
    n_studies = len(study_names())
    lines = ["| a change in | reruns |", "|---|---|"]
    for package in sorted({package for packages in steps.values() for package in packages}):
        texts = []
        for step, packages in steps.items():
            studies = packages.get(package, set())
            if studies:
                every = "" in studies or len(studies) == n_studies
                texts.append(f"`{step}`" + ("" if every else f" ({', '.join(sorted(studies))})"))
        texts = [f"{len(STEP_CODE)} of {len(STEP_CODE)} steps"] if len(texts) == len(STEP_CODE) else texts
        lines.append(f"| `{package}` | {', '.join(texts)} |")
    lines.append(
        "| anything else, the rest of `mlip/config` among it | nothing by itself: values arrive as parameters |"
    )
    return "\n".join(lines) + "\n"


def is_stale(page: Path = PAGE) -> bool:
    """Whether the table in ``page`` is another than that of the code."""
    return _with_table(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")


def _with_table(text: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(
            f"docs/design.md has no lines {BEGIN.strip()} and {END.strip()}; put them where the table goes"
        )
    return before + BEGIN + render_table() + END + after


if __name__ == "__main__":
    PAGE.write_text(_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
