"""Machine-learned interatomic potentials: the interface, its backend and its files."""

from mlip.potential.files import load_potential
from mlip.potential.interface import Potential, PotentialFileError, Precision, Prediction, UnknownSpeciesError

__all__ = ["Potential", "PotentialFileError", "Precision", "Prediction", "UnknownSpeciesError", "load_potential"]
