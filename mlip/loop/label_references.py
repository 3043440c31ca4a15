"""Reference labels: the equation of state of starting structure 0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from mlip.config.label import Label
from mlip.io.extxyz import write_structures
from mlip.jobs.progress import Progress
from mlip.labels.complete import label_all
from mlip.labels.importing import LabelError
from mlip.labels.labeller import attach_label
from mlip.properties.eos import fit_eos
from mlip.properties.symmetry import PropertyError
from mlip.structures.geometry import scale_volume
from mlip.structures.labelled import labelled_energy

FEWEST_FOR_FIT = 5  # volumes


def label_references(
    structure: Atoms,
    settings: Label,
    volumes: Sequence[float],
    *,
    store: Path,
    out: Path,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Label scaled copies of ``structure``.

    Args:
        structure: starting structure 0.
        settings: the ``label`` section.
        volumes: relative volume changes, e.g. -0.05; without any, the file is empty.
        store: folder of the label store.
        out: extended XYZ of the labelled copies, in the order of ``volumes``.
        scratch: folder for files of running calculations.
        progress: called after each label.

    Raises:
        LabelError: when the settings are at fault, any reference failed (they are named) or the
            labeller's energies have no minimum within ``volumes``.
    """
    copies = [_scaled(structure, volume, index) for index, volume in enumerate(volumes)]
    outcomes = label_all(copies, settings, store=store, scratch=scratch, progress=progress) if copies else []
    labelled = [attach_label(*item, iteration=0) for item in zip(copies, outcomes, strict=True)]
    if len(set(volumes)) >= FEWEST_FOR_FIT:
        _check_minimum(labelled)
    write_structures(out, labelled)


def _scaled(structure: Atoms, volume: float, index: int) -> Atoms:
    atoms = scale_volume(structure, volume)
    atoms.set_constraint()
    atoms.info = {
        "structure_id": f"reference-eos-{index:02d}",
        "origin": "reference",
        "reason": "reference",
        "relative_volume": float(volume),
    }
    return atoms


def _check_minimum(labelled: Sequence[Atoms]) -> None:
    """Stop now rather than after the first training that nothing can be assessed against."""
    try:
        fit_eos([atoms.get_volume() for atoms in labelled], [labelled_energy(atoms) for atoms in labelled])
    except PropertyError as error:
        raise LabelError(
            f"assess.eos_volumes: the labeller's own equation of state cannot be fitted ({error}); start from a"
            " structure near the labeller's equilibrium volume, or widen the range on the side of lower energy"
        ) from None
