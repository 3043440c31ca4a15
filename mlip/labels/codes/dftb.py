"""DFTB+ through ``ase.calculators.dftb.Dftb``."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Values, is_false, read_text
from mlip.labels.codes.elements import content_for
from mlip.labels.codes.kmesh import mesh_for
from mlip.labels.codes.program import COMMON_INERT, Program, ase_section
from mlip.labels.contents import content_of, folder_at
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

OUTPUT = "dftb.out"
UNCONVERGED = re.compile(r"SCC is NOT converged[^\n]*")
RESULTS = "results.tag"
TAG = re.compile(r"^\w+ *:(?:real|integer|logical):\d+:([\d,]*)[^\n]*\n", re.MULTILINE)
ERROR = re.compile(r"ERROR!\s*\n?\s*->\s*([^\n]*)")
CONVERGENT_ONLY = re.compile(r"convergent_?scc_?only$", re.IGNORECASE)
INERT = re.compile(r"options_(write|timing)|analysis_|parallel_|parseroptions_(write|stop|ignore)", re.IGNORECASE)


def is_whole(results: str) -> bool:
    """Whether every array of numbers in DFTB+'s tagged ``results`` has as many as its head says.

    ASE reads what is there: forces of a number that is cut short.
    """
    if not results.endswith("\n"):
        return False
    parts = TAG.split(results)[1:]
    for sizes, values in zip(parts[::2], parts[1::2], strict=True):
        if len(values.split()) != math.prod(int(size) for size in sizes.split(",") if size):
            return False
    return True


class DftbPlus(Program):
    """DFTB+ stops when its SCC does not converge, unless told to go on."""

    name = "DFTB+"
    calculators = ("ase.calculators.dftb.Dftb",)
    tells_convergence = True
    mesh_names = ("kpts", "hamiltonian_kpoints")
    takes_moments = False
    section = "dftb"
    default_command = "dftb+"
    program_pattern = r"dftb\+?\S*"
    version_arguments = ()
    version_pattern = r"DFTB\+ (?:\(?[Rr]elease |development version \()([^\n)]+)"
    profile_keys = frozenset({"command", "slako_dir"})
    outputs = ("detailed.out", OUTPUT)
    inert = COMMON_INERT | {"slako_dir"}

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse what accepts unconverged results or moves atoms."""
        super().check(parameters, profile)
        for key, value in parameters.items():
            if CONVERGENT_ONLY.search(key) and is_false(value):
                raise LabelError(f"label.parameters.{key}: {value!r} accepts an SCC that did not converge; remove it")
            if key.lower().startswith("driver") and value not in ("", "{}", None):
                raise LabelError(f"label.parameters.{key}: {value!r} moves atoms; remove it")

    def deciding(self, parameters: Values) -> Values:
        """Also without what is written and analysed, and how the program runs."""
        rest = super().deciding(parameters)
        return {key: value for key, value in rest.items() if not INERT.match(key)}

    def slako_dir(self, parameters: Values, profile: Values) -> Path:
        """Folder of the Slater-Koster files: the settings', ASE's, the environment's."""
        given = parameters.get("slako_dir") or profile.get("slako_dir") or ase_section(self.section).get("skt_path")
        given = given or ase_section("environment").get("dftb_prefix") or os.environ.get("DFTB_PREFIX")
        if not given:
            raise LabelError("label.profile.slako_dir: missing; name the folder of the Slater-Koster files")
        return folder_at(given)

    def element_files(self, symbols: Iterable[str], parameters: Values, profile: Values) -> Values:
        """Contents of the Slater-Koster files of each pair; none for xTB Hamiltonians."""
        if parameters.get("Hamiltonian_", "DFTB") != "DFTB":
            return {}
        folder, found = self.slako_dir(parameters, profile), {}
        for pair in product(list(symbols), repeat=2):
            path = folder / f"{'-'.join(pair)}.skf"
            if not path.is_file():
                raise LabelError(f"label.profile.slako_dir: there is no file {path}; correct it")
            alike = pair[0] == pair[1]  # of two elements, the file does not say which
            setting = "label.profile.slako_dir"
            found["-".join(pair)] = content_for(pair[0], path, setting) if alike else content_of(path)
        return found

    def files_of(self, calculator: Any, symbols: Iterable[str]) -> Values:
        """The Slater-Koster files of a ``Dftb`` of a user's own."""
        return self.element_files(symbols, dict(calculator.parameters), {"slako_dir": calculator.slako_dir})

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """The Hamiltonian's charge; a multiplicity is refused."""
        if multiplicity is not None:
            return super().with_state(parameters, 0.0, multiplicity)
        return parameters | {"Hamiltonian_Charge": charge}

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """With its output in ``dftb.out``."""
        from ase.calculators.calculator import StandardProfile

        rest = {key: value for key, value in parameters.items() if key != "slako_dir"}
        if isinstance(rest.get("kpts"), dict):
            rest["kpts"] = mesh_for(rest["kpts"], atoms)[0]
        if rest.get("Hamiltonian_", "DFTB") == "DFTB":
            rest["slako_dir"] = f"{self.slako_dir(parameters, profile)}/"
        place = StandardProfile(self.command(profile), {"skt_path": None})
        calculator = factory(**rest, profile=place)
        calculator.directory = str(folder)
        read = calculator.read_results

        def read_checked() -> None:  # ASE removes the file once it is read
            if not is_whole(read_text(folder / RESULTS)):
                raise RuntimeError(f"DFTB+: {RESULTS} is not whole; is the disk full?")
            read()

        calculator.read_results = read_checked
        return calculator

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """By the words of DFTB+."""
        text = read_text(folder / OUTPUT)
        unconverged = UNCONVERGED.search(text)
        if unconverged:
            return Failure("unconverged", f"DFTB+: {unconverged[0]}")
        error = ERROR.search(text)
        if error:
            return Failure("config_error", f"label.parameters: DFTB+ refuses them; correct them (DFTB+: {error[1]})")
        if finished and not text:
            return Failure("crashed", f"DFTB+: there is no {OUTPUT}, so whether the SCC converged cannot be read")
        return None
