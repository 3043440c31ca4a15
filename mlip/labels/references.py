"""Reference labels: the equation of state of starting structure 0, and isolated atoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.config import Label
from mlip.extxyz import write_structures
from mlip.files import write_json
from mlip.labels.calculators import LabelError
from mlip.labels.labeller import Labeller, Outcome, attach_label
from mlip.labels.shard import Progress, report

ISOLATED_BOX = 9.0  # Å, edge of the cubic box around an isolated atom


def label_references(
    structure: Atoms,
    settings: Label,
    volumes: Sequence[float],
    *,
    symbols: Sequence[str],
    store: Path,
    out_structures: Path,
    out_isolated: Path,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Label scaled copies of ``structure`` and, if the settings say so, isolated atoms.

    Args:
        structure: starting structure 0.
        settings: the ``label`` section.
        volumes: relative volume changes, e.g. -0.05.
        symbols: chemical symbols that need an isolated atom's energy.
        store: folder of the label store.
        out_structures: extended XYZ of the labelled copies, in the order of ``volumes``.
        out_isolated: JSON of energies in eV per symbol; empty when they are fitted later.
        scratch: folder for files of running calculations.
        progress: called after each label.

    Raises:
        LabelError: when the settings are at fault or any reference failed, naming all that did.
    """
    given = settings.isolated_atoms
    missing = sorted(set(symbols) - set(given)) if isinstance(given, dict) else []
    if missing:
        raise LabelError(f"label.isolated_atoms: no energy for {', '.join(missing)}; add it, or use `fit` or `compute`")
    copies = scale_volumes(structure, volumes)
    boxes = [isolate_atom(symbol, settings) for symbol in sorted(set(symbols))] if given == "compute" else []
    planned, failed = len(copies) + len(boxes), []
    done: list[tuple[Atoms, Outcome, str]] = []
    for group, parameters in ((copies, None), (boxes, isolated_parameters(settings))):
        with Labeller(settings, store, scratch, parameters) as labeller:
            for atoms in group:
                outcome = labeller.label(atoms)
                done.append((atoms, outcome, labeller.settings_id))
                if outcome.status != "ok":
                    failed.append(f"{atoms.info['structure_id']}: {outcome.status}, {outcome.reason}")
                report(progress, len(done), planned, atoms.info["structure_id"], outcome)
    if failed:
        raise LabelError(
            "reference labels must all succeed, these did not; change `label.parameters`, `assess.eos_volumes` or"
            " `label.isolated_atoms`:\n  " + "\n  ".join(failed)
        )
    write_structures(out_structures, [attach_label(*item, iteration=0) for item in done[: len(copies)]])
    computed = {
        atoms.get_chemical_symbols()[0]: outcome.record["results"]["energy"]
        for atoms, outcome, _ in done[len(copies) :]
    }
    write_json(out_isolated, dict(given) if isinstance(given, dict) else computed)


def scale_volumes(structure: Atoms, volumes: Sequence[float]) -> list[Atoms]:
    """Copies of ``structure`` with all lengths scaled so that the volume changes by ``volumes``."""
    copies = []
    for index, volume in enumerate(volumes):
        atoms = structure.copy()
        atoms.set_constraint()
        atoms.set_cell(structure.cell.array * np.cbrt(1.0 + volume), scale_atoms=True)
        atoms.info = {
            "structure_id": f"reference-eos-{index:02d}",
            "origin": "reference",
            "reason": "reference",
            "relative_volume": float(volume),
        }
        copies.append(atoms)
    return copies


def isolate_atom(symbol: str, settings: Label) -> Atoms:
    """One atom in the middle of a box; periodic where the calculator needs it (GPAW's plane waves)."""
    middle = np.full((1, 3), ISOLATED_BOX / 2)
    atoms = Atoms(symbol, positions=middle, cell=[ISOLATED_BOX] * 3, pbc=_uses_plane_waves(settings))
    atoms.info = {"structure_id": f"reference-atom-{symbol}", "origin": "reference", "reason": "reference"}
    return atoms


def isolated_parameters(settings: Label) -> dict[str, Any]:
    """Calculator parameters for isolated atoms; for GPAW at Γ and, unless told otherwise, by Hund's rule."""
    parameters = dict(settings.parameters)
    if settings.calculator == "gpaw":
        parameters.pop("kpts", None)
        parameters["hund"] = True
    return parameters | settings.isolated_atom_parameters


def _uses_plane_waves(settings: Label) -> bool:
    mode = (settings.parameters | settings.isolated_atom_parameters).get("mode")
    name = mode.get("name") if isinstance(mode, dict) else mode
    return settings.calculator == "gpaw" and name == "pw"
