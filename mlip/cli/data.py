"""Commands about labelled data: ``mlip export-data``. No heavy imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def add_data_commands(app: typer.Typer, fail: Callable[[Exception], Any]) -> None:
    """Add the commands to ``app``; ``fail`` ends the program with an error's message."""

    @app.command("export-data")
    def export_data_command(
        sources: Annotated[list[Path], typer.Argument(help="Results folder of a system, or labelled files.")],
        out: Annotated[Path, typer.Option(help="Folder to write into.")],
        to: Annotated[str, typer.Option("--format", help="extxyz, deepmd or ase-db.")] = "extxyz",
        split: Annotated[list[str] | None, typer.Option(help="Of a results folder: train, valid, test.")] = None,
    ) -> None:
        """Write labelled structures for other programs (docs/data.md)."""
        from mlip.export.data import SPLITS, export_data

        try:
            for path in export_data(sources, out, to, splits=split or SPLITS):
                typer.echo(path)
        except (ValueError, OSError) as error:
            fail(error)
