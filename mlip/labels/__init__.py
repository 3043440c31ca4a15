"""Labels: energies, forces and stresses from any ASE calculator, stored by content.

Every label runs in a child process, so that a crash or a hang of the DFT code costs one
label; every finished label is stored at once, so that nothing is computed twice.
"""

from mlip.labels.calculators import LABELLER_VERSION, LabelError
from mlip.labels.references import label_references
from mlip.labels.shard import label_structures
from mlip.labels.store import LabelStore

__all__ = ["LABELLER_VERSION", "LabelError", "LabelStore", "label_references", "label_structures"]
