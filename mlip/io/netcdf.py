"""NetCDF files that notice damage: written at once, with a checksum behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mlip.io.files import write_atomic

TRAILER = b"\n#sha256:"
TRAILER_BYTES = len(TRAILER) + 65


class TrajectoryError(ValueError):
    """A NetCDF file that is missing, truncated or not ours."""


def write_netcdf(path: Path, data: xr.Dataset) -> None:
    """Write ``data`` compressed, complete or not at all, with the SHA-256 of the file in its last line.

    Made in memory: a full disk is reported by the operating system, which HDF5 does badly, and the
    checksum covers all of the file, where those of HDF5 leave out attributes and text. HDF5 ignores
    what follows its own end.
    """
    encoding = {name: {"zlib": True} for name, v in data.variables.items() if v.dtype.kind in "fiu" and v.ndim}
    content = bytes(data.to_netcdf(None, engine="netcdf4", encoding=encoding))
    write_atomic(path, content + TRAILER + hashlib.sha256(content).hexdigest().encode() + b"\n")


def read_netcdf(path: Path, required: Sequence[str] = ()) -> xr.Dataset:
    """Load a NetCDF file into memory.

    Raises:
        TrajectoryError: when it is missing, truncated, altered, or lacks a variable in ``required``.
    """
    try:
        content = Path(path).read_bytes()
        content, mark, digest = (
            content.rpartition(TRAILER) if TRAILER in content[-TRAILER_BYTES:] else (content, b"", b"")
        )
        if mark and digest.strip() != hashlib.sha256(content).hexdigest().encode():
            raise ValueError("it does not match the checksum in its last line")
        with xr.open_dataset(content, engine="netcdf4") as data:
            loaded = data.load()
    except (OSError, ValueError, RuntimeError) as error:
        raise TrajectoryError(
            f"{path} is not a readable NetCDF file ({error}); delete it and run again to rebuild it"
        ) from None
    missing = [name for name in required if name not in loaded.variables]
    if missing:
        raise TrajectoryError(
            f"{path} lacks the variable(s) {', '.join(missing)}; delete it and run again to rebuild it"
        )
    return loaded


def _variable(dims: str | tuple[str, ...], values: Any, units: str) -> tuple[Any, np.ndarray, dict[str, str]]:
    return dims, np.asarray(values), {"units": units}
