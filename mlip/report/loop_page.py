"""The page of a loop: what the template shows, the most asked first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlip.config.system import Config
from mlip.report import tables
from mlip.report.advice import advise
from mlip.report.drawing import Picture
from mlip.report.headline import Basis, ForceError, choose_force_error, find_disagreement, rests_on
from mlip.report.page import DASH, describe_criterion, embed_picture, number_text, page_environment, shift_text
from mlip.report.scope import describe_scope
from mlip.report.settings import describe_labels, list_settings, summarise_labels
from mlip.report.sources import LoopRecord
from mlip.report.summary import duration
from mlip.report.system import (
    Described,
    describe_potential,
    describe_structures,
    describe_walkers,
    list_unmet_kinds,
    summarise_structures,
)

MAX_FAILURES = 25
MAX_WARNINGS = 12
MAX_STRUCTURES = 12


def render_page(
    config: Config, root: Path, loop: LoopRecord, summary: dict[str, Any], pictures: Sequence[Picture]
) -> str:
    """The whole page as HTML that needs no other file."""
    found = describe_structures(config.structures)
    heads, iterations = tables.list_iterations(loop)
    return (
        page_environment()
        .get_template("template.html")
        .render(
            summary=summary,
            verdict=_verdict(summary),
            alarms=list(filter(None, [find_disagreement(loop)])),
            tiles=_tiles(loop, summary),
            scope=describe_scope(config, loop, found, summary["converged"]),
            criteria=_criteria(config, loop),
            potential=(root / "potential").as_posix(),
            pictures=[embed_picture(picture) for picture in pictures],
            properties=tables.list_properties(loop),
            iteration_heads=heads,
            iterations=iterations,
            costs=tables.list_costs(loop),
            has_gpu=bool(summary["gpu_seconds"]),
            budget=tables.describe_budget(config, loop),
            damaged=loop.damaged()[:MAX_WARNINGS],
            studies=tables.list_studies(loop),
            reasons=tables.list_reasons(loop),
            examples=tables.list_examples(loop),
            footer=_footer(config, loop),
            **_system(config, loop, found),
            **_labels(loop),
        )
    )


def _system(config: Config, loop: LoopRecord, found: Sequence[Described]) -> dict[str, Any]:
    """What was simulated and with what."""
    versions = {name: text for name, text in _packages(loop).items() if "not installed" not in text}
    periodic = any(structure.periodic for structure in found)
    labels = describe_labels(config.label, periodic=periodic, versions=versions)
    at_last = config.at_iteration(loop.last.number)
    return {
        "subtitle": " · ".join([summarise_structures(found), *summarise_labels(labels, config.label)]),
        "structures": found[:MAX_STRUCTURES],
        "n_structures": len(found),
        "unmet": list_unmet_kinds(config),
        "label_facts": [*labels, *describe_potential(at_last, loop.cutoff)],
        "label_settings": list_settings(config.label),
        "walkers": describe_walkers(at_last.explore, [structure.name for structure in found]),
    }


def _labels(loop: LoopRecord) -> dict[str, Any]:
    """What became of the labels."""
    failures = loop.failures()
    return {
        "origins": tables.list_origins(loop),
        "classes": tables.list_failure_classes(loop),
        "failures": failures[:MAX_FAILURES],
        "n_failures": len(failures),
        "warnings": [
            {"text": text, "labels": count, "iterations": ", ".join(map(str, numbers))}
            for text, count, numbers in loop.warnings()[:MAX_WARNINGS]
        ],
    }


def _verdict(summary: dict[str, Any]) -> dict[str, str]:
    if summary["converged"]:
        return {
            "kind": "good",
            "mark": "✓",
            "headline": "Converged",
            "text": "Every criterion is met.",
        }
    text = summary["reason"]
    return {"kind": "warn", "mark": "!", "headline": "Not converged", "text": text[:1].upper() + text[1:]}


def _criteria(config: Config, loop: LoopRecord) -> list[dict[str, Any]]:
    """Rows of the criteria, with what to change where one is not met."""
    entries = loop.last.assessment.get("criteria") or []
    rows: list[dict[str, Any]] = []
    given: set[str] = set()
    for entry in entries:
        advice = advise(entry, config, loop)
        rows.append(describe_criterion(entry) | {"advice": "The same as above." if advice in given else advice})
        given |= {advice} - {""}
    return rows


def _tiles(loop: LoopRecord, summary: dict[str, Any]) -> list[dict[str, str]]:
    tiles = [*_error_tiles(loop, choose_force_error(loop))]
    tiles += _property_tile("lattice constant", "Å", summary["a0"], summary["a0_reference"], 4)
    tiles += _property_tile("bulk modulus", "GPa", summary["B0"], summary["B0_reference"], 1)
    failed = f"{summary['failed_labels']} failed" if summary["failed_labels"] else "none failed"
    splits = loop.last.assessment.get("dataset") or {}
    parts = [f"{splits[key]} {word}" for key, word in (("train", "train"), ("test", "test")) if splits.get(key)]
    existing = [f"beside {count} of existing data" for name, count in loop.origins().items() if name == "data"]
    note = "; ".join([failed, *existing, *parts])
    return [
        *tiles,
        {"name": "labels", "value": str(summary["labels"]), "unit": "", "note": note},
        _time_tile(summary["core_seconds"], summary["gpu_seconds"]),
    ]


def _error_tiles(loop: LoopRecord, error: ForceError | None) -> list[dict[str, str]]:
    """Force error with its interval and what it rests on, and the error of energies on the same structures."""
    if error is None:
        return [{"name": "force RMSE", "value": DASH, "unit": "", "note": "no label yet that training left out"}]
    span = f"{error.interval[0]:.2g}–{error.interval[1]:.2g}" if error.interval else ""
    sure = f" at {100 * error.confidence:.0f} %" if error.confidence else ""
    note = f"on {error.rests_on}" + (f"; {span}{sure}" if span else "")
    tiles = [{"name": "force RMSE", "value": number_text(error.rmse), "unit": "eV/Å", "note": note}]
    entries = {record.number: record.assessment for record in loop.iterations}.get(error.iteration, {})
    basis: Basis = "test" if error.basis == "test" else "fresh"  # audit frames alone have no energy error
    entry = entries.get(basis) or {}
    if entry.get("energy_rmse") is not None:
        note = f"on {rests_on(basis, entry.get('n_structures') or 0)}"
        value = number_text(1000 * entry["energy_rmse"])
        tiles.append({"name": "energy RMSE", "value": value, "unit": "meV/atom", "note": note})
    return tiles


def _property_tile(
    name: str, unit: str, value: float | None, reference: float | None, digits: int
) -> list[dict[str, str]]:
    """None for a system that has no such property: neither potential nor labeller has a value."""
    if value is None and reference is None:
        return []
    if value is None:
        return [{"name": name, "value": DASH, "unit": "", "note": "the potential has none"}]
    note = f"{shift_text(value / reference - 1)} against labels" if reference else ""
    return [{"name": name, "value": f"{value:.{digits}f}", "unit": unit, "note": note}]


def _time_tile(seconds: dict[str, float], gpus: dict[str, float]) -> dict[str, str]:
    total = sum(seconds.values())
    value, unit = duration(total).split()
    share = 100 * seconds.get("label_structures", 0.0) / total if total else 0.0
    note = f"{share:.0f} % of it labels" if total else ""
    note += f"; GPU time {duration(sum(gpus.values()))}" if gpus else ""
    return {"name": "core time", "value": value, "unit": unit, "note": note}


def _packages(loop: LoopRecord) -> dict[str, str]:
    return {str(name): str(text) for name, text in (loop.last.provenance.get("packages") or {}).items()}


def _footer(config: Config, loop: LoopRecord) -> str:
    packages = _packages(loop)
    labeller = config.label.calculator.partition(".")[0]
    names = dict.fromkeys(("ouroboros", labeller, "torch", "ase"))
    shown = [f"{name} {packages[name]}" for name in names if packages.get(name)]
    parts = [f"seed {config.seed}", *(text for text in shown if "not installed" not in text)]
    return " · ".join(parts)
