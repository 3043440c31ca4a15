"""``mlip label``: labels by hand. No heavy imports."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mlip.labels.agreement import ForceAgreement
    from mlip.labels.trial import TrialLabel


def add_label_command(app: typer.Typer, fail: Callable[[Exception], Any]) -> None:
    """Add ``mlip label`` to ``app``; ``fail`` ends the program with an error's message."""

    @app.command()
    def label(
        config: Annotated[Path, typer.Argument(help="Configuration of the system, e.g. config/silicon.yaml.")],
        structures: Annotated[
            Path | None, typer.Argument(help="File of structures; without it, one rattled copy of the first.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON, forces and stresses included.")] = False,
        limit: Annotated[int | None, typer.Option(min=1, help="Label only so many of the file's structures.")] = None,
        check: Annotated[
            bool, typer.Option("--check", help="Compare forces with energy differences, by two more labels.")
        ] = False,
    ) -> None:
        """Label structures outside any loop, through the label store; exit code 1 unless every label is ok."""
        try:
            labels, agreement = _compute(config, structures, limit, check)
        except (ValueError, OSError) as error:
            fail(error)
        typer.echo(_as_json(labels, agreement) if as_json else render_labels(labels, agreement))
        failed = any(label.outcome.status != "ok" for label in labels)
        if failed or (agreement is not None and not agreement.agrees):
            raise typer.Exit(1)


def _compute(
    config: Path, structures: Path | None, limit: int | None, check: bool
) -> tuple[list[TrialLabel], ForceAgreement | None]:
    from mlip.config.system import load_config
    from mlip.labels.labeller import Labeller
    from mlip.labels.store import label_store
    from mlip.labels.trial import label_trials, rattle_start, read_trial_structures, try_forces

    loaded = load_config(config)
    wanted = [rattle_start(loaded)] if structures is None else read_trial_structures(structures, limit)
    with Labeller(loaded.label, label_store()) as labeller:
        labels = label_trials(labeller, wanted, show_label)
        good = [label for label in labels if label.outcome.status == "ok"]
        agreement = try_forces(labeller, good[0], show_label)[0] if check and good else None
    return labels, agreement


def show_label(event: dict[str, Any]) -> None:
    """A line on standard error for each finished label: DFT takes its time."""
    spent = "in the store" if event["cached"] else f"{event['seconds']:.1f} s"
    typer.echo(f"{event['done']}/{event['planned']} {event['structure_id']}: {event['status']}, {spent}", err=True)


def _as_json(labels: Sequence[TrialLabel], agreement: ForceAgreement | None) -> str:
    values: dict[str, Any] = {"labels": [label.as_json() for label in labels]}
    if agreement is not None:
        values["forces"] = {
            "from_forces": agreement.from_forces,
            "from_energies": agreement.from_energies,
            "agrees": agreement.agrees,
        }
    return json.dumps(values, indent=1)


def render_labels(labels: Sequence[TrialLabel], agreement: ForceAgreement | None = None) -> str:
    """A table for the terminal; below it why labels failed, warnings and the comparison of forces."""
    from rich.console import Console
    from rich.table import Column, Table

    heads = ("eV/atom", "max F", "rms F", "GPa", "s", "core s", "MB", "tries")
    columns = (Column(head, justify="right", no_wrap=True) for head in heads)
    table = Table(Column("structure", overflow="fold"), "formula", "status", *columns, "new", box=None)
    for label in labels:
        table.add_row(*_cells(label))
    width = shutil.get_terminal_size((120, 24)).columns
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=width)
    with console.capture() as captured:
        console.print(table)
    lines = [captured.get().rstrip(), ""]
    for label in labels:
        name = label.structure.info["structure_id"]
        lines += [f"{name}: {label.outcome.reason}"] * bool(label.outcome.reason)
        lines += [f"{name}: warning: {warning}" for warning in label.outcome.record["warnings"]]
    if agreement is not None:
        lines.append(f"forces {'agree' if agreement.agrees else 'DISAGREE'} with energies: {agreement}")
    settings = sorted({label.outcome.settings_id for label in labels})
    return "\n".join([*lines, f"forces in eV/Å; settings {', '.join(settings)}"])


def _cells(label: TrialLabel) -> list[str]:
    values = label.as_json()
    per_atom = None if values["energy"] is None else values["energy"] / values["n_atoms"]
    numbers = [
        (per_atom, ".4f"),
        (values["max_force"], ".3f"),
        (values["rms_force"], ".3f"),
        (values["pressure_gpa"], ".2f"),
        (values["wall_seconds"], ".1f"),
        (values["core_seconds"], ".1f"),
        (values["peak_mb"], ".0f"),
    ]
    shown = ["–" if value is None else format(value, style) for value, style in numbers]
    head = [values["structure_id"], values["formula"], values["status"]]
    return [*head, *shown, str(values["attempts"]), "" if values["cached"] else "new"]
