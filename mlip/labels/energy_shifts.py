"""Constants for each element by which the energies of existing data are moved to those of the labeller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ase import Atoms

from mlip.io.files import read_json


def read_shifts(comparison: Path | None) -> dict[int, dict[str, float]]:
    """Shift of the energies (eV an atom of each element) of each source, by its place in ``data``."""
    if comparison is None:
        return {}
    return {int(entry["source"]): entry["shift"] for entry in read_json(comparison)["sources"]}


def shift_energies(structures: Sequence[Atoms], shifts: Mapping[int, Mapping[str, float]]) -> None:
    """Add to the energies of existing data what :func:`mlip.loop.relabel_data.relabel_data` found missing."""
    for atoms in structures:
        shift = shifts.get(int(atoms.info.get("data_source", -1)))
        if shift:
            atoms.calc.results["energy"] += sum(shift[symbol] for symbol in atoms.symbols)
