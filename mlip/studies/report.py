"""The one page of a study, the same for machines, and the pages of its experiments."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xarray as xr

from mlip.criteria import Criterion
from mlip.io.files import read_json, write_atomic, write_json
from mlip.io.netcdf import read_netcdf
from mlip.report.drawing import Picture, png
from mlip.report.page import DASH, describe_criterion, embed_picture, page_environment
from mlip.studies.experiments import Experiment, Page
from mlip.studies.interface import Quantity, Round, Study
from mlip.studies.steps import read_round

MAX_DECISIONS = 24


def report_study(study: Study, system: str, folder: Path, *, n_rounds: int, out: Path) -> bool:
    """Write ``report.html``, ``table.md``, ``result.json`` and ``figures/*.png`` into ``out``.

    Args:
        study: the study.
        system: name of the system.
        folder: ``studies/<name>``, with ``reference.nc`` and ``round_NN``.
        n_rounds: rounds after the first measurement.
        out: folder written.

    Returns:
        Whether every criterion of the last round passed.
    """
    reference = read_netcdf(folder / "reference.nc")
    rounds = [read_round(study, folder / f"round_{k:02d}", k, reference) for k in range(n_rounds + 1)]
    return write_report(study, system, rounds, reference, out)


def write_report(study: Study, system: str, rounds: Sequence[Round], reference: xr.Dataset, out: Path) -> bool:
    """:func:`report_study` of rounds that have been read."""
    last = rounds[-1]
    pictures = study.draw(rounds, reference)
    passed = all(criterion.passed for criterion in last.criteria)
    quantities, remarks = study.summarise(last.data, reference), study.remarks(rounds, reference)
    decided = next((r.decisions for r in reversed(rounds) if r.decisions), ())
    page = (
        page_environment(Path(__file__).parent)
        .get_template("study.html")
        .render(
            system=system,
            title=study.title,
            n_rounds=len(rounds) - 1,
            verdict=_verdict(last.criteria),
            quantities=[_row(quantity) for quantity in quantities],
            remarks=remarks,
            criteria=_criteria(rounds),
            labels=[str(r.n_labels) if r.number else DASH for r in rounds],
            pictures=[embed_picture(picture) for picture in pictures],
            decisions=list(decided)[:MAX_DECISIONS],
            decision_columns=list(decided[0]) if decided else [],
            footer=f"study {study.name}",
        )
    )
    write_atomic(out / "report.html", page)
    write_atomic(out / "table.md", _markdown(last.criteria, quantities, remarks))
    write_json(out / "result.json", _result(study, system, rounds, quantities, remarks, passed))
    _draw(pictures, out / "figures")
    return passed


def report_experiment(experiment: Experiment, results: Mapping[str, Path], page: Path, figures: Path) -> None:
    """Write a page of an experiment.

    Args:
        experiment: whose page.
        results: ``result.json`` of each of the page's parts, by name.
        page: Markdown written.
        figures: folder written, a PNG for each picture.
    """
    content: Page = importlib.import_module(experiment.module).report(
        {part: read_json(path) for part, path in results.items()}
    )
    _draw(content.pictures, figures)
    write_atomic(page, content.text)


def _draw(pictures: Sequence[Picture], folder: Path) -> None:
    """A PNG for each picture; the folder is there without any, too, for the workflow waits for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        png(picture, folder / f"{picture.name}.png")


def _result(
    study: Study,
    system: str,
    rounds: Sequence[Round],
    quantities: Sequence[Quantity],
    remarks: Sequence[str],
    passed: bool,
) -> dict[str, Any]:
    return {
        "study": study.name,
        "system": system,
        "settings": study.settings.model_dump(mode="json"),
        "passed": passed if rounds[-1].criteria else None,
        "rounds": [
            {"round": r.number, "labels": r.n_labels, "criteria": [c.as_dict() for c in r.criteria]} for r in rounds
        ],
        "quantities": [asdict(quantity) for quantity in quantities],
        "remarks": list(remarks),
    }


def _markdown(criteria: Sequence[Criterion], quantities: Sequence[Quantity], remarks: Sequence[str]) -> str:
    """Verdict, quantities, criteria and remarks for the terminal; columns that say nothing are left out."""
    verdict = _verdict(criteria)
    columns = {"quantity": "name", "value": "value", "statistical error": "statistical_error"}
    columns |= {"model error": "model_error", "reference": "reference", "unit": "unit"}
    rows = [_row(quantity) for quantity in quantities]
    shown = {title: key for title, key in columns.items() if any(row[key] not in ("", DASH) for row in rows)}
    parts = [
        f"**{verdict['headline']}.** {verdict['text']}",
        _table(list(shown), [[row[key] for key in shown.values()] for row in rows]),
    ]
    if criteria:
        judged = [describe_criterion(criterion.as_dict()) for criterion in criteria]
        cells = [[c["name"], c["value"], c["target"], "yes" if c["passed"] else "**no**"] for c in judged]
        parts.append(_table(["criterion", "value", "target", "met"], cells))
    return "\n\n".join([*parts, *remarks]) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _verdict(criteria: Sequence[Criterion]) -> dict[str, str]:
    failed = [criterion.name for criterion in criteria if not criterion.passed]
    if not criteria:
        return {"kind": "warn", "mark": "?", "headline": "Measured", "text": "There is no reference to judge by."}
    if failed:
        return {"kind": "warn", "mark": "!", "headline": "Not right yet", "text": f"Not met: {', '.join(failed)}."}
    return {"kind": "good", "mark": "✓", "headline": "Right", "text": "Every criterion is met."}


def _criteria(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Rows of the table of criteria: those of the last round, with their values in all."""
    values = [{c.name: describe_criterion(c.as_dict())["value"] for c in r.criteria} for r in rounds]
    return [
        describe_criterion(criterion.as_dict())
        | {"history": [of_round.get(criterion.name, DASH) for of_round in values], "name": criterion.name}
        for criterion in rounds[-1].criteria
    ]


def _row(quantity: Quantity) -> dict[str, str]:
    def text(value: float | None) -> str:
        return DASH if value is None else f"{value:.4g}"

    errors = (quantity.statistical_error, quantity.model_error)
    known = quantity.reference_error
    return {
        "name": quantity.name,
        "unit": quantity.unit,
        "value": text(quantity.value),
        "statistical_error": DASH if errors[0] is None else f"{errors[0]:.2g}",
        "model_error": DASH if errors[1] is None else f"{errors[1]:.2g}",
        "reference": text(quantity.reference) + ("" if known is None else f" ± {known:.2g}"),
    }
