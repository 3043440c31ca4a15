"""A command of ``mlip`` for every study: ``mlip <name> DIR …``. No heavy imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mlip.config.study import study_names


def add_commands(app: typer.Typer, fail: Callable[[Exception], Any]) -> None:
    """Add the command of each study to ``app``; ``fail`` ends the program with an error's message."""
    for name in study_names():
        app.command(name, help=f"Study `{name}` of a potential or an ASE calculator: measure, compare, report.")(
            _command(name, fail)
        )


def _command(name: str, fail: Callable[[Exception], Any]) -> Callable[..., None]:
    def command(
        potential: Annotated[
            str, typer.Argument(help="Folder of a potential, or import path of an ASE calculator, e.g. ase.….EMT.")
        ],
        config: Annotated[Path, typer.Option(help="Configuration of the system: structures, labeller, settings.")],
        out: Annotated[Path, typer.Option(help="Folder to write into.")],
        reference: Annotated[Path | None, typer.Option(help="Reference computed before (reference.nc).")] = None,
        refer: Annotated[bool, typer.Option("--refer", help="Compute the reference with the labeller.")] = False,
        device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, …")] = "cpu",
    ) -> None:
        from mlip.config.system import load_config
        from mlip.studies.standalone import study_alone

        try:
            passed = study_alone(
                name, potential, load_config(config), out, reference=reference, refer=refer, device=device
            )
        except (ValueError, OSError) as error:
            fail(error)
        typer.echo(f"{out / 'report.html'}: {'every criterion is met' if passed else 'not every criterion is met'}")

    return command
