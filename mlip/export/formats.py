"""Everything that ``mlip export`` writes, by format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch

from mlip.io.files import write_atomic
from mlip.potential import Potential, load_potential

Format = Literal["pt2", "lammps", "torchsim"]
TEMPLATES = Path(__file__).parent / "templates"


def export_potential(
    folder: Path,
    out: Path,
    format: str,
    *,
    compiled: bool = False,
    single: bool = False,
    device: str = "cpu",
) -> list[Path]:
    """Write the potential in ``folder`` for another code into ``out``, with a script that runs it.

    Args:
        folder: of the trained potential.
        out: where to write.
        format: ``pt2`` a program for torch alone; ``lammps`` a compiled program, a pair style and an
            input; ``torchsim`` a script.
        compiled: whether a ``pt2`` is compiled for this processor.
        single: float32 instead of float64; for ``pt2`` only.
        device: where the program will run; for ``pt2`` only.

    Returns:
        The files written.

    Raises:
        PotentialFileError: when the potential cannot be loaded.
        PluginError: when LAMMPS' pair style cannot be built.
    """
    if format not in get_args(Format):
        raise ValueError(f"unknown format {format!r}; choose from {', '.join(get_args(Format))}")
    if format != "pt2" and (compiled or single or device != "cpu"):
        raise ValueError("compilation, float32 and device are choices of format pt2 alone")
    potential = load_potential(folder)
    out.mkdir(parents=True, exist_ok=True)
    write = _writer(potential, folder, out)
    if format == "torchsim":
        return [write("run_torchsim.py", {})]
    if format == "lammps":
        return [*_write_lammps(potential, out), write("in.lammps", _quote_files(out)), write("run_lammps.py", {})]
    from mlip.export.programs import export_program

    program = out / ("potential_compiled.pt2" if compiled else "potential.pt2")
    export_program(
        potential, program, compiled=compiled, dtype=torch.float32 if single else torch.float64, device=device
    )
    return [program, write("run_ase.py", {"PROGRAM": program.name})]


def _write_lammps(potential: Potential, out: Path) -> list[Path]:
    from mlip.export.pair_style import build_pair_style
    from mlip.export.programs import export_program

    build_pair_style(out / "pair_mlip.so")
    export_program(potential, out / "potential.pt2", compiled=True)
    return [out / "potential.pt2", out / "pair_mlip.so"]


def _quote_files(out: Path) -> dict[str, str]:
    """Files of LAMMPS' input as its words: blanks, # and $ mean nothing inside quotes."""
    words = {}
    for key, name in (("PLUGIN", "pair_mlip.so"), ("PROGRAM", "potential.pt2")):
        path = str((out / name).resolve())
        mark = "'" if '"' in path else '"'
        if mark in path:
            raise ValueError(f"{path}: LAMMPS cannot read a name with both kinds of quotes; export elsewhere")
        words[key] = f"{mark}{path}{mark}"
    return words


def _writer(potential: Potential, folder: Path, out: Path) -> Callable[[str, dict[str, str]], Path]:
    common = {
        "ELEMENT": potential.species[0],
        "ELEMENTS": " ".join(potential.species),
        "QUOTED": ", ".join(f'"{s}"' for s in potential.species),
    }

    def write(name: str, values: dict[str, str]) -> Path:
        text = (TEMPLATES / name).read_text()
        text = text.replace('"@POTENTIAL@"', repr(str(folder.resolve())))
        for key, value in (common | values).items():
            text = text.replace(f"@{key}@", value)
        write_atomic(out / name, text)
        return out / name

    return write
