"""Elastic constants of the starting crystal by the labeller, to hold a potential against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase import Atoms

from mlip.config.label import Label
from mlip.io.files import write_json
from mlip.jobs.progress import Progress
from mlip.labels.calculator import StoredCalculator
from mlip.properties.elastic.cubic import elastic_cubic
from mlip.properties.equilibrium import at_equilibrium
from mlip.properties.symmetry import PropertyError

STRAIN = 0.01
"""Large enough that the noise of a plane-wave stress does not show, small enough to be linear."""

MAX_LABELS = 60
"""A relaxation that asks for more does not converge; a diamond crystal needs about ten."""


def label_elasticity(
    references: Sequence[Atoms],
    settings: Label,
    *,
    store: Path,
    out: Path,
    strain: float = STRAIN,
    fmax: float = 0.005,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the labeller's cubic elastic constants at its own equilibrium volume as JSON.

    Args:
        references: labelled equation of state of the crystal.
        settings: the ``label`` section, as the references had it.
        store: folder of the label store.
        out: JSON written: ``skipped`` (why there are no constants, or null), ``strain``, ``fmax``,
            ``labels``, ``core_seconds`` and the fields of ``CubicElasticity`` (GPa).
        strain: amplitude of the strains.
        fmax: force in eV/Å at which relaxation in the strained cells ends.
        scratch: folder for files of running calculations.
        progress: called after each label.

    Raises:
        FailedLabelError: when a strained cell has no label or does not relax.
        LabelError: when the settings are at fault.
    """
    result: dict[str, Any] = {"skipped": _obstacle(references), "strain": strain, "fmax": fmax}
    if result["skipped"] is None:
        with StoredCalculator(settings, store, scratch=scratch, max_labels=MAX_LABELS, progress=progress) as labels:
            try:
                crystal = at_equilibrium(references, [atoms.get_potential_energy() for atoms in references])
                crystal.info = {"structure_id": "validate-elasticity"}
                result |= asdict(elastic_cubic(crystal, labels, strain=strain, fmax=fmax))
            except PropertyError as error:
                result["skipped"] = str(error)
            result |= {"labels": len(labels.costs), "core_seconds": sum(labels.costs.values())}
    write_json(out, result, checked=True)


def _obstacle(references: Sequence[Atoms]) -> str | None:
    if not references:
        return "the starting structure is not periodic in three directions"
    if "stress" not in getattr(references[0].calc, "results", {}):
        return "the labeller gives no stress"
    return None
