"""Labels that are useful only as a whole set, such as those of a scan of volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from mlip.config.label import Label
from mlip.jobs.progress import Progress
from mlip.labels.importing import LabelError
from mlip.labels.labeller import Labeller, Outcome
from mlip.labels.progress import report_label

MOST_NAMED = 6
"""Failed labels that a message names: it fits on one screen."""


def label_all(
    structures: Sequence[Atoms],
    settings: Label,
    *,
    store: Path,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Outcomes of ``structures``, none of which may fail.

    Raises:
        LabelError: naming those that failed.
    """
    outcomes, failed = [], []
    with Labeller(settings, store, scratch) as labeller:
        for atoms in structures:
            outcome = labeller.label(atoms)
            outcomes.append(outcome)
            if outcome.status != "ok":
                failed.append(f"{atoms.info['structure_id']}: {outcome.status}, {outcome.reason}")
            elif outcome.settings_id != labeller.settings_id:
                failed.append(f"{atoms.info['structure_id']}: escalated to other settings, {outcome.record['changed']}")
            report_label(progress, len(outcomes), len(structures), atoms.info["structure_id"], outcome)
    if failed:
        more = [f"... and {len(failed) - MOST_NAMED} more"] if len(failed) > MOST_NAMED else []
        raise LabelError(
            "reference labels must all succeed, these did not; change `label.parameters`, `assess.eos_volumes` or"
            " `label.isolated_atoms`:\n  " + "\n  ".join(failed[:MOST_NAMED] + more)
        )
    return outcomes
