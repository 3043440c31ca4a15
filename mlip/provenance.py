"""Where results come from: digests of the code that made them, and a record per iteration."""

from __future__ import annotations

import ast
import contextlib
import csv
import functools
import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mlip.files import read_json, sha256_file, write_json

PACKAGE = Path(__file__).parent

VALUES_NOT_CODE = {
    "mlip.config",
    "mlip.config_labels",
    "mlip.config_section",
    "mlip.config_training",
    "mlip.provenance",
    "mlip.studies.sections",
}
"""Modules left out of digests: what steps take from them arrives as parameters."""

REPORTED_PACKAGES = (
    "ouroboros",
    "torch",
    "numpy",
    "scipy",
    "ase",
    "gpaw",
    "gpaw-data",
    "pymatgen",
    "xarray",
    "vesin",
    "snakemake",
)
OPTIONAL_PACKAGES = ("mace-torch", "e3nn", "cuequivariance-torch")
"""Reported where they are installed."""


@functools.cache
def code_digest(*modules: str) -> str:
    """Digest of ``modules`` and every ``mlip`` module they import, blind to layout, comments and types of arguments.

    Rules pass it as a parameter: Snakemake then reruns a step when code it depends on changes
    its meaning, and not when a comment, a docstring or white space does.
    """
    digest = hashlib.sha256()
    for name in sorted(set().union(*(_closure(module) for module in modules))):
        digest.update(f"{name}:{_meaning(name)}".encode())
    return digest.hexdigest()[:16]


def _closure(module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in VALUES_NOT_CODE and _source(name) is not None:
            found.add(name)
            waiting.extend(_imports(name))
    return found


def _source(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _tree(module: str) -> ast.Module:
    path = _source(module)
    if path is None:
        raise ValueError(f"no module {module} in {PACKAGE}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _strip_docstring(node)
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
    return tree


def _strip_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    kept = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    node.body = kept or [ast.Pass()]


@functools.cache
def _meaning(module: str) -> str:
    digest = hashlib.sha256(ast.dump(_tree(module)).encode())
    path = _source(module)
    if path is not None and path.name == "__init__.py":
        for compiled in sorted(path.parent.glob("*.cpp")):
            digest.update(compiled.read_bytes())
    return digest.hexdigest()


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    return tuple(_find_imports(module))


def _find_imports(module: str) -> Iterable[str]:
    path = _source(module)
    package = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "mlip")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            if base.split(".")[0] == "mlip":
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in REPORTED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    for name in OPTIONAL_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def read_benchmark(path: Path) -> dict[str, float]:
    """Wall and core seconds of the last run that a Snakemake benchmark file records.

    Snakemake samples ``cpu_time``; a job too short to be sampled counts its wall time.
    """
    with path.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    if not rows:
        return {"wall_seconds": 0.0, "core_seconds": 0.0}
    wall = float(rows[-1]["s"])
    try:
        core = float(rows[-1].get("cpu_time") or "nan")
    except ValueError:
        core = float("nan")
    return {"wall_seconds": wall, "core_seconds": core if core > 0 else wall}


def record_provenance(
    config: Mapping[str, Any],
    iteration: int,
    inputs: Mapping[str, Sequence[Path]],
    benchmarks: Path,
    records: Sequence[Path],
    *,
    out: Path,
) -> None:
    """Write ``provenance.json`` of one iteration.

    Args:
        config: The configuration in force, as plain values.
        iteration: Number of the iteration.
        inputs: Files of the iteration by step; their hashes are recorded.
        benchmarks: Folder of this iteration's Snakemake benchmarks, ``<step>[-<part>].tsv``.
        records: Label records, whose own core-seconds count for the labels: the benchmark of a
            rerun that found every label in the store would say that they were free.
        out: JSON file written.
    """
    steps: dict[str, dict[str, float]] = {}
    for path in sorted(benchmarks.glob("*.tsv")):
        total = steps.setdefault(path.stem.split("-")[0], {"wall_seconds": 0.0, "core_seconds": 0.0})
        for name, value in read_benchmark(path).items():
            total[name] += value
    labels = [record for path in records for record in read_json(path)["records"]]
    if labels:
        steps["label_structures"] = {
            name: sum(record[name] for record in labels) for name in ("wall_seconds", "core_seconds")
        }
    write_json(
        out,
        {
            "system": config["system"],
            "iteration": iteration,
            "seed": config["seed"],
            "config": dict(config),
            "packages": package_versions(),
            "machine": {"platform": platform.platform(), "processor": platform.machine()},
            "files": {
                step: {str(path): sha256_file(path) for path in sorted(paths)} for step, paths in sorted(inputs.items())
            },
            "steps": steps,
        },
        checked=True,
    )
