"""Commands about labelled data: ``mlip import`` and ``mlip export-data``. No heavy imports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def add_data_commands(app: typer.Typer, fail: Callable[[Exception], Any]) -> None:
    """Add the commands to ``app``; ``fail`` ends the program with an error's message."""

    @app.command("import")
    def import_command(
        files: Annotated[list[Path], typer.Argument(help="Labelled files, or folders of DeePMD systems.")],
        config: Annotated[Path | None, typer.Option(help="Configuration that they might join: do they fit?")] = None,
        given: Annotated[str | None, typer.Option("--format", help="ASE's name of the format.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
        out: Annotated[Path | None, typer.Option(help="Extended XYZ to write the usable structures into.")] = None,
    ) -> None:
        """Say what labelled files hold, what is odd about them and whether they fit (docs/data.md)."""
        try:
            fits = _import(files, config, given, as_json, out)
        except (ValueError, OSError) as error:
            fail(error)
        if not fits:
            raise typer.Exit(1)

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


def _import(files: list[Path], config: Path | None, given: str | None, as_json: bool, out: Path | None) -> bool:
    """Show what is in ``files``; whether all fit the configuration."""
    from mlip.config.system import load_config
    from mlip.doctor.inspect_data import clean_structures, inspect_data, render_inspection
    from mlip.io.extxyz import write_structures

    loaded = load_config(config) if config is not None else None
    if out is not None and out.exists():
        raise FileExistsError(f"{out}: is there already; give another name to --out, or remove it")
    found = [inspect_data(path, given, loaded) for path in files]
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(map(render_inspection, found)))
    if out is not None:
        structures = [atoms for path in files for atoms in clean_structures(path, given)]
        write_structures(out, structures)
        typer.echo(f"{out}: {len(structures)} structures", err=as_json)
    return not any(entry["fits"]["problems"] for entry in found if "fits" in entry)
