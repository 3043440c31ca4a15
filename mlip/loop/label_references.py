"""Reference labels: equations of state of starting structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ase import Atoms

from mlip.config.label import Label
from mlip.io.electrons import electronic_state
from mlip.io.extxyz import write_structures
from mlip.jobs.progress import Progress
from mlip.labels.agreement import REMEDY, check_stress, scatter_about_curve
from mlip.labels.complete import label_all
from mlip.labels.importing import LabelError
from mlip.labels.labeller import attach_label
from mlip.properties.eos import fit_eos
from mlip.properties.symmetry import PropertyError
from mlip.structures.geometry import scale_volume
from mlip.structures.labelled import labelled_energy, split_by_source

FEWEST_FOR_FIT = 5  # volumes
LARGEST_SCATTER = 0.005  # eV/atom, of energies about a smooth curve; those of a sufficient basis have a hundredth


def label_references(
    structures: Mapping[int, Atoms],
    settings: Label,
    volumes: Sequence[float],
    *,
    store: Path,
    out: Path,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Label scaled copies of each of ``structures``.

    Args:
        structures: starting structures by their number; those that are not periodic have no volume and no copy.
        settings: the ``label`` section.
        volumes: relative volume changes, e.g. -0.05; without any, the file is empty.
        store: folder of the label store.
        out: extended XYZ of the labelled copies, by structure (``source``) in the order of ``volumes``.
        scratch: folder for files of running calculations.
        progress: called after each label.

    Raises:
        LabelError: when the settings are at fault, any reference failed (they are named), the labels'
            stress is not the slope of their energies or these have no minimum within ``volumes``.
    """
    periodic = {number: structure for number, structure in structures.items() if structure.pbc.all()}
    copies = [atoms for number, structure in periodic.items() for atoms in scaled_copies(structure, volumes, number)]
    outcomes = label_all(copies, settings, store=store, scratch=scratch, progress=progress) if copies else []
    labelled = [attach_label(*item, iteration=0) for item in zip(copies, outcomes, strict=True)]
    if len(set(volumes)) >= FEWEST_FOR_FIT:
        for scan in split_by_source(labelled).values():
            check_stress(scan, settings.stress_agreement)  # first: a small cutoff hides the minimum, too
            _check_minimum(scan)
    write_structures(out, labelled)


def scaled_copies(structure: Atoms, volumes: Sequence[float], number: int = 0) -> list[Atoms]:
    """The references of starting structure ``number``: copies at relative ``volumes``, not labelled yet."""
    return [_scaled(structure, volume, index, number) for index, volume in enumerate(volumes)]


def _scaled(structure: Atoms, volume: float, index: int, number: int) -> Atoms:
    atoms = scale_volume(structure, volume)
    atoms.set_constraint()
    of = f"{number}-" if number else ""
    atoms.info = electronic_state(structure) | {
        "structure_id": f"reference-eos-{of}{index:02d}",
        "origin": "reference",
        "reason": "reference",
        "source": number,
        "relative_volume": float(volume),
    }
    return atoms


def _check_minimum(labelled: Sequence[Atoms]) -> None:
    """Stop now rather than after the first training that nothing can be assessed against."""
    volumes, energies = [atoms.get_volume() for atoms in labelled], [labelled_energy(atoms) for atoms in labelled]
    try:
        fit_eos(volumes, energies)
    except PropertyError as error:
        scatter = scatter_about_curve(volumes, energies) / len(labelled[0])
        if scatter > LARGEST_SCATTER:
            raise LabelError(
                f"label.parameters: the labeller's equation of state cannot be fitted, for its energies scatter by"
                f" {1e3 * scatter:.1f} meV/atom about any smooth curve: {REMEDY}"
            ) from None
        raise LabelError(
            f"assess.eos_volumes: the labeller's own equation of state cannot be fitted ({error}); start from a"
            " structure near the labeller's equilibrium volume, or widen the range on the side of lower energy; for"
            " slabs, wires and molecules set assess: {eos_volumes: []}"
        ) from None
