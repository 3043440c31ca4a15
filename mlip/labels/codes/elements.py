"""Files of an element: whether one that stands for an element is of it, which most codes never ask."""

from __future__ import annotations

import re
from pathlib import Path

from mlip.labels.contents import content_of
from mlip.labels.importing import LabelError

HEADER = 200_000
"""Characters that hold the header, behind the input of the generating program."""
NAMED = re.compile(
    r"""\belement\s*=\s*["']\s*([A-Za-z]{1,2})\s*["']   # UPF 2: <PP_HEADER element="Si" .../>
    |^\s*([A-Z][a-z]?)\s+Element\s*$                    # UPF 1, in <PP_HEADER>
    |^\s*VRHFIN\s*=\s*([A-Z][a-z]?)\s*:                 # POTCAR
    |^\s*nucleus\s+(\d+)(?:\.0*)?\s*(?:\#.*)?$          # species' defaults of FHI-aims
    """,
    re.MULTILINE | re.VERBOSE,
)


def read_element(path: Path) -> str | None:
    """Symbol of the element that a pseudopotential (UPF, POTCAR) or species' defaults (FHI-aims) say they are of.

    None where the file does not say, or is of no real element, e.g. of a virtual crystal.
    """
    with path.open(encoding="utf-8", errors="replace") as stream:
        found = NAMED.search(stream.read(HEADER))
    if found is None:
        return None
    name = next(group for group in found.groups() if group)
    from ase.data import chemical_symbols  # planning imports this module, and pays for no ASE

    if name.isdigit():
        return chemical_symbols[int(name)] if 0 < int(name) < len(chemical_symbols) else None
    return name.capitalize() if name.capitalize() in chemical_symbols[1:] else None


def content_for(symbol: str, path: Path, setting: str) -> dict[str, str]:
    """The content of ``path``, which stands for ``symbol`` by the ``setting``.

    Raises:
        LabelError: when the file is of another element: the code would label with it, and say nothing.
    """
    found = read_element(path)
    if found not in (None, symbol):
        raise LabelError(f"{setting}: {path} is of {found}, and would stand for {symbol}; name a file of {symbol}")
    return content_of(path)
