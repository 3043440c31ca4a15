"""Labels outside any loop, through the store: what the labeller makes of a few structures, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from mlip.config.system import Config
from mlip.jobs.progress import Progress
from mlip.labels.agreement import ForceAgreement, compare_forces, displace_along
from mlip.labels.codes.kmesh import check_mesh
from mlip.labels.labeller import Labeller, Outcome
from mlip.labels.progress import report_label
from mlip.seeds import derive_rng
from mlip.structures.formats import read_whole
from mlip.structures.starting import StructureError, check_structure, load_starting_structure

SMALLEST_FORCE = 0.1
"""eV/Å, norm over all atoms: along smaller ones energies differ by less than an SCF resolves."""


@dataclass(frozen=True)
class TrialLabel:
    """A structure and what became of its label."""

    structure: Atoms
    outcome: Outcome

    @property
    def results(self) -> dict[str, Any] | None:
        """The label's energy (eV), forces (eV/Å) and stress (eV/Å³), where there are any."""
        return self.outcome.record["results"]

    def force_norms(self) -> np.ndarray:
        """Norm of the force on each atom [n_atoms], eV/Å; nothing without a result."""
        results = self.results
        return np.linalg.norm(np.reshape(results["forces"], (-1, 3)), axis=1) if results else np.zeros(0)

    def pressure(self) -> float | None:
        """GPa."""
        results = self.results
        if results is None or results["stress"] is None:
            return None
        return float(-np.mean(results["stress"][:3]) / units.GPa)

    def as_json(self) -> dict[str, Any]:
        """Everything that is known of the label: eV, eV/Å, eV/Å³ in ASE's order, GPa, s, MB."""
        record, results, norms = self.outcome.record, self.results or {}, self.force_norms()
        return self.outcome.summary(str(self.structure.info["structure_id"])) | {
            "formula": self.structure.get_chemical_formula(),
            "n_atoms": len(self.structure),
            "settings_id": self.outcome.settings_id,
            "energy": results.get("energy"),
            "forces": results.get("forces"),
            "max_force": float(norms.max()) if len(norms) else None,
            "rms_force": float(np.sqrt(np.mean(norms**2))) if len(norms) else None,
            "stress": results.get("stress"),
            "pressure_gpa": self.pressure(),
            "peak_mb": record.get("peak_mb"),  # labels of earlier versions have none
        }


def read_trial_structures(path: Path, limit: int | None = None) -> list[Atoms]:
    """The first ``limit`` structures of ``path``, each with a ``structure_id``.

    Raises:
        StructureError: when the file cannot be read or a structure in it is none that a calculator can treat.
    """
    try:
        found = read_whole(path)[:limit]
    except Exception as error:  # readers of dozens of formats raise whatever they meet in a broken file
        raise StructureError(
            f"{path}: no structures can be read ({type(error).__name__}: {error}); repair or convert it"
        ) from None
    for number, atoms in enumerate(found):
        check_structure(atoms, f"{path}, structure {number}")
        atoms.set_constraint()
        atoms.info.setdefault("structure_id", f"{path.stem}-{number:03d}")
    return found


def rattle_start(config: Config) -> Atoms:
    """The first starting structure with the smallest displacements of ``prepare.rattle``, always the same ones."""
    atoms = load_starting_structure(config.structures[0])
    atoms.set_constraint()
    rng = derive_rng(config.seed, "trial")
    atoms.positions += rng.normal(0.0, min(config.prepare.rattle), atoms.positions.shape)
    atoms.info["structure_id"] = "trial"
    return atoms


def label_trials(labeller: Labeller, structures: Sequence[Atoms], progress: Progress | None = None) -> list[TrialLabel]:
    """Label ``structures`` in order, whatever becomes of each.

    Raises:
        LabelError: when the settings are at fault, or one mesh of k-points is not the same for all of them.
    """
    check_mesh(labeller.settings.parameters, structures)
    labels = []
    for atoms in structures:
        labels.append(TrialLabel(atoms, labeller.label(atoms)))
        report_label(progress, len(labels), len(structures), str(atoms.info["structure_id"]), labels[-1].outcome)
    return labels


def try_forces(
    labeller: Labeller, label: TrialLabel, progress: Progress | None = None
) -> tuple[ForceAgreement | None, list[TrialLabel]]:
    """Two more labels, to compare the forces of ``label`` with differences of energies.

    Returns:
        The comparison, None where the forces are too small or a label failed; and the two labels.

    Raises:
        LabelError: when the settings are at fault.
    """
    if label.results is None or label.outcome.status != "ok":
        return None, []
    forces = np.reshape(label.results["forces"], (-1, 3))
    if np.linalg.norm(forces) < SMALLEST_FORCE:
        return None, []
    moved = label_trials(labeller, displace_along(label.structure, forces), progress)
    if any(other.outcome.status != "ok" or other.results is None for other in moved):
        return None, moved
    back, forth = (float(other.results["energy"]) for other in moved if other.results is not None)
    return compare_forces(forces, back, forth), moved
