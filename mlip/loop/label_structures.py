"""One shard of an iteration's labels: from structures to two files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from mlip.config.label import Label
from mlip.io.extxyz import write_structures
from mlip.io.files import write_json
from mlip.jobs.progress import Progress
from mlip.labels.labeller import Labeller, attach_label
from mlip.labels.progress import report_label


def label_structures(
    structures: Sequence[Atoms],
    settings: Label,
    *,
    store: Path,
    iteration: int,
    shard: int,
    out_structures: Path,
    out_records: Path,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Label the structures of one shard in order.

    Args:
        structures: structures, with ``structure_id`` in ``info``.
        settings: the ``label`` section.
        store: folder of the label store; each finished label is there at once.
        iteration: iteration that asks for the labels.
        shard: number of this shard.
        out_structures: extended XYZ of the structures labelled ``ok`` (eV, eV/Å, eV/Å³).
        out_records: JSON with one record per structure, whatever became of it.
        scratch: folder for files of running calculations.
        progress: called after each label.

    Raises:
        LabelError: when the settings are at fault; failures of single structures only go
            into the records.
    """
    labelled, records = [], []
    with Labeller(settings, store, scratch) as labeller:
        for atoms in structures:
            outcome = labeller.label(atoms)
            structure_id = str(atoms.info.get("structure_id", outcome.key))
            records.append(outcome.summary(structure_id))
            if outcome.status == "ok":
                labelled.append(attach_label(atoms, outcome, iteration))
            report_label(progress, len(records), len(structures), structure_id, outcome)
    write_structures(out_structures, labelled)
    result = {"iteration": iteration, "shard": shard, "planned": len(structures), "records": records}
    write_json(out_records, result, checked=True)
