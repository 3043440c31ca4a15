"""Total charge and spin of a structure, which decide its label and which no geometry tells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms

STATE = ("charge", "spin")
"""In ``info``: total charge (e) and multiplicity 2S + 1, by the names that data sets of molecules use."""
SPINS = ("spin", "multiplicity")
"""Names of the multiplicity; the first is used here, the second is read, too."""
GROUND = {"charge": 0, "spin": 1}
"""What codes take for granted of a structure that tells neither."""


class ElectronsError(ValueError):
    """A charge or multiplicity that is none; the message has the value and the remedy."""


def electronic_state(atoms: Atoms) -> dict[str, float | int]:
    """What ``info`` says of ``charge`` and ``spin``, each only where there is one.

    Raises:
        ElectronsError: for values that are no numbers, and a multiplicity that is none or is given twice.
    """
    found: dict[str, float | int] = {}
    if atoms.info.get("charge") is not None:
        found["charge"] = _number("charge", atoms.info["charge"])
    for name in SPINS:
        if atoms.info.get(name) is None:
            continue
        value = _number(name, atoms.info[name])
        if value < 1 or value != int(value):
            raise ElectronsError(f"{name}={value:g} is no multiplicity 2S + 1; write 1 for a singlet, 2 for a doublet")
        if found.get("spin", value) != value:
            raise ElectronsError(f"spin={found['spin']:g} and multiplicity={value:g} contradict each other; remove one")
        found["spin"] = int(value)
    return found


def unusual_state(atoms: Atoms) -> dict[str, float | int]:
    """Of :func:`electronic_state` what is neither neutral nor a singlet."""
    return {name: value for name, value in electronic_state(atoms).items() if value != GROUND[name]}


def describe_state(state: Mapping[str, float | int]) -> str:
    """``state`` for a message, e.g. ``charge=1, spin=2``."""
    return ", ".join(f"{name}={value:g}" for name, value in state.items())


def _number(name: str, value: object) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise ElectronsError(f"{name}={value} is not a number; write it as one, or remove it")
    plain = float(value)
    return int(plain) if plain.is_integer() else plain
