"""Machine-learned interatomic potentials: the interface, its backend and its files.

May import: ``mlip.jobs`` and below. Backends (``ace``, ``mace``) do not know each other, and only training, export,
doctor and testing look into them.
"""

from mlip.potential.files import load_potential
from mlip.potential.interface import Potential, PotentialFileError, Precision, Prediction, UnknownSpeciesError

__all__ = ["Potential", "PotentialFileError", "Precision", "Prediction", "UnknownSpeciesError", "load_potential"]
