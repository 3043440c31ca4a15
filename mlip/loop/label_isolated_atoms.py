"""Energies of isolated atoms: given, computed or left to a fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.config.label import Label
from mlip.io.files import write_json
from mlip.jobs.progress import Progress
from mlip.labels.complete import label_all
from mlip.labels.importing import LabelError, is_gpaw

CHARGES = frozenset({"charge", "tot_charge", "total_charge", "net_charge", "totalcharge", "netcharge", "nelect"})
"""What codes call the charge of the system, or the number of electrons: GPAW, FHI-aims, ORCA and CP2K, Quantum
ESPRESSO, Siesta, VASP."""
ISOLATED_BOX = 9.0  # Å, edge of the cubic box around an isolated atom


def label_isolated_atoms(
    symbols: Sequence[str],
    settings: Label,
    *,
    store: Path,
    out: Path,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the isolated atoms' energies in eV per symbol; none when they are fitted later.

    Args:
        symbols: chemical symbols that need an energy.
        settings: the ``label`` section.
        store: folder of the label store.
        out: JSON written.
        scratch: folder for files of running calculations.
        progress: called after each label.

    Raises:
        LabelError: when the settings are at fault, an energy is missing or a label failed.
    """
    given, symbols = settings.isolated_atoms, sorted(set(symbols))
    energies: dict[str, float] = {}
    if isinstance(given, dict):
        missing = sorted(set(symbols) - set(given))
        if missing:
            raise LabelError(
                f"label.isolated_atoms: no energy for {', '.join(missing)}; add it, or use `fit` or `compute`"
            )
        energies = dict(given)
    elif given == "compute":
        boxes = [isolate_atom(symbol, settings) for symbol in symbols]
        special = settings.model_copy(update={"parameters": isolated_parameters(settings)})
        outcomes = label_all(boxes, special, store=store, scratch=scratch, progress=progress)
        energies = {s: o.record["results"]["energy"] for s, o in zip(symbols, outcomes, strict=True)}
    write_json(out, energies, checked=True)


def isolate_atom(symbol: str, settings: Label) -> Atoms:
    """One atom in the middle of a box; periodic where the calculator needs it (GPAW's plane waves)."""
    middle = np.full((1, 3), ISOLATED_BOX / 2)
    atoms = Atoms(symbol, positions=middle, cell=[ISOLATED_BOX] * 3, pbc=_uses_plane_waves(settings))
    atoms.info = {"structure_id": f"reference-atom-{symbol}", "origin": "reference", "reason": "reference"}
    return atoms


def isolated_parameters(settings: Label) -> dict[str, Any]:
    """Calculator parameters for isolated atoms: neutral whatever the system is; for GPAW at Γ and by Hund's rule.

    What ``isolated_atom_parameters`` says goes before.
    """
    parameters = _neutral(settings.parameters)
    if is_gpaw(settings.calculator):
        parameters.pop("kpts", None)
        parameters["hund"] = True
    return parameters | settings.isolated_atom_parameters


def _neutral(parameters: dict[str, Any]) -> dict[str, Any]:
    """``parameters`` without the charge of the system, wherever a code wants it."""
    return {
        key: _neutral(value) if isinstance(value, dict) else value
        for key, value in parameters.items()
        if key.lower() not in CHARGES
    }


def _uses_plane_waves(settings: Label) -> bool:
    mode = (settings.parameters | settings.isolated_atom_parameters).get("mode")
    name = mode.get("name") if isinstance(mode, dict) else mode
    return is_gpaw(settings.calculator) and name == "pw"
