"""Which steps of a VASP run did not converge: its files give energies and forces of all of them alike."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from ase.io.formats import open_with_compression

LOOP_END, NOT_REACHED, STOPPED = "aborting loop", "was not reached", "hard stop was set"
"""What OUTCAR says at the end of an SCF: ``because EDIFF is reached``, ``EDIFF was not reached (unconverged)`` or,
where a STOPCAR ended it, ``because hard stop was set``. Versions before 6 end one at its last cycle without a word."""
STEP_END = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
"""What OUTCAR says after the SCF of each ionic step, by which ASE tells these apart."""
CYCLE = re.compile(r"-+ Iteration\s+\d+\(\s*(\d+)\)")
MOST_CYCLES = re.compile(r"^\s*NELM\s*=\s*(\d+)")


def unconverged_steps(path: Path, kind: str) -> set[int]:
    """Numbers, from 0, of the ionic steps in a ``vasprun.xml`` or OUTCAR whose SCF ended at its last allowed cycle.

    Args:
        path: the file, which may be packed (``.gz``, ``.bz2``, ``.xz``).
        kind: ASE's name of its format, ``vasp-xml`` or ``vasp-out``; of any other nothing is known.
    """
    if kind == "vasp-xml":
        return _in_xml(path)
    return _in_outcar(path) if kind == "vasp-out" else set()


def _in_outcar(path: Path) -> set[int]:
    ends, steps = list[bool](), list[bool]()  # of SCFs, and of ionic steps: whether unconverged
    allowed, cycle, last = 0, 0, None
    with open_with_compression(str(path), "rb") as stream:
        for raw in stream:
            line = raw.decode("utf-8", errors="replace")
            if LOOP_END in line:
                last = NOT_REACHED in line or STOPPED in line
                ends.append(last)
            elif STEP_END in line:
                steps.append(last if last is not None else 0 < allowed <= cycle)
                cycle, last = 0, None
            elif found := CYCLE.search(line):
                cycle = int(found[1])
            elif found := MOST_CYCLES.match(line):
                allowed = int(found[1])
    return {k for k, unconverged in enumerate(steps or ends) if unconverged}


def _in_xml(path: Path) -> set[int]:
    found, number, allowed, tolerance = set[int](), 0, 0, 0.0
    try:
        with open_with_compression(str(path), "rb") as stream:
            for _, element in ElementTree.iterparse(stream):
                if element.tag == "i" and element.get("name") in ("NELM", "EDIFF") and element.text:
                    value = float(element.text)
                    allowed, tolerance = (int(value), tolerance) if element.get("name") == "NELM" else (allowed, value)
                elif element.tag == "calculation":
                    if _ended_early(element, allowed, tolerance):
                        found.add(number)
                    number += 1
                    element.clear()
    except ElementTree.ParseError:
        pass  # a run that was killed: what is whole counts, and the reader of its structures says what is not
    return found


def _ended_early(calculation: ElementTree.Element, allowed: int, tolerance: float) -> bool:
    """Whether an ionic step's SCF took all ``allowed`` cycles, of which the last changed the energy more than EDIFF."""
    energies = [float(e.text or "nan") for e in calculation.findall("scstep/energy/i[@name='e_fr_energy']")]
    return 1 < allowed <= len(energies) and not abs(energies[-1] - energies[-2]) <= tolerance
