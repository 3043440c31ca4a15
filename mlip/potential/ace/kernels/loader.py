"""The compiled loops of ``kernels.cpp``: found, or compiled where there is a C++ compiler."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")
ALGEBRA = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
"""Not -ffast-math: with it, GCC makes a library switch denormal numbers off in the whole process."""
FLAGS = ("-O3", *ALGEBRA, "-std=c++17", "-shared", "-fPIC", "-Wno-psabi")
"""No -march: every function is compiled for several kinds of processors, and the loader chooses."""


@cache
def load_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none; ``MLIP_KERNELS=off`` does without."""
    if os.environ.get("MLIP_KERNELS") == "off":
        return None
    compiler = find_compiler()
    for folder in _folders():
        path = folder / f"kernels-{_digest()}.so"
        if not path.is_file():
            if compiler is None or not os.access(_existing(folder), os.W_OK):
                continue
            try:
                compile_kernels(compiler, path)
            except (OSError, subprocess.SubprocessError) as error:
                told = getattr(error, "stderr", None) or str(error)
                warnings.warn(f"{SOURCE.name} was not compiled; torch is used, which is slower: {told}", stacklevel=2)
                return None
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


def find_compiler() -> str | None:
    """The C++ compiler: ``CXX``, or g++ or c++ on the PATH."""
    names = [os.environ.get("CXX"), "g++", "c++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def compile_kernels(compiler: str, path: Path) -> None:
    """Compile ``kernels.cpp`` to ``path``, in one rename: several processes may do so at once.

    Raises:
        subprocess.CalledProcessError: with the compiler's words in ``stderr``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True, text=True, timeout=600
        )
        made.replace(path)


def _folders() -> Iterator[Path]:
    """Beside the source, where the set-up puts them, else the user's cache."""
    yield SOURCE.parent / "build"
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlip"


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def _digest() -> str:
    return hashlib.sha256(SOURCE.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]
