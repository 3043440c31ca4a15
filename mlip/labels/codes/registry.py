"""Which code a calculator belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlip.labels.codes.abinit import Abinit
from mlip.labels.codes.aims import Aims
from mlip.labels.codes.code import Code
from mlip.labels.codes.cp2k import Cp2k
from mlip.labels.codes.dftb import DftbPlus
from mlip.labels.codes.espresso import Espresso
from mlip.labels.codes.gpaw import Gpaw
from mlip.labels.codes.orca import Orca
from mlip.labels.codes.program import AnyProgram
from mlip.labels.codes.siesta import Siesta
from mlip.labels.codes.tblite import Tblite
from mlip.labels.codes.vasp import Vasp
from mlip.labels.importing import LabelError

if TYPE_CHECKING:
    from mlip.config.label import Label

CODES: tuple[Code, ...] = (
    Gpaw(), Espresso(), Cp2k(), Vasp(), Aims(), Abinit(), Orca(), DftbPlus(), Tblite()
)  # fmt: skip
KNOWN = (*CODES, Siesta())
"""With those of which less is known."""
OTHER = Code()
ANY_PROGRAM = AnyProgram()
PROGRAMS = frozenset(
    f"ase.calculators.{name}"
    for name in (
        "octopus.Octopus", "elk.ELK", "onetep.Onetep", "exciting.ExcitingGroundStateCalculator",
        "nwchem.NWChem", "gaussian.Gaussian", "qchem.QChem", "gamess_us.GAMESSUS", "mopac.MOPAC", "crystal.CRYSTAL",
        "acemolecule.ACE",
    )
)  # fmt: skip
"""ASE's other calculators that run a program and take its profile or command."""


def find_code(calculator: str) -> Code:
    """The code of the calculator at the import path ``calculator``."""
    for code in KNOWN:
        if calculator in code.calculators:
            return code
    return ANY_PROGRAM if calculator in PROGRAMS else OTHER


def code_of(calculator: Any, named: Code) -> Code:
    """The code of a calculator object: for a wrapper of a user's own, that of the ASE class it derives from."""
    if named is not OTHER:
        return named
    paths = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(calculator).__mro__]
    found = (code for code in KNOWN for path in paths if path in code.calculators)
    return next(found, named)


def deciding_settings(settings: Label) -> dict[str, Any]:
    """Of calculator, parameters and profile, what is a reason to label again; how a program is started is none.

    Settings that are refused later are given as they are.
    """
    code = find_code(settings.calculator)
    plain = settings.model_dump(mode="json", include={"calculator", "parameters", "profile"})
    try:
        parameters, profile = code.split(plain["parameters"], plain["profile"])
    except LabelError:
        return plain
    places = {key: value for key, value in profile.items() if key != "command"}
    decided = {"calculator": plain["calculator"], "parameters": code.deciding(parameters)}
    return decided | ({"profile": places} if places else {})
