"""Where results come from: digests of the code that made them, and a record per iteration."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mlip.io.files import read_json, sha256_file, write_json
from mlip.io.partial import read_benchmark

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
        wall, cpu = read_benchmark(path)
        total["wall_seconds"] += wall
        total["core_seconds"] += cpu or wall  # a job too short to be sampled counts its wall time
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
