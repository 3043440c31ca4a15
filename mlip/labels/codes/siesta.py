"""SIESTA through ``ase.calculators.siesta.Siesta``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Values
from mlip.labels.codes.elements import content_for
from mlip.labels.codes.program import COMMON_INERT, AnyProgram, ase_section
from mlip.labels.contents import folder_at
from mlip.labels.importing import LabelError

PP_PATH = "SIESTA_PP_PATH"


class Siesta(AnyProgram):
    """SIESTA stops when its SCF does not converge, unless told to go on; its pseudopotentials count by content."""

    name = "SIESTA"
    calculators = ("ase.calculators.siesta.Siesta", "ase.calculators.siesta.siesta.Siesta")
    inert = COMMON_INERT | {"pseudo_path", "symlink_pseudos", "atomic_coord_format"}

    def element_files(self, symbols: Iterable[str], parameters: Values, profile: Values) -> Values:
        """Contents of the pseudopotentials, found as ASE finds them: psf with the qualifier, else PSML."""
        folder, middle = self._pseudo_path(parameters, profile), _qualifier(parameters)
        found = {}
        for symbol in symbols:
            names = (f"{symbol}.{middle}.psf" if middle else f"{symbol}.psf", f"{symbol}.psml")
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path is None:
                raise LabelError(
                    f"label.parameters.pseudo_path: {folder} has neither {names[0]} nor {names[1]}; correct it or"
                    " `pseudo_qualifier`"
                )
            found[symbol] = content_for(symbol, path, "label.parameters.pseudo_path")
        return found

    def _pseudo_path(self, parameters: Values, profile: Values) -> Path:
        given = parameters.get("pseudo_path") or profile.get("pseudo_path")
        given = given or ase_section("siesta").get("pseudo_path") or os.environ.get(PP_PATH)
        if not given:
            raise LabelError(
                f"label.parameters.pseudo_path: missing; name the folder of the pseudopotentials, or set {PP_PATH}"
            )
        return folder_at(given)

    def files_of(self, calculator: Any, symbols: Iterable[str]) -> Values:
        """The pseudopotentials of a ``Siesta`` of a user's own."""
        given = {key: calculator.parameters.get(key) for key in ("pseudo_path", "pseudo_qualifier", "xc")}
        return self.element_files(symbols, given, dict(calculator.profile.configvars))


def _qualifier(parameters: Values) -> str:
    """What stands between symbol and ending: the user's, else the family of the functional, which ASE puts there."""
    given = parameters.get("pseudo_qualifier")
    if given is not None:
        return str(given)
    from ase.calculators.siesta.siesta import Siesta as AseSiesta

    xc = parameters.get("xc") or "LDA"
    word = str(xc if isinstance(xc, str) else xc[0])
    families = (family for family, authors in AseSiesta.allowed_xc.items() if word == family or word in authors)
    return next(families, word).lower()
