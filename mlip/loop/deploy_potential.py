"""The deployable potential: the last committee, verified and copied as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mlip.potential import load_potential


def deploy_potential(files: Sequence[Path], out: Path) -> None:
    """Copy a committee's ``files`` into the folder ``out`` and make sure that the copy loads.

    Raises:
        PotentialFileError: when a file is missing, truncated or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, out / path.name)
    load_potential(out)
