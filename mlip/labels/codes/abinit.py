"""ABINIT through ``ase.calculators.abinit.Abinit``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Values, read_text, refuse
from mlip.labels.codes.elements import content_for
from mlip.labels.codes.kmesh import mesh_for
from mlip.labels.codes.magnetism import find_fixed_occupations
from mlip.labels.codes.program import COMMON_INERT, Program, ase_section
from mlip.labels.contents import folder_at, leaves
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

LOG = "abinit.log"
UNCONVERGED = re.compile(r"ScfConvergenceWarning|nstep=\s*\d+ was not enough SCF cycles to converge")
CONVERGED = re.compile(r"At SCF step\s+\d+[^\n]*converged", re.IGNORECASE)
END = "Calculation completed"
ERROR = re.compile(r"--- !(?:ERROR|BUG)\n(.*?)\n\.\.\.", re.DOTALL)
MESSAGE = re.compile(r"message:\s*\|?\s*\n?(.*)", re.DOTALL)
OF_SETTINGS = re.compile(
    r"not valid|invalid|unknown|must |does not exist|not found|cannot be found|wrong|missing|variable|unable to find",
    re.IGNORECASE,
)


class Abinit(Program):
    """ABINIT warns of an SCF that did not converge, and goes on."""

    name = "ABINIT"
    calculators = ("ase.calculators.abinit.Abinit",)
    tells_convergence = True
    takes_directions = False
    section = "abinit"
    needs_cell = True
    default_command = "abinit"
    program_pattern = r"abinit\S*"
    version_arguments = ("--version",)
    version_pattern = r"(?:\A\s*|\.Version\s+)(\d\S*)"  # when asked, and in its outputs
    profile_keys = frozenset({"command", "pp_paths"})
    outputs = ("abinit.err", "abinit.abo", LOG)
    inert = COMMON_INERT | {
        "pp_paths", "autoparal", "npkpt", "np_spkpt", "npfft", "npband", "npspinor", "paral_kgb", "bandpp", "max_ncpus",
        "timopt", "mem_test", "chkexit", "iomode",
    }  # fmt: skip

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse what moves atoms, and what is no self-consistent ground state."""
        super().check(parameters, profile)
        reason = "is no single point: labels are of given positions; remove it"
        names = ("ionmov", "optcell", "geoopt", "moldyn", "imgmov", "optdriver", "rfphon", "rfelfd", "rfstrs")
        refuse(parameters, names, lambda value: value not in (0, None, "none"), reason)
        reason = "computes several data sets, of which ASE reads one; remove it"
        refuse(parameters, ("ndtset",), lambda value: value not in (0, 1, None), reason)
        reason = "keeps the density fixed: it is not self-consistent; remove it"
        refuse(parameters, ("iscf",), lambda value: isinstance(value, int) and value < 0, reason)

    def deciding(self, parameters: Values) -> Values:
        """Also without whatever is printed (``prt...``)."""
        return {key: value for key, value in super().deciding(parameters).items() if not key.lower().startswith("prt")}

    def traps(self, atoms: Any, parameters: Values) -> list[str]:
        """Metals with fixed occupations, the default."""
        given = {path[-1].lower(): value for path, value in leaves(parameters)}
        warnings = super().traps(atoms, parameters)
        if given.get("occopt", 1) in (0, 1, 2):
            warnings += find_fixed_occupations(atoms, f"occopt {given.get('occopt', 1)}", "occopt: 3, and a tsmear")
        return warnings

    def pp_paths(self, parameters: Values, profile: Values) -> list[str]:
        """Folders of the pseudopotentials."""
        given = parameters.get("pp_paths") or profile.get("pp_paths") or ase_section(self.section).get("pp_paths", "")
        given = given.splitlines() if isinstance(given, str) else given
        return [str(folder_at(path)) for path in given if path]

    def element_files(self, symbols: Iterable[str], parameters: Values, profile: Values) -> Values:
        """Contents of the pseudopotentials, chosen by ASE."""
        from ase import Atoms
        from ase.io.abinit import get_ppp_list

        folders, found = self.pp_paths(parameters, profile), {}
        for symbol in symbols:
            atoms = Atoms(symbol)
            kind, xc = parameters.get("pps", "fhi"), parameters.get("xc", "LDA")
            try:
                path = get_ppp_list(atoms, [atoms.numbers[0]], True, xc, kind, folders)[0]
            except (RuntimeError, IndexError):
                raise LabelError(
                    f"label.profile.pp_paths: {folders} hold no pseudopotential of kind `{kind}` for {symbol}; set"
                    " label.profile: {pp_paths: [...]} and label.parameters.pps"
                ) from None
            found[symbol] = content_for(symbol, Path(path), "label.profile.pp_paths")
        return found

    def files_of(self, calculator: Any, symbols: Iterable[str]) -> Values:
        """The pseudopotentials of an ``Abinit`` of a user's own."""
        return self.element_files(symbols, dict(calculator.parameters), {"pp_paths": calculator.profile.pp_paths})

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """ABINIT's ``charge`` and ``spinmagntarget``."""
        spin = {} if multiplicity is None else {"nsppol": 2, "spinmagntarget": multiplicity - 1}
        return parameters | ({"charge": charge} if charge else {}) | spin

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """With the profile's folders of pseudopotentials; ASE takes no mesh by density here."""
        from ase.calculators.abinit import AbinitProfile

        rest = {key: value for key, value in parameters.items() if key != "pp_paths"}
        if isinstance(rest.get("kpts"), dict):
            size, gamma = mesh_for(rest.pop("kpts"), atoms)
            rest |= {"ngkpt": size, "nshiftk": 1, "shiftk": [0.0] * 3} if gamma else {"kpts": size}
        place = AbinitProfile(command=self.command(profile), pp_paths=self.pp_paths(parameters, profile))
        return factory(**rest, profile=place, directory=folder)

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """By the documents of ABINIT's log."""
        text = read_text(folder / LOG)
        unconverged = UNCONVERGED.search(text) or UNCONVERGED.search(read_text(folder / "abinit.abo"))
        if unconverged:
            return Failure("unconverged", f"ABINIT: {unconverged[0]}")
        errors = ERROR.findall(text)
        if errors:
            message = MESSAGE.search(errors[-1])
            words = " ".join((message[1] if message else errors[-1]).split())[:600]
            if OF_SETTINGS.search(words):
                return Failure("config_error", f"label.parameters: ABINIT refuses them; correct them (ABINIT: {words})")
            return Failure("crashed", f"ABINIT: {words}")
        if finished and not CONVERGED.search(text + read_text(folder / "abinit.abo")):
            return Failure("unconverged", "ABINIT: its output does not say that the SCF is converged")
        if finished and END not in text + read_text(folder / "abinit.abo"):
            return Failure("crashed", f"ABINIT: its output does not say `{END}`: it is not whole")
        return None
