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
    |<(?:\w+:)?pseudo-atom-spec\b[^>]*\batomic-number\s*=\s*["'](\d+)(?:\.0*)?["']   # PSML
    |\A[^\n]*\n\s*(\d+)(?:\.0*)?\s+\d+(?:\.\d*)?\s+\d{6,8}\b   # psp8, HGH and fhi98 of ABINIT: zatom, zion, pspdat
    |<paw_(?:dataset|setup)\b[^>]*>.*?<atom\s+symbol\s*=\s*["']([A-Za-z]{1,2})["']   # PAW-XML
    """,
    re.MULTILINE | re.VERBOSE | re.DOTALL,
)
PSF = re.compile(r"\s*([A-Z][a-z]?)\s+\w\w\s+(?:nrl|rel|isp)\b")
"""First line of SIESTA's psf: element, functional, whether it is relativistic, core correction."""
MASS_TOLERANCE = 0.1
"""u; cobalt and nickel are 0.24 apart, and tables of standard weights differ by less than 0.1."""


def read_element(path: Path) -> str | None:
    """Symbol of the element that a file of one element says it is of.

    That is a pseudopotential (UPF, POTCAR, psf, PSML, psp8, PAW-XML), species' defaults of FHI-aims, or the
    Slater-Koster file of an element with itself. None where the file does not say, or is of no real element, e.g. of
    a virtual crystal.
    """
    with path.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(HEADER)
    if path.suffix == ".skf":
        return _element_of_mass(text)
    found = PSF.match(text) if path.suffix == ".psf" else NAMED.search(text)
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


def _element_of_mass(text: str) -> str | None:
    """Of a homonuclear Slater-Koster file, whose third line (fourth, behind a comment `@`) begins with the mass, u."""
    from ase.data import atomic_masses, chemical_symbols

    lines = text.splitlines()
    lines = lines[1:] if text.startswith("@") else lines
    try:
        mass = float(re.split(r"[\s,*]+", lines[2].strip())[0])
    except (IndexError, ValueError):
        return None
    if mass == 1.0:  # a placeholder; hydrogen's is 1.008
        return None
    number = min(range(1, len(chemical_symbols)), key=lambda z: abs(atomic_masses[z] - mass))
    return chemical_symbols[number] if abs(atomic_masses[number] - mass) < MASS_TOLERANCE else None
