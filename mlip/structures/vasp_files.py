"""Which steps of a VASP run did not converge: its files give energies and forces of all of them alike."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

LOOP_END, NOT_REACHED = "aborting loop", "was not reached"
"""What OUTCAR says at the end of each SCF: ``because EDIFF is reached``, or ``EDIFF was not reached (unconverged)``."""


def unconverged_steps(path: Path, kind: str) -> set[int]:
    """Numbers, from 0, of the ionic steps in a ``vasprun.xml`` or OUTCAR whose SCF ended at its last allowed cycle.

    Args:
        path: the file.
        kind: ASE's name of its format, ``vasp-xml`` or ``vasp-out``; of any other nothing is known.
    """
    if kind == "vasp-xml":
        return _in_xml(path)
    return _in_outcar(path) if kind == "vasp-out" else set()


def _in_outcar(path: Path) -> set[int]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        ends = [line for line in stream if LOOP_END in line]
    return {k for k, line in enumerate(ends) if NOT_REACHED in line}


def _in_xml(path: Path) -> set[int]:
    found, number, allowed, tolerance = set[int](), 0, 0, 0.0
    try:
        for _, element in ElementTree.iterparse(path):
            if element.tag == "i" and element.get("name") in ("NELM", "EDIFF") and element.text:
                value = float(element.text)
                allowed, tolerance = (int(value), tolerance) if element.get("name") == "NELM" else (allowed, value)
            elif element.tag == "calculation":
                energies = [float(e.text or "nan") for e in element.findall("scstep/energy/i[@name='e_fr_energy']")]
                if 1 < allowed <= len(energies) and abs(energies[-1] - energies[-2]) > tolerance:
                    found.add(number)
                number += 1
                element.clear()
    except ElementTree.ParseError:
        pass  # a run that was killed: what is whole counts, and the reader of its structures says what is not
    return found
