"""xTB by tblite, through ``tblite.ase.TBLite``, in the worker's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Code, Ladder, Values
from mlip.labels.importing import LabelError


class Tblite(Code):
    """tblite raises when its SCF does not converge."""

    name = "tblite"
    calculators = ("tblite.ase.TBLite",)
    tells_convergence = True
    takes_directions = False
    mesh_names = ()
    inert = frozenset({"verbosity", "cache_api", "color"})

    def ladder(self, parameters: Values) -> Ladder:
        """More iterations and more damping."""
        own = parameters.get("max_iterations")
        floor = own if isinstance(own, int) else 0
        return tuple({"max_iterations": max(most, floor), "mixer_damping": damping}
                     for most, damping in ((500, 0.2), (1000, 0.05)))  # fmt: skip

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """``charge`` and ``multiplicity``."""
        spin = {} if multiplicity is None else {"multiplicity": multiplicity}
        return parameters | {"charge": charge} | spin

    def check_moments(self, atoms: Any, parameters: Values) -> None:
        """Also moments whose sum, which stands for unpaired electrons, the number of electrons does not allow."""
        super().check_moments(atoms, parameters)
        if parameters.get("multiplicity") is not None or any(57 <= z <= 71 for z in atoms.numbers):
            return  # told, or with 4f electrons in the core
        moments = float(atoms.get_initial_magnetic_moments().sum())
        n_electrons = float(atoms.numbers.sum()) - (parameters.get("charge") or 0)
        if moments and round(n_electrons - moments) % 2:
            raise LabelError(
                f"structures: the initial magnetic moments of {atoms.get_chemical_formula()} sum to {moments:g} µB,"
                f" which {n_electrons:g} electrons do not allow; ASE gives moments to some molecules by itself: remove"
                " `initial_magmoms` from the structure's file, or write a `multiplicity` (2S + 1) into it"
            )

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """Silent, and neutral unless told otherwise: charges of atoms may be oxidation states."""
        del profile, folder, atoms
        unknown = sorted(set(parameters) - set(factory.default_parameters))
        if unknown:
            known = ", ".join(sorted(factory.default_parameters))
            raise LabelError(f"label.parameters.{unknown[0]}: tblite has no such parameter; it has {known}")
        return factory(**({"verbosity": 0, "charge": 0} | parameters))
